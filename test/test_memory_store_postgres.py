# SPDX-License-Identifier: Apache-2.0
"""What only a server does: several robots at once, connections that break, an index, a server that is not there."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from memorytest import CALIBRATION, MAP, MODEL, Postgres, brute_force, frame, postgres_server, thing, vectors

from embedder_ros.memory import postgres as postgres_module
from embedder_ros.memory import store as store_module
from embedder_ros.memory.open import open_store
from embedder_ros.memory.store import Filter, Store
from embedder_ros.types import ModelInfo, UserError, unit_rows

psycopg = pytest.importorskip('psycopg', reason='psycopg is not installed')

ALL = Filter()
TEST = Path(__file__).resolve().parent


@pytest.fixture(scope='module')
def server() -> Iterator[Postgres]:
    with postgres_server() as running:
        yield running


ROBOT = """
import sys
sys.path.insert(0, sys.argv[3])
from memorytest import *
from embedder_ros.memory.open import open_store
from embedder_ros.memory.store import Filter
store, robot = open_store(sys.argv[1], MAP, MODEL), sys.argv[2]
for i, row in enumerate(vectors(25, seed=int(robot))):
    shared = [thing(f'shared {n}', row, name=robot) for n in range(8)]
    store.put([thing(f'{robot} {i}', row), *(shared if i % 2 else shared[::-1])])
    assert store.search(row[None], 1, Filter())[0][0].cosine > 0.99
    store.put_frame(frame(i, vectors(2), (f'{robot} {i}', ''), camera=robot))
    if i % 5 == 4:
        assert store.forget([f'{robot} {i - 1}']) == []
