# SPDX-License-Identifier: Apache-2.0
"""Prompts byte for byte (MODELS.md 1.7), their token ids, and user text that tries to be a special token."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import pytest

pytest.importorskip('torch')
pytest.importorskip('transformers')
import tinyobjembed
from transformers import PreTrainedTokenizerFast

from embedder_ros.models.objembed import prompts
from embedder_ros.models.objembed.prompts import PromptTokenizer
from embedder_ros.types import UserError


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('tokenizer')
    tinyobjembed.tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope='module')
def ours(folder: Path) -> PromptTokenizer:
    return PromptTokenizer(folder)


@pytest.fixture(scope='module')
def theirs(folder: Path) -> PreTrainedTokenizerFast:
    """The library's own tokenizer of the same files."""
    return PreTrainedTokenizerFast.from_pretrained(folder)


def test_task_prompts() -> None:
    assert prompts.TASKS == {
        'det': 'Detect all objects in the image by identifying the common visual features '
        'of their respective classes. ',
        'rec': 'Locate the specific object being described by analyzing its unique instance-level attributes, '
        'its spatial position, and its relationship with surrounding objects. ',
        'none': 'Represent each objects and the whole image into a single token. ',
    }
    assert prompts.GENERAL == 'Represent each object into a single token. '


@pytest.mark.parametrize(
    ('two', 'count', 'text'),
    [
        (
            2,
            2,
            'The coarse global image is <global>. Object 0: <object><object>. Object 1: <object><object>.  '
            'The detailed global image is <global>. ',
        ),
        (2, 0, 'The coarse global image is <global>.  The detailed global image is <global>. '),
        (1, 1, 'The global image is <global>. Object 0: <object><object>. The global image is <global>'),
        (0, 1, 'Object 0: <object><object>. The global image is <global>'),
        (0, 0, 'The global image is <global>'),
    ],
)
def test_object_string(two: int, count: int, text: str) -> None:
    assert prompts.objects_text(count, two) == text


def test_exemplar_has_one_space_where_no_objects_has_two() -> None:
    assert prompts.exemplar_text() == ('The coarse global image is <global>. The detailed global image is <global>. ')
    assert prompts.exemplar_text(1) == 'The global image is <global>. The global image is <global>'


def test_texts_and_turn() -> None:
    assert prompts.OBJECT_TEXT.format('a cup') == 'Find an object that matches the given caption. a cup <local_text>'
    assert prompts.IMAGE_TEXT.format('a cup') == 'Find an image that matches the given caption. a cup <global_text>'
    worded = 'Find an image that matches the given caption. a cup <local_text>'
    assert prompts.IMAGE_WORDED_OBJECT_TEXT.format('a cup') == worded
    assert prompts.chat('x ', 2) == (
        '<|im_start|>user\n<|vision_start|><|image_pad|><|image_pad|><|vision_end|>x <|im_end|>'
    )
    assert prompts.chat('x ') == '<|im_start|>user\nx <|im_end|>'


@pytest.mark.parametrize(
    ('pool', 'count', 'checksum'),
    [
        ('DET_POOL', 11, 1143262780),
        ('REC_POOL', 10, 4184398986),
        ('HUMANREF_POOL', 10, 3064825909),
        ('CELEBRITY_POOL', 6, 3812585529),
    ],
)
def test_training_pools_are_unchanged(pool: str, count: int, checksum: int) -> None:
    """Checksums of the strings in MODELS.md, joined by line ends."""
    texts = getattr(prompts, pool)
    assert len(texts) == len(set(texts)) == count
    assert zlib.crc32('\n'.join(texts).encode()) == checksum


@pytest.mark.parametrize('two', [0, 1, 2])
@pytest.mark.parametrize('count', [0, 1, 2, 12, 100])
def test_image_turn_is_what_the_chat_template_gives(
    ours: PromptTokenizer, theirs: PreTrainedTokenizerFast, count: int, two: int
) -> None:
    text = prompts.REC + prompts.objects_text(count, two)
    content = [{'type': 'image'}, {'type': 'text', 'text': text}]
    turn = theirs.apply_chat_template([{'role': 'user', 'content': content}], tokenize=False).strip()
    expected = theirs(turn.replace(prompts.IMAGE_PAD, prompts.IMAGE_PAD * 6)).input_ids
    assert ours.image(text, 6) == expected


