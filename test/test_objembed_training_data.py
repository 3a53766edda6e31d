# SPDX-License-Identifier: Apache-2.0
"""Records, proposals, sampled names and batches: what is read, what is refused, and what random choices depend on."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import labelledblocks
import numpy as np
import pytest

pytest.importorskip('torch')

from embedder_ros.training.objembed.batch import TEXTS, DataSet, Example, Task, collate  # noqa: E402
from embedder_ros.training.objembed.data import (  # noqa: E402
    Vocabulary,
    read_proposals,
    read_records,
    read_vocabulary,
)
from embedder_ros.training.objembed.sampler import Batches  # noqa: E402
from embedder_ros.types import UserError  # noqa: E402

GOOD: dict[str, Any] = {'image': 'a.png', 'objects': [{'label': 'mug', 'bbox': [1, 2, 30, 40]}]}
NAMES = Vocabulary(dict.fromkeys((f'name {n}' for n in range(60)), 1.0))


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.fixture
def blocks(tmp_path: Path) -> DataSet:
    folder = labelledblocks.write(tmp_path / 'blocks')
    proposals = read_proposals(folder / 'proposals.json')
    return DataSet(read_records(folder / 'data.json'), folder / 'images', proposals, NAMES)


def examples(source: DataSet, count: int = 3, extra: int = 20, seed: int = 0) -> list[Example]:
    return [source.example(i, extra=extra, rng=np.random.default_rng([seed, i])) for i in range(count)]


def test_list_and_lines_hold_the_same_records(tmp_path: Path) -> None:
    second = GOOD | {'objects': [{'label': ['cup', 'mug'], 'bbox': [0, 0, 5, 5]}], 'negs': ['cup', ' plate ']}
    second['captions'] = {'short_caption': 'a cup', 'long_caption': None}
    lines = '\n'.join(map(json.dumps, [GOOD, second])) + '\n\n'
    for path in (written(tmp_path / 'a.json', [GOOD, second]), written(tmp_path / 'a.jsonl', lines)):
        one, two = read_records(path)
        assert one.labels == ('mug',) and one.boxes.tolist() == [[1, 2, 30, 40]] and one.captions == ('', '')
        assert two.labels == ('cup',), 'the first of a list of names'
        assert two.negatives == ('plate',), 'not what the image shows'
        assert two.captions == ('a cup', '')


@pytest.mark.parametrize(
    ('record', 'says'),
    [
        ({'objects': []}, 'names no image'),
        (GOOD | {'objects': 'mug'}, 'objects must be a list'),
        (GOOD | {'objects': [{'label': '', 'bbox': [0, 0, 1, 1]}]}, 'is empty'),
        (GOOD | {'objects': [{'label': [], 'bbox': [0, 0, 1, 1]}]}, 'no text'),
        (GOOD | {'objects': [{'label': 7, 'bbox': [0, 0, 1, 1]}]}, 'no text'),
        (GOOD | {'objects': [{'bbox': [0, 0, 1, 1]}]}, 'no text'),
        (GOOD | {'objects': [{'label': 'mug'}]}, 'four numbers'),
        (GOOD | {'objects': [{'label': 'mug', 'bbox': [0, 0, 1]}]}, 'four numbers'),
        (GOOD | {'objects': [{'label': 'mug', 'bbox': [0, 0, float('nan'), 1]}]}, 'four numbers'),
        (GOOD | {'objects': [{'label': 'mug', 'bbox': [50, 50, 20, 20]}]}, 'not width and height'),
        (GOOD | {'negs': 'plate'}, 'negs must be a list'),
        (GOOD | {'captions': 'a mug'}, 'captions must be'),
        (GOOD | {'captions': {'long_caption': 'x' * 5000}}, 'characters'),
        ('mug', 'names no image'),
    ],
)
def test_bad_records_are_named_with_their_line(tmp_path: Path, record: Any, says: str) -> None:
    lines = '\n'.join(map(json.dumps, [GOOD, record]))
    with pytest.raises(UserError, match=rf'(?s)line 2.*{says}'):
        read_records(written(tmp_path / 'a.jsonl', lines))
    with pytest.raises(UserError, match=rf'(?s)record 2.*{says}'):
        read_records(written(tmp_path / 'a.json', [GOOD, record]))


@pytest.mark.parametrize(
    ('name', 'content', 'says'),
    [
        ('a.json', '[{]', 'no JSON'),
        ('a.json', '{}\n{}', 'name it .jsonl'),
        ('a.json', '{}', 'must be a list'),
        ('a.json', '[]', 'holds no record'),
        ('a.jsonl', json.dumps(GOOD) + '\n{"image":', 'line 2 is no JSON'),
    ],
)
def test_bad_files_are_told(tmp_path: Path, name: str, content: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_records(written(tmp_path / name, content))


def test_missing_file_and_binary_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='cannot be read'):
        read_records(tmp_path / 'none.json')
    (tmp_path / 'b.json').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(UserError, match='UTF-8'):
        read_records(tmp_path / 'b.json')


def test_both_layouts_of_proposals(tmp_path: Path) -> None:
    two = [[0, 0, 1, 1], [2, 2, 3, 3.5]]
    content = {'plain': two, 'scored': [two, [0.9, 0.1]], 'none': [], 'none scored': [[], []]}
    boxes = read_proposals(written(tmp_path / 'p.json', content))
    assert boxes['plain'].tolist() == boxes['scored'].tolist() == two
    assert boxes['none'].shape == boxes['none scored'].shape == (0, 4)
    for bad in ([[0, 0, 1]], [two, 0.5], [[0, 0, 1, None]], {'boxes': two}):
        with pytest.raises(UserError, match="image 'x'"):
            read_proposals(written(tmp_path / 'p.json', {'x': bad}))
    with pytest.raises(UserError, match='must map'):
        read_proposals(written(tmp_path / 'p.json', two))


def test_names_are_drawn_once_each_and_never_those_left_out() -> None:
    names = Vocabulary(dict.fromkeys('abcdefgh', 1.0))
    for seed in range(20):
        drawn = names.draw(5, {'a', 'b', 'zebra'}, np.random.default_rng(seed))
        assert len(set(drawn)) == 5 and not {'a', 'b'} & set(drawn)
    assert sorted(names.draw(99, {'a'}, np.random.default_rng(0))) == list('bcdefgh')
    assert Vocabulary({}).draw(3, set(), np.random.default_rng(0)) == []


def test_federated_names_are_drawn_by_the_root_of_their_images(tmp_path: Path) -> None:
    record = read_records(written(tmp_path / 'a.json', [GOOD]))[0]
    records = [replace(record, labels=('common',))] * 100 + [replace(record, labels=('rare', 'rare'))]
    for federated, share in ((True, 10 / 11), (False, 1 / 2)):
        vocabulary, rng = Vocabulary.of(records, federated=federated), np.random.default_rng(0)
        drawn = Counter(vocabulary.draw(1, set(), rng)[0] for _ in range(4000))
        assert drawn['common'] / 4000 == pytest.approx(share, abs=0.03)


def test_vocabulary_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    assert sorted(read_vocabulary(written(tmp_path / 'v.txt', 'mug\n\n cup \n')).draw(9, set(), rng)) == ['cup', 'mug']
    counted = read_vocabulary(written(tmp_path / 'v.json', {'mug': 400, 'cup': 4}))
    assert Counter(counted.draw(1, set(), rng)[0] for _ in range(2000))['mug'] / 2000 == pytest.approx(
        10 / 11, abs=0.03
    )
    with pytest.raises(UserError, match='number of images'):
        read_vocabulary(written(tmp_path / 'v.json', ['mug']))


def test_ten_texts_per_image_labels_first(blocks: DataSet) -> None:
    for example, record in zip(examples(blocks), blocks.records, strict=False):
        asked = example.texts.asked
        assert len(asked) == len(set(asked)) == TEXTS and asked[:2] == record.labels
        assert len(example.texts.extra) == 20 and not set(example.texts.extra) & set(asked)


def test_too_many_labels_drop_objects(blocks: DataSet) -> None:
    many = tuple(f'thing {n}' for n in range(14))
    record = replace(blocks.records[0], labels=many, boxes=np.tile(blocks.records[0].boxes, (7, 1)))
    source = replace(blocks, records=[record])
    example = source.example(0, extra=5, rng=np.random.default_rng(0))
    assert len(example.texts.asked) == TEXTS and set(example.texts.asked) < set(many)
    assert set(example.names) == set(example.texts.asked)
    assert not set(example.texts.extra) & set(many)


def test_equal_texts_of_a_batch_are_one_column_and_gaps_are_filled(blocks: DataSet) -> None:
    some = examples(blocks)
    batch = collate(some)
    assert len(batch.texts) == len(set(batch.texts)) == 3 * TEXTS
    asked = {text for e in some for text in e.texts.asked}
    assert len(asked) < 3 * TEXTS and asked <= set(batch.texts)
    assert batch.targets.shape == batch.mask.shape == (sum(len(e.boxes) for e in some), 3 * TEXTS)
    start = 0
    for example in some:
        for name, row in zip(example.names, example.labels.row, strict=True):
            assert batch.targets[start + row, batch.texts.index(name)] == 1
        start += len(example.boxes)
    assert batch.targets.sum() == 6
    assert (batch.mask == batch.mask[:, :1]).all(), 'a row is compared with all texts or none'
    assert (batch.mask[batch.targets.sum(1) > 0] == 1).all()


def test_people_are_not_compared_with_names_of_other_images(blocks: DataSet) -> None:
    some = examples(blocks, 2)
    batch = collate(some, apart=True)
    assert len(batch.texts) == 2 * TEXTS and batch.texts[TEXTS] == some[1].names[0]
    cut = len(some[0].boxes)
    said = batch.mask.max(1).values > 0
    assert (batch.mask[:cut, TEXTS] == 0).all() and (batch.mask[cut:, 0] == 0).all()
    assert (batch.mask[:cut][said[:cut]].sum(1) == 2 * TEXTS - 1).all()
    assert (batch.mask[cut:][said[cut:]][:, TEXTS] == 1).all()
    assert batch.targets[:cut, :TEXTS].sum() == 2 and batch.targets[cut:, TEXTS:].sum() == 2


def test_an_image_without_labels_says_nothing(blocks: DataSet) -> None:
    empty = replace(blocks.records[0], labels=(), boxes=np.zeros((0, 4), np.float32))
    batch = collate(examples(replace(blocks, records=[empty, *blocks.records[1:]]), 2))
    rows = len(batch.examples[0].boxes)
    assert rows == 4 and not batch.mask[:rows].any() and batch.mask[rows:].any()


def test_examples_follow_the_seed(blocks: DataSet) -> None:
    one, again, other = examples(blocks), examples(blocks), examples(blocks, seed=1)
    assert [e.texts for e in one] == [e.texts for e in again] != [e.texts for e in other]
    np.testing.assert_array_equal(one[0].boxes, again[0].boxes)
    prompts = {
        source.example(0, extra=0, rng=np.random.default_rng(s)).prompt for s in range(60) for source in [blocks]
    }
    assert prompts == set(Task.REC.value)
    assert examples(replace(blocks, task=Task.NONE))[0].prompt == 'Represent each object into a single token. '


@pytest.mark.parametrize('trouble', ['missing', 'proposals', 'outside', 'no image'])
def test_wrong_data_is_told_before_training(blocks: DataSet, trouble: str) -> None:
    blocks.check()
    record = blocks.records[1]
    if trouble == 'missing':
        (blocks.images / record.image).unlink()
    elif trouble == 'no image':
        (blocks.images / record.image).write_text('no')
    elif trouble == 'proposals':
        blocks = replace(blocks, proposals={k: v for k, v in blocks.proposals.items() if k != record.image})
    else:
        wide = replace(record, boxes=record.boxes + 500)
        blocks = replace(blocks, records=[blocks.records[0], wide])
    with pytest.raises(UserError, match=r'record 2|1\.png'):
        blocks.check()


def test_a_batch_is_of_one_data_set_and_incomplete_ones_are_dropped() -> None:
    batches = Batches([7, 4, 9], 2, seed=3)
    assert len(batches) == 3 + 2 + 4
    first, second = ([batches[n] for n in range(e * 9, e * 9 + 9)] for e in (0, 1))
    for epoch, drawn in enumerate((first, second)):
        seen = [(b.dataset, r) for b in drawn for r in b.records]
        assert len(set(seen)) == len(seen) == 18 and all(b.epoch == epoch and len(b.records) == 2 for b in drawn)
        assert Counter(b.dataset for b in drawn) == {0: 3, 1: 2, 2: 4}
    assert [b.records for b in first] != [b.records for b in second]
    again = Batches([7, 4, 9], 2, seed=3)
    assert [again[n] for n in (12, 3)] == [batches[12], batches[3]], 'by number, in any order'
    assert [b[1:] for b in first] != [Batches([7, 4, 9], 2, seed=4)[n][1:] for n in range(9)]


def test_processes_share_a_batch() -> None:
    parts = [Batches([9, 8], 2, seed=0, rank=rank, processes=2) for rank in range(2)]
    whole = Batches([9, 8], 4, seed=0)
    for number in range(len(whole)):
        assert parts[0][number].dataset == parts[1][number].dataset == whole[number].dataset
        assert parts[0][number].records + parts[1][number].records == whole[number].records


def test_a_data_set_smaller_than_a_batch_is_told() -> None:
    with pytest.raises(UserError, match='data set 2 has 1 records'):
        Batches([5, 1], 2, seed=0)