"""


def test_several_robots_write_at_once(server: Postgres) -> None:
    url = server.new_url()
    command = [sys.executable, '-c', ROBOT, url]
    robots = [subprocess.Popen([*command, str(n), str(TEST)], stderr=subprocess.PIPE, text=True) for n in range(3)]
    for robot in robots:
        assert robot.communicate(timeout=120)[1] == ''
    store = open_store(url, MAP, MODEL)
    assert store.count() == (3 * 20 + 8, 75)
    assert {h.object_id for h in store.search(vectors(1), 999, ALL)[0]} >= {'0 0', '1 0', '2 0', 'shared 7'}
    last = store.get('shared 3')
    np.testing.assert_allclose(last.views[0].embedding, vectors(25, seed=int(last.name))[24], atol=1e-3)
    assert len(last.views) == 1
    store.close()


def test_a_robot_sees_what_another_wrote(server: Postgres) -> None:
    url = server.new_url()
    one, two = open_store(url, MAP, MODEL), open_store(url, MAP, MODEL)
    one.put([thing('mug', vectors(1)[0])])
    assert two.get('mug') is not None and two.search(vectors(1), 1, ALL)[0][0].object_id == 'mug'
    two.forget(['mug'])
    assert one.search(vectors(1), 1, ALL) == [[]] and one.forget(['mug']) == ['mug']
    one.close()
    two.close()


def test_a_broken_connection_is_made_again(server: Postgres) -> None:
    url = server.new_url()
    store = open_store(url, MAP, MODEL)
    store.put([thing('a', vectors(1)[0])])
    with psycopg.connect(url, autocommit=True) as admin:
        for _ in range(2):
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name='embedder_ros'"
            )
            store.put([thing('b', vectors(1)[0])])
            assert store.search(vectors(1), 9, ALL)[0][0].cosine > 0.99
    assert store.count() == (2, 0)
    store.close()


def test_a_server_that_goes_away_is_told_and_used_again_when_it_is_back(server: Postgres) -> None:
    store = open_store(server.new_url(), MAP, MODEL)
    store.put([thing('a', vectors(1)[0])])
    server.stop()
    try:
        for act in (lambda: store.put([thing('b', vectors(1)[0])]), store.count, lambda: store.get('a')):
            with pytest.raises(UserError, match='cannot be reached .*start the server'):
                act()
    finally:
        server.start()
    assert store.get('a') is not None and store.get('b') is None
    store.put([thing('b', vectors(1)[0])])
    assert store.count() == (2, 0)
    store.close()


def test_a_server_that_does_not_answer_is_not_asked_by_every_question(server: Postgres) -> None:
    """Each asking costs a timeout in which a robot would see nothing."""
    store = open_store(server.new_url(), MAP, MODEL)
    store.put([thing('a', vectors(1)[0])])
    with socket.create_server(('127.0.0.1', 0)) as silent:
        connection, url = store._server, store._server._url  # type: ignore[attr-defined]
        connection._url = f'postgresql://robot@127.0.0.1:{silent.getsockname()[1]}/objects'
        connection._connection.close()
        with pytest.raises(UserError, match='cannot be reached'):
            store.count()
        silent.settimeout(0.2)
        silent.accept()
        with pytest.raises(UserError, match='does not answer: check the network'):
            store.count()
        with pytest.raises(TimeoutError):
            silent.accept()
    connection._url, connection._again = url, 0.0
    assert store.count() == (1, 0)
    store.close()


@contextmanager
def hung_up() -> Iterator[str]:
    """The url of a server that does not answer; what is done meanwhile must hang up by itself.

    At once, not when garbage is collected: a fleet's server has a limit of connections.
    """
    gc.disable()
    try:
        with socket.create_server(('127.0.0.1', 0)) as silent:
            yield f'postgresql://robot@127.0.0.1:{silent.getsockname()[1]}/objects'
            call = silent.accept()[0]
            call.settimeout(5)
            with call:
                assert call.recv(1000) and not call.recv(1000)  # the question, and then the end
    finally:
        gc.enable()


def test_a_call_that_is_given_up_is_hung_up() -> None:
    with hung_up() as url, pytest.raises(UserError, match='cannot be reached'):
        open_store(url, MAP, MODEL)


def test_the_call_of_an_index_that_is_given_up_is_hung_up(server: Postgres) -> None:
    store = open_store(server.new_url(), MAP, MODEL)
    with hung_up() as url, pytest.raises(psycopg.OperationalError, match='timeout'):
        store._server._url = url  # type: ignore[attr-defined]
        store._server.index(1, 'vector')  # type: ignore[attr-defined]
    store.close()


@pytest.mark.parametrize(
    ('url', 'message'),
    [
        ('postgresql://robot:secret@127.0.0.1:1/objects', 'memory on 127.0.0.1, database objects cannot be reached'),
        ('postgresql://robot:secret@no-such-host.invalid/objects', 'cannot be reached'),
        ('postgresql://robot:secret@localhost/objects?nonsense=1', 'not understood'),
    ],
)
def test_a_server_that_is_not_there_is_told_without_the_password(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        open_store(url, MAP, MODEL)
    assert 'secret' not in str(caught.value)


def test_a_missing_database_is_told(server: Postgres) -> None:
    with pytest.raises(UserError, match='database "nothing" does not exist'):
        open_store(server.url('nothing'), MAP, MODEL)


def test_a_newer_format_is_refused(server: Postgres) -> None:
    url = server.new_url()
    open_store(url, MAP, MODEL).close()
    with psycopg.connect(url) as admin:
        admin.execute('UPDATE embedder_ros.format SET version=99')
    with pytest.raises(UserError, match='newer version of embedder_ros'):
        open_store(url, MAP, MODEL)


def test_a_user_without_rights_is_told(server: Postgres) -> None:
    url = server.new_url()
    open_store(url, MAP, MODEL).close()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute('DROP ROLE IF EXISTS guest')
        admin.execute('CREATE ROLE guest LOGIN')
    with pytest.raises(UserError, match='grant this user CREATE'):
        open_store(url.replace('robot@', 'guest@'), MAP, MODEL)


def wait_for_index(store: Store) -> None:
    for _ in range(600):
        if store._indexed:  # type: ignore[attr-defined]
            return
        time.sleep(0.1)
    raise AssertionError('the index was not made')


def test_an_index_is_made_when_a_memory_has_grown(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, 'EXACT', 30)
    store = open_store(server.new_url(), MAP, MODEL)
    store.put([thing(f'{i}', row) for i, row in enumerate(vectors(40))])
    assert not store._indexed  # type: ignore[attr-defined]
    store.search(vectors(1), 1, ALL)
    wait_for_index(store)
    store.close()


def test_an_index_that_was_cut_short_is_made_anew(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves an index behind that no search uses, and that is in the way of another one."""
    url = server.new_url()
    store = open_store(url, MAP, MODEL)
    store.put([thing(f'{i}', row) for i, row in enumerate(vectors(40))])
    store._server.index(1, 'vector')  # type: ignore[attr-defined]
    store.close()
    valid = "SELECT indisvalid FROM pg_index WHERE indexrelid='embedder_ros.views_1_vector'::regclass"
    with psycopg.connect(url, autocommit=True) as admin:
        assert admin.execute(valid).fetchone() == (True,)
        admin.execute(valid.replace('SELECT indisvalid FROM pg_index', 'UPDATE pg_index SET indisvalid=false'))
        assert admin.execute(valid).fetchone() == (False,)
        monkeypatch.setattr(store_module, 'EXACT', 30)
        store = open_store(url, MAP, MODEL)
        wait_for_index(store)
        assert admin.execute(valid).fetchone() == (True,)
    store.close()