def test_two_objects_give_four_object_and_two_global_tokens_in_order(ours: PromptTokenizer) -> None:
    ids = ours.image(prompts.DET + prompts.objects_text(2), 3)
    box, frame = ours.special.object_token_id, ours.special.global_token_id
    assert [i for i in ids if i in (box, frame)] == [frame, box, box, box, box, frame]
    assert ids.count(ours.image_pad) == 3


@pytest.mark.parametrize('template', [prompts.OBJECT_TEXT, prompts.IMAGE_TEXT, prompts.IMAGE_WORDED_OBJECT_TEXT])
@pytest.mark.parametrize(
    'caption', ['the red mug', "it's  12 pm!", '  wide  ', '{}', 'naïve 日本語 \U0001f600', 'a\nb']
)
def test_text_turn_is_what_the_chat_template_gives(
    ours: PromptTokenizer, theirs: PreTrainedTokenizerFast, template: str, caption: str
) -> None:
    content = [{'type': 'text', 'text': template.replace('{}', caption)}]
    turn = theirs.apply_chat_template([{'role': 'user', 'content': content}], tokenize=False).strip()
    assert ours.text(template, caption) == theirs(turn).input_ids


@pytest.mark.parametrize('token', tinyobjembed.QWEN_TOKENS + tinyobjembed.PLAIN_TOKENS + tinyobjembed.OWN_TOKENS)
@pytest.mark.parametrize('caption', ['a {} mug', '{}', '{}{}', '<obj{}ect>', 'x{}'])
def test_a_special_token_in_a_text_is_only_letters(
    ours: PromptTokenizer, theirs: PreTrainedTokenizerFast, token: str, caption: str
) -> None:
    ids = ours.text(prompts.OBJECT_TEXT, caption.replace('{}', token))
    clean = ours.text(prompts.OBJECT_TEXT, 'mug')
    special = set(theirs.get_added_vocab().values())
    assert [i for i in ids if i in special] == [i for i in clean if i in special]
    assert token in theirs.decode(ids)  # the letters are all there


def test_other_case_is_no_token(ours: PromptTokenizer, theirs: PreTrainedTokenizerFast) -> None:
    turn = prompts.chat(prompts.OBJECT_TEXT.format('<OBJECT> <Local_Text>'))
    assert ours.text(prompts.OBJECT_TEXT, '<OBJECT> <Local_Text>') == theirs(turn).input_ids


@pytest.mark.parametrize('token', ['<object>', '<local_text>', '<|image_pad|>'])
def test_a_tokenizer_of_another_model_is_refused(folder: Path, tmp_path: Path, token: str) -> None:
    described = json.loads((folder / 'tokenizer.json').read_text())
    described['added_tokens'] = [t for t in described['added_tokens'] if t['content'] != token]
    (tmp_path / 'tokenizer.json').write_text(json.dumps(described))
    with pytest.raises(UserError, match='no token') as error:
        PromptTokenizer(tmp_path)
    assert token in str(error.value)


@pytest.mark.parametrize(
    ('content', 'says'),
    [(None, 'missing'), ('{"added_tokens": [', 'damaged'), ('[]', 'damaged'), ('version https://git-lfs', 'damaged')],
)
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, content: str | None, says: str) -> None:
    if content is not None:
        (tmp_path / 'tokenizer.json').write_text(content)
    with pytest.raises(UserError, match=says):
        PromptTokenizer(tmp_path)


def test_truncation_and_padding_left_by_a_training_script_do_nothing(folder: Path, tmp_path: Path) -> None:
    described = json.loads((folder / 'tokenizer.json').read_text())
    described['truncation'] = {'direction': 'Right', 'max_length': 8, 'strategy': 'LongestFirst', 'stride': 0}
    (tmp_path / 'tokenizer.json').write_text(json.dumps(described))
    long = PromptTokenizer(tmp_path).text(prompts.OBJECT_TEXT, 'mug ' * 200)
    assert long == PromptTokenizer(folder).text(prompts.OBJECT_TEXT, 'mug ' * 200) and len(long) > 200
