# SPDX-License-Identifier: Apache-2.0
"""What every store promises, on SQLite in a file, SQLite in RAM, and a real PostgreSQL server with pgvector."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from memorytest import CALIBRATION, DIM, JPEG, MAP, MODEL, Postgres, brute_force, frame, postgres_server, thing, vectors

from embedder_ros.memory import codec
from embedder_ros.memory.open import open_store
from embedder_ros.memory.store import Filter, Store
from embedder_ros.types import ModelInfo, Object, UserError, unit_rows

ALL = Filter()
Opener = Callable[..., Store]


@pytest.fixture(scope='module')
def server() -> Iterator[Postgres]:
    with postgres_server() as running:
        yield running


@pytest.fixture(params=['file', 'ram', 'postgres'])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same empty memory again and again."""
    kind = request.param
    url = {'file': str(tmp_path / 'objects.db'), 'ram': ''}.get(kind)
    if url is None:
        url = request.getfixturevalue('server').new_url()
    stores: list[Store] = []

    def start(map_id: str = MAP, model: ModelInfo = MODEL) -> Store:
        if kind != 'postgres':
            for store in stores:
                store.close()
        stores.append(open_store(url, map_id, model, capacity=100))
        return stores[-1]

    start.kind = kind  # type: ignore[attr-defined]
    start.url = url  # type: ignore[attr-defined]
    yield start
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Opener) -> Store:
    return opened()


def same(a: Object, b: Object) -> None:
    """Equal, but for the rounding of embeddings."""
    for name in Object.__dataclass_fields__:
        left, right = getattr(a, name), getattr(b, name)
        if name == 'views':
            assert len(left) == len(right)
            for v, w in zip(left, right, strict=True):
                np.testing.assert_allclose(v.embedding, w.embedding, atol=1e-3)
                assert abs(float(np.linalg.norm(w.embedding)) - 1) < 1e-5
                np.testing.assert_array_equal(v.box, w.box)
                assert replace(v, embedding=None, box=None) == replace(w, embedding=None, box=None) or all(
                    getattr(v, f) == getattr(w, f)
                    for f in ('stamp', 'camera', 'width', 'height', 'iou', 'objectness', 'thumbnail')
                )
        elif isinstance(left, np.ndarray):
            np.testing.assert_array_equal(left, right)
        else:
            assert left == right, name


def ids(found: list[Object]) -> list[str]:
    return [o.object_id for o in found]


def many(count: int, views: int = 2, seed: int = 0) -> list[Object]:
    rows = vectors(count * views, seed).reshape(count, views, DIM)
    return [
        thing(f'thing {i:04}', *rows[i], last_seen=1000 + i, camera=f'camera {i % 3}', name='mug' if i % 5 == 0 else '')
        for i in range(count)
    ]


def test_an_object_comes_back_as_it_was_put(store: Store) -> None:
    full = thing(
        'full', *vectors(3), position=np.array([1.5, -2.0, 0.25]), position_frame='map', frame_id='optical',
        presence=0.5, name='the red mug', labels=('mug', 'cup'), pinned=True, sighting_count=99,
    )  # fmt: skip
    bare = thing('bare')
    store.put([full, bare])
    same(full, store.get('full'))
    same(bare, store.get('bare'))
    assert store.get('none') is None
    assert store.count() == (2, 0)


def test_every_float16_is_read_as_numpy_reads_it() -> None:
    halves = np.arange(2**16, dtype=np.uint16).view('<f2')
    halves = halves[np.isfinite(halves)]
    np.testing.assert_array_equal(codec._singles(halves.view('<i2')), halves.astype(np.float32))


def test_putting_what_came_back_changes_nothing(store: Store) -> None:
    store.put([thing('a', *vectors(3))])
    first = store.get('a')
    store.put([first])
    second = store.get('a')
    for v, w in zip(first.views, second.views, strict=True):
        np.testing.assert_array_equal(v.embedding, w.embedding)