def test_an_index_that_another_robot_makes_is_waited_for_without_blocking(
    server: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    url = server.new_url()
    store = open_store(url, MAP, MODEL)
    store.put([thing(f'{i}', row) for i, row in enumerate(vectors(40))])
    monkeypatch.setattr(store_module, 'EXACT', 30)
    monkeypatch.setattr(postgres_module, 'INDEX_PAUSE', 0.0)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(hashtext('views_1_vector'))")
        for _ in range(600):
            assert len(store.search(vectors(1), 1, ALL)[0]) == 1
            if 'another robot is making views_1_vector' in caplog.text:
                break
            time.sleep(0.1)
        else:
            raise AssertionError('no word of the other robot')
        assert not store._indexed  # type: ignore[attr-defined]
    for _ in range(600):
        store.search(vectors(1), 1, ALL)
        if store._indexed:  # type: ignore[attr-defined]
            break
        time.sleep(0.1)
    wait_for_index(store)
    store.close()


def test_the_index_finds_what_is_near_and_respects_filters(server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    url = server.new_url()
    store = open_store(url, MAP, MODEL)
    rows = vectors(1500)
    objects = [thing(f'{i}', row, last_seen=i + 1, camera=f'camera {i % 2}') for i, row in enumerate(rows)]
    store.put(objects)
    store.close()
    monkeypatch.setattr(store_module, 'EXACT', 300)
    store = open_store(url, MAP, MODEL)
    wait_for_index(store)
    for which, counting in (
        (ALL, objects),
        (Filter(cameras=('camera 1',)), objects[1::2]),  # by the index
        (Filter(since=1301), objects[1300:]),  # one by one
    ):
        right = 0
        for query in vectors(20, seed=4):
            for identity in (False, True):
                truth = brute_force(counting, query, identity)
                least = sorted(truth.values(), reverse=True)[9]
                hits = store.search(query[None], 10, which, identity=identity)[0]
                assert len(hits) == 10 and {h.object_id for h in hits} <= truth.keys()
                right += sum(truth[h.object_id] >= least - 1e-3 for h in hits)
        assert right >= 0.95 * 400
    store.close()


def test_vectors_of_more_than_two_thousand_numbers(server: Postgres) -> None:
    rng = np.random.default_rng(0)
    model = ModelInfo('objembed-1', 2560, CALIBRATION, rng.standard_normal((2560, 2100)).astype(np.float32))
    store = open_store(server.new_url(), MAP, model)
    rows = unit_rows(rng.standard_normal((30, 2560)))
    store.put([replace(thing(f'{i}', row), model_id=model.model_id) for i, row in enumerate(rows)])
    store.put_frame(frame(1, rows[:3], frame_embeddings=rows[:2]))
    for identity in (False, True):
        hits = store.search(rows[7][None], 2, ALL, identity=identity)[0]
        assert hits[0].object_id == '7' and abs(hits[0].cosine - 1) < 1e-3
    assert store.search_frames(rows[2], 1, ALL)[0].row == 2
    np.testing.assert_allclose(store.get('3').views[0].embedding, rows[3], atol=1e-3)
    store.close()