def test_an_update_replaces_views_and_keeps_the_others(store: Store) -> None:
    a, b, c, d = vectors(4)
    store.put([thing('x', a, b, c), thing('y', d)])
    old = store.get('x')
    added = thing('x', a, b, c, d)
    new = replace(added, views=(added.views[3], added.views[2], added.views[0]), last_seen=5000, name='renamed')
    store.put([new])
    same(new, store.get('x'))
    assert not store.search(b[None], 1, Filter(text='renamed'))[0][0].cosine > 0.999, 'the view that went is found'
    hit = store.search(d[None], 1, Filter(text='renamed'))[0][0]
    assert (hit.object_id, hit.view) == ('x', 0) and hit.cosine > 0.999
    assert store.search(a[None], 1, ALL)[0][0].view == 2
    assert old.views[0].thumbnail != new.views[0].thumbnail
    assert store.count() == (2, 0)


def test_the_last_of_two_with_one_id_stays(store: Store) -> None:
    a, b = vectors(2)
    store.put([thing('x', a, last_seen=1), thing('x', b, last_seen=2)])
    assert store.get('x').last_seen == 2
    assert store.count() == (1, 0)


@pytest.mark.parametrize('identity', [False, True])
@pytest.mark.parametrize(
    'which',
    [
        ALL,
        Filter(since=1100),
        Filter(until=1100),
        Filter(since=1290, until=1292),
        Filter(cameras=('camera 1',)),
        Filter(cameras=('camera 0', 'camera 2'), since=1200),
        Filter(text='MUG'),
        Filter(text='mug', cameras=('camera 1',), since=1050, until=1250),
    ],
)
def test_search_finds_what_brute_force_finds(store: Store, which: Filter, identity: bool) -> None:
    store.put(many(300))
    stored = [store.get(f'thing {i:04}') for i in range(300)]
    counting = [
        o
        for o in stored
        if (not which.since or o.last_seen >= which.since)
        and (not which.until or o.last_seen < which.until)
        and (not which.cameras or o.camera in which.cameras)
        and which.text.lower() in o.name
    ]
    assert counting
    queries = vectors(20, seed=1)
    for found, query in zip(store.search(queries, 7, which, identity=identity), queries, strict=True):
        truth = brute_force(counting, query, identity)
        expected = sorted(truth.values(), reverse=True)[:7]
        assert len(found) == len(expected)
        np.testing.assert_allclose([h.cosine for h in found], expected, atol=1e-3)
        np.testing.assert_allclose([truth[h.object_id] for h in found], expected, atol=1e-3)
        assert len({h.object_id for h in found}) == len(found), 'an object twice'


def test_a_hit_tells_the_nearest_view(store: Store) -> None:
    a, b, c = vectors(3)
    store.put([thing('x', a, b, c), thing('y', unit_rows((a + b)[None])[0])])
    assert [store.search(v[None], 1, ALL)[0][0].view for v in (a, b, c)] == [0, 1, 2]


def test_a_filter_that_leaves_nothing_finds_nothing(store: Store) -> None:
    store.put(many(10))
    for which in (Filter(since=10**9), Filter(cameras=('nowhere',)), Filter(text='zebra')):
        assert store.search(vectors(2), 3, which) == [[], []]
        assert store.objects(which, 10) == ([], 0)
    assert store.search(vectors(2), 0, ALL) == [[], []]


def test_an_empty_memory_answers(store: Store) -> None:
    assert store.search(vectors(2), 3, ALL) == [[], []]
    assert store.objects(ALL, 10) == ([], 0)
    assert store.count() == (0, 0)
    assert store.places().object_ids == [] and store.places().positions.shape == (0, 3)
    assert store.search_frames(vectors(1)[0], 3, ALL) == []
    assert store.get_frame('front', 1) is None
    assert store.drop_frames(10**9) == 0
    assert store.clear() == 0
    store.put([])


def test_pages_list_every_object_once_newest_first(store: Store) -> None:
    store.put([replace(o, last_seen=1000 + i // 10) for i, o in enumerate(many(45))])
    pages = [store.objects(ALL, 10, offset) for offset in range(0, 60, 10)]
    assert [total for _, total in pages] == [45] * 6
    listed = [o for page, _ in pages for o in page]
    assert len(set(ids(listed))) == len(listed) == 45
    assert [o.last_seen for o in listed] == sorted((o.last_seen for o in listed), reverse=True)
    found, total = store.objects(Filter(text='mug', cameras=('camera 0',)), 2)
    assert (len(found), total) == (2, 3)
    same(found[0], store.get(found[0].object_id))


def test_names_in_any_script_are_found_ignoring_case(store: Store) -> None:
    names = {'a': 'Große Tasse', 'b': 'ЧАШКА 🍵', 'c': '马克杯', 'd': "O'Brien; DROP TABLE objects", 'e': '100%_\\'}
    store.put([thing(i, v, name=n, labels=('étagère',)) for (i, n), v in zip(names.items(), vectors(5), strict=True)])
    for text, expected in (
        ('GROSSE', ['a']), ('чашка', ['b']), ('🍵', ['b']), ('克', ['c']), ("o'brien;", ['d']), ('%_\\', ['e']),
        ('ÉTAG', ['a', 'b', 'c', 'd', 'e']), ('%', ['e']), ('_', ['e']),
    ):  # fmt: skip
        found, total = store.objects(Filter(text=text), 10)
        assert sorted(ids(found)) == expected and total == len(expected), text
        assert sorted(h.object_id for h in store.search(vectors(1), 10, Filter(text=text))[0]) == expected
    assert {o.object_id: o.name for o in store.objects(ALL, 10)[0]} == names


def test_ids_in_any_script(store: Store) -> None:
    store.put([thing('物-1 🍵', vectors(1)[0], camera='caméra')])
    assert store.search(vectors(1), 1, Filter(cameras=('caméra',)))[0][0].object_id == '物-1 🍵'
    assert store.forget(['物-1 🍵']) == []


def test_places_lists_objects_with_a_position(store: Store) -> None:
    a, b, c = vectors(3)
    at = np.array([1.0, 2.0, 3.5])
    store.put(
        [
            thing('a', a, position=at, position_frame='map', presence=0.25, last_seen=10),
            thing('b', b),
            thing('c', c, position=-at, position_frame='odom'),
        ]
    )
    places = store.places()
    order = np.argsort(places.object_ids)
    assert [places.object_ids[i] for i in order] == ['a', 'c']
    assert [places.frames[i] for i in order] == ['map', 'odom']
    np.testing.assert_array_equal(places.positions[order], [at, -at])
    assert places.last_seen[order[0]] == 10 and places.presence[order[0]] == np.float32(0.25)


def test_forget_takes_objects_everywhere_and_names_unknown_ids(store: Store) -> None:
    rows = vectors(4)
    store.put([thing(i, r) for i, r in zip('abcd', rows, strict=True)])
    store.put_frame(frame(5, rows[:3], ('a', 'b', '')))
    store.put_frame(frame(6, rows[2:], ('c', 'd')))
    assert store.forget(['b', 'nobody', 'b', 'd']) == ['nobody']
    assert store.count() == (2, 2)
    assert store.get('b') is None
    assert {h.object_id for h in store.search(rows[1][None], 9, ALL)[0]} == {'a', 'c'}
    assert {h.object_id for h in store.search(rows[1][None], 9, ALL, identity=True)[0]} == {'a', 'c'}
    changed = store.get_frame('front', 5)
    assert changed.object_ids == ('a', '') and changed.thumbnail == b''
    np.testing.assert_allclose(changed.embeddings, rows[[0, 2]], atol=1e-3)
    np.testing.assert_array_equal(changed.boxes, frame(5, rows[:3]).boxes[[0, 2]])
    np.testing.assert_array_equal(changed.iou, frame(5, rows[:3]).iou[[0, 2]])
    assert store.search_frames(rows[1], 1, Filter(until=6))[0].cosine < 0.99
    assert store.search_frames(rows[2], 1, Filter(until=6))[0].row == 1
    assert store.get_frame('front', 6).object_ids == ('c',)
    assert store.forget(['b']) == ['b']
    assert store.forget([]) == []


def test_a_forgotten_frame_row_leaves_no_vector_of_others(store: Store) -> None:
    rows = vectors(3)
    store.put([thing('a', rows[0])])
    store.put_frame(frame(5, rows[:1], ('a',)))
    store.forget(['a'])
    emptied = store.get_frame('front', 5)
    assert emptied.embeddings.shape == (0, DIM) and emptied.boxes.shape == (0, 4) and emptied.object_ids == ()
    assert store.search_frames(rows[0], 3, ALL) == []


def test_clear_empties_this_map_and_model_alone(opened: Opener) -> None:
    if opened.kind == 'ram':
        pytest.skip('RAM holds one map and model')
    store = opened('garden')
    store.put([replace(o, map_id='garden') for o in many(5)])
    store.put_frame(frame(1, vectors(2)))
    store = opened()
    store.put(many(7))
    store.put_frame(frame(1, vectors(2)))
    assert store.clear() == 7
    assert store.count() == (0, 0)
    assert store.search(vectors(1), 3, ALL) == [[]]
    store.put(many(3))
    assert len(store.search(vectors(1), 9, ALL)[0]) == 3
    assert opened('garden').count() == (5, 1)


def test_slots_of_forgotten_objects_are_used_again(store: Store) -> None:
    for round_ in range(5):
        objects = many(30, seed=round_)
        store.put([replace(o, object_id=f'{round_} {o.object_id}') for o in objects])
        if round_:
            assert store.forget([f'{round_ - 1} {o.object_id}' for o in objects]) == []
        hits = store.search(objects[3].views[1].embedding[None], 30, ALL)[0]
        assert hits[0].object_id == f'{round_} thing 0003' and hits[0].view == 1
        assert len({h.object_id for h in hits}) == 30


def test_frames_come_back_and_are_searched(store: Store) -> None:
    rows = vectors(12, seed=3)
    whole = vectors(6, seed=4)
    for i in range(3):
        camera = ('front', 'rear')[i % 2]
        store.put_frame(
            frame(
                10 + i, rows[4 * i : 4 * i + 4], ('', 'a', '', 'b'), camera, frame_embeddings=whole[2 * i : 2 * i + 2]
            )
        )
    back = store.get_frame('rear', 11)
    assert back.object_ids == ('', 'a', '', 'b') and back.thumbnail == JPEG + b'frame 11'
    assert (back.frame_id, back.width, back.height) == ('optical', 640, 480)
    np.testing.assert_allclose(back.embeddings, rows[4:8], atol=1e-3)
    np.testing.assert_allclose(back.frame_embeddings, whole[2:4], atol=1e-3)
    np.testing.assert_array_equal(back.iou, frame(11, rows[4:8]).iou)
    hits = store.search_frames(rows[6], 3, ALL)
    assert (hits[0].camera, hits[0].stamp, hits[0].row) == ('rear', 11, 2) and hits[0].cosine > 0.999
    assert len(hits) == 3 and len({h.stamp for h in hits}) == 3
    assert [h.cosine for h in hits] == sorted((h.cosine for h in hits), reverse=True)
    assert [h.stamp for h in store.search_frames(rows[6], 3, Filter(cameras=('front',)))] != []
    assert all(h.camera == 'front' for h in store.search_frames(rows[6], 3, Filter(cameras=('front',))))
    for row in (0, 1):
        best = store.search_frames(whole[4 + row], 1, ALL, row=row)[0]
        assert (best.stamp, best.row) == (12, -1) and best.cosine > 0.999
        assert store.search_frames(whole[5 - row], 1, ALL, row=row)[0].cosine < 0.99
    assert store.search_frames(rows[0], 3, Filter(since=11, until=12))[0].stamp == 11


def test_a_frame_is_replaced_and_old_ones_are_dropped(store: Store) -> None:
    rows = vectors(4)
    for stamp in range(10):
        store.put_frame(frame(stamp, rows[:2]))
    store.put_frame(frame(9, rows[2:], ('a', 'b'), thumbnail=b''))
    assert store.count() == (0, 10)
    assert store.get_frame('front', 9).object_ids == ('a', 'b') and store.get_frame('front', 9).thumbnail == b''
    assert store.drop_frames(before=7) == 7
    assert store.count() == (0, 3)
    assert {h.stamp for h in store.search_frames(rows[0], 99, ALL)} == {7, 8, 9}


def test_frames_of_a_model_without_frame_embeddings(store: Store) -> None:
    none = np.zeros((0, DIM), np.float32)
    store.put_frame(frame(1, vectors(2), frame_embeddings=none))
    store.put_frame(frame(2, none, frame_embeddings=none, boxes=np.zeros((0, 4), np.float32)))
    assert store.get_frame('front', 2).embeddings.shape == (0, DIM)
    assert store.get_frame('front', 1).frame_embeddings.shape == (0, DIM)
    assert store.search_frames(vectors(1)[0], 3, ALL, row=0) == []
    assert [h.stamp for h in store.search_frames(vectors(1)[0], 3, ALL)] == [1]


def test_everything_is_there_after_opening_again(opened: Opener) -> None:
    if opened.kind == 'ram':
        pytest.skip('RAM is forgotten at the end')
    store = opened()
    store.put(many(50, views=3))
    shuffled = store.get('thing 0007')
    store.put([replace(shuffled, views=shuffled.views[::-1])])
    store.forget(['thing 0003'])
    store.put_frame(frame(1, vectors(2)))
    queries = vectors(5, seed=9)
    before = [store.search(queries, 9, which, identity=i) for which in (ALL, Filter(text='mug')) for i in (0, 1)]
    store.close()
    store.close()
    again = opened()
    after = [again.search(queries, 9, which, identity=i) for which in (ALL, Filter(text='mug')) for i in (0, 1)]
    for one, two in zip(before, after, strict=True):
        for hits, later in zip(one, two, strict=True):
            assert [(h.object_id, h.view) for h in hits] == [(h.object_id, h.view) for h in later]
            np.testing.assert_allclose([h.cosine for h in hits], [h.cosine for h in later], atol=1e-6)
    assert again.count() == (49, 1)
    with pytest.raises(UserError, match='open'):
        store.get('thing 0001')


def test_maps_and_models_never_mix(opened: Opener, caplog: pytest.LogCaptureFixture) -> None:
    if opened.kind == 'ram':
        pytest.skip('RAM holds one map and model')
    row = vectors(1)
    opened().put([thing('mug', row[0])])
    garden = opened('garden')
    garden.put([thing('mug', row[0], map_id='garden', name='garden mug')])
    retrained = ModelInfo('nano-2', 32, CALIBRATION)
    with caplog.at_level(logging.WARNING):
        other = opened(model=retrained)
    assert "by model 'nano-2'" in caplog.text and "1 objects of map 'house' by model 'nano-1' are kept" in caplog.text
    assert {(o.map_id, o.model_id, o.objects) for o in other.others} == {
        ('house', 'nano-1', 1),
        ('garden', 'nano-1', 1),
    }
    assert other.count() == (0, 0) and other.get('mug') is None
    assert other.search(vectors(1, dim=32), 5, ALL) == [[]]
    with pytest.raises(UserError, match="embedded by model 'nano-1' and this memory compares 'nano-2'.*embed"):
        other.put([thing('mug', row[0])])
    with pytest.raises(UserError, match='32 numbers'):
        other.search(row, 1, ALL)
    with pytest.raises(UserError, match="belongs to map 'garden'.*open that map's memory"):
        opened().put([thing('cup', row[0], map_id='garden')])
    house = opened()
    assert house.get('mug').name == ''
    house.forget(['mug'])
    assert opened('garden').get('mug').name == 'garden mug'


def test_a_model_that_changed_its_length_is_refused(opened: Opener) -> None:
    if opened.kind == 'ram':
        pytest.skip('RAM holds one map and model')
    opened()
    with pytest.raises(UserError, match='vectors of 48 numbers.*now gives 32'):
        opened(model=replace(MODEL, dim=32, identity_view=None))


_EYE = np.eye(DIM, dtype=np.float32)
VIEWS = {
    'whole': None,
    'dense': np.random.default_rng(5).standard_normal((DIM, 7)).astype(np.float32),
    'picked together': _EYE[:, 5:12],
    'picked apart': _EYE[:, [9, 2, 30, 31]],
    'stretched': _EYE[:, 5:12] * np.arange(1, 8, dtype=np.float32),
    'one twice': _EYE[:, [4, 4, 6]],
}


@pytest.mark.parametrize('view', VIEWS)
def test_identity_by_any_linear_view(opened: Opener, view: str) -> None:
    model = replace(MODEL, identity_view=VIEWS[view])
    store = opened(model=model)
    rows = vectors(60)
    product = rows if VIEWS[view] is None else unit_rows(rows @ VIEWS[view])
    np.testing.assert_allclose(model.identity(rows), product, atol=1e-6)
    store.put([thing(f'{i}', row) for i, row in enumerate(rows)])
    query = vectors(1, seed=8)
    truth = (model.identity(rows) @ model.identity(query)[0]).tolist()
    hits = store.search(query, 5, ALL, identity=True)[0]
    np.testing.assert_allclose([h.cosine for h in hits], sorted(truth, reverse=True)[:5], atol=2e-3)
    np.testing.assert_allclose([truth[int(h.object_id)] for h in hits], [h.cosine for h in hits], atol=2e-3)


BAD = {
    'NaN': (np.full(DIM, np.nan, np.float32), 'not finite'),
    'infinity': (np.full(DIM, np.inf, np.float32), 'not finite'),
    'not unit': (2 * vectors(1)[0], 'length 2 instead of 1; normalise'),
    'zero': (np.zeros(DIM, np.float32), 'length 0 instead of 1'),
    'short': (vectors(1, dim=32)[0], '48 numbers'),
    'matrix': (vectors(2), '48 numbers'),
}


@pytest.mark.parametrize('name', BAD)
def test_a_bad_vector_is_refused_and_nothing_of_the_call_is_written(store: Store, name: str) -> None:
    bad, message = BAD[name]
    good = vectors(2)
    store.put([thing('before', good[0])])
    with pytest.raises(UserError, match=f"object 'worse'.*{message}"):
        store.put([thing('new', good[1]), thing('worse', good[0], bad), thing('before', good[1])])
    assert store.count() == (1, 0)
    np.testing.assert_allclose(store.get('before').views[0].embedding, good[0], atol=1e-3)
    with pytest.raises(UserError):
        store.search(np.atleast_2d(bad), 3, ALL) if bad.ndim == 1 else store.search(bad[None], 3, ALL)
    with pytest.raises(UserError):
        store.put_frame(frame(1, np.atleast_2d(bad) if bad.ndim == 1 else bad[None]))
    with pytest.raises(UserError):
        store.search_frames(bad, 3, ALL)
    assert store.count() == (1, 0)
    assert store.search(good[:1], 3, ALL)[0][0].object_id == 'before'


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'object_id': ''}, 'without an id'),
        ({'object_id': 'a\0b'}, 'NUL'),
        ({'object_id': '\ud800'}, 'Unicode'),
        ({'camera': '\ud800'}, 'Unicode'),
        ({'box': np.array([1, 2, np.nan, 4], np.float32)}, 'four finite numbers'),
        ({'box': np.zeros(3, np.float32)}, 'four finite numbers'),
        ({'position': np.array([1.0, np.inf, 2.0])}, 'three finite metres'),
    ],
)
def test_other_bad_content_is_refused(store: Store, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        store.put([replace(thing('x', vectors(1)[0]), **changes)])
    assert store.count() == (0, 0)


def test_a_name_with_strange_characters_is_kept(store: Store) -> None:
    name = 'mug\0 \ud800'
    store.put([thing('x', vectors(1)[0], name=name)])
    assert store.get('x').name == name
    assert store.objects(Filter(text='mug'), 1)[1] == 1


@pytest.mark.parametrize('strange', ['\ud800', 'a\0b'])
def test_asking_for_what_no_database_holds_finds_nothing(store: Store, strange: str) -> None:
    store.put([thing('x', vectors(1)[0])])
    assert store.get(strange) is None and store.get_frame(strange, 1) is None
    assert store.forget([strange]) == [strange]
    for which in (Filter(cameras=(strange,)), Filter(cameras=(strange, 'nowhere'))):
        assert store.objects(which, 9) == ([], 0)
        assert store.search(vectors(1), 9, which) == [[]]
        assert store.search_frames(vectors(1)[0], 9, which) == []


def test_a_frame_whose_parts_do_not_fit_is_refused(store: Store) -> None:
    with pytest.raises(UserError, match='2 embeddings; give as many boxes'):
        store.put_frame(frame(1, vectors(2), ids=('a',)))
    with pytest.raises(UserError, match='2 embeddings; give as many boxes'):
        store.put_frame(frame(1, vectors(2), boxes=np.zeros((1, 4), np.float32)))
    assert store.count() == (0, 0)


def test_threads_write_and_search_at_once(store: Store) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for i, o in enumerate(many(20, seed=number)):
                mine = replace(o, object_id=f'{number} {i}')
                store.put([mine, thing('shared', mine.views[0].embedding)])
                assert store.search(mine.views[1].embedding[None], 2, ALL)[0][0].cosine > 0.999
                assert store.get(mine.object_id) is not None
                store.put_frame(frame(100 * number + i, vectors(2), (mine.object_id, '')))
                store.search_frames(mine.views[0].embedding, 2, ALL)
                if i % 4 == 3:
                    assert store.forget([f'{number} {i - 1}']) == []
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert store.count() == (4 * 15 + 1, 80)
    hits = store.search(vectors(1), 999, ALL)[0]
    assert {h.object_id for h in hits} == {'shared', *(f'{n} {i}' for n in range(4) for i in range(20) if i % 4 != 2)}
