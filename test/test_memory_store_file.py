# SPDX-License-Identifier: Apache-2.0
"""The memory's file under what happens to files: killed writers, damage, other programs, full disks, forgetting."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from memorytest import DIM, JPEG, MAP, MODEL, frame, thing, vectors

from embedder_ros.memory import sqlite_file
from embedder_ros.memory.open import open_store
from embedder_ros.memory.store import Filter, Store
from embedder_ros.types import UserError, unit_rows

ALL = Filter()
TEST = Path(__file__).resolve().parent


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'objects.db'


def opened(path: Path) -> Store:
    return open_store(str(path), MAP, MODEL)


def filled(path: Path, count: int = 40) -> None:
    store = opened(path)
    store.put([thing(f'thing {i}', row) for i, row in enumerate(vectors(count))])
    store.put_frame(frame(1, vectors(3)))
    store.close()


def child(code: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """Another Python that has the tests' helpers."""
    start = f'import sys; sys.path.insert(0, {str(TEST)!r})\n'
    command = [sys.executable, '-c', start + code, *arguments]
    return subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)  # type: ignore[call-overload]


WRITER = """
from memorytest import *
from embedder_ros.memory.open import open_store
store = open_store(sys.argv[1], MAP, MODEL)
rows = vectors(64)
for i in range(int(sys.argv[2]), 100_000):
    store.put([thing(f'thing {i}', rows[i % 64], rows[(i + 1) % 64]), thing(f'guest {i}', rows[i % 64])])
    store.put_frame(frame(i, rows[:2], (f'thing {i}', f'guest {i}')))
    if i % 3 == 2:
        store.forget([f'guest {i}'])
    print(i, flush=True)
"""


def test_killed_at_any_moment_nothing_acknowledged_is_lost(path: Path) -> None:
    moments = random.Random(1)
    done: list[int] = []
    for _ in range(6):
        with child(WRITER, str(path), str(done[-1] + 2 if done else 0)) as writer:
            assert writer.stdout is not None
            done.append(int(writer.stdout.readline()))
            time.sleep(moments.uniform(0, 0.4))
            writer.kill()
            done += [int(line) for line in writer.stdout if line.endswith('\n')]
        check_acknowledged(path, done)
    assert len(done) > 20


def check_acknowledged(path: Path, done: list[int]) -> None:
    """Everything that the writer said to have done is there, and the file is whole."""
    store = opened(path)
    rows = vectors(64)
    for i in done:
        remembered, kept = store.get(f'thing {i}'), store.get_frame('front', i)
        assert remembered is not None and kept is not None
        for n in (0, 1):
            np.testing.assert_allclose(remembered.views[n].embedding, rows[(i + n) % 64], atol=1e-3)
        assert (store.get(f'guest {i}') is None) == (i % 3 == 2)
        assert kept.object_ids == ((f'thing {i}',) if i % 3 == 2 else (f'thing {i}', f'guest {i}'))
    count = store.count()[0]
    assert len(store.search(rows[:1], count, ALL)[0]) == count
    store.close()
    check = sqlite3.connect(path)
    assert check.execute('PRAGMA integrity_check').fetchall() == [('ok',)]
    check.close()


def test_a_second_process_is_told_who_has_the_file(path: Path) -> None:
    with child(WRITER, str(path), '0') as first:
        assert first.stdout is not None
        first.stdout.readline()
        with pytest.raises(UserError, match=f'in use by the process with pid {first.pid}: stop it, or'):
            opened(path)
        first.kill()
    opened(path).close()


def test_a_second_opening_in_the_same_process_is_refused(path: Path) -> None:
    store = opened(path)
    with pytest.raises(UserError, match='in use by the process'):
        opened(path)
    store.put([thing('a', vectors(1)[0])])
    store.close()


@pytest.mark.parametrize('kept', [0.5, 0.9])
def test_a_truncated_file_is_kept_aside(path: Path, kept: float) -> None:
    filled(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(
        UserError, match=r'is damaged .* was kept as .*objects\.db\.damaged-1: start again .* \.recover'
    ):
        opened(path).count()
    assert Path(f'{path}.damaged-1').read_bytes() == content[: int(len(content) * kept)]
    store = opened(path)
    assert store.count() == (0, 0)
    store.put([thing('a', vectors(1)[0])])
    store.close()
    assert opened(path).count() == (1, 0)


def test_pages_overwritten_with_rubbish_are_found_out(path: Path) -> None:
    filled(path, 200)
    content = bytearray(path.read_bytes())
    for start in range(8192, len(content), 8192):
        content[start : start + 8192] = random.Random(start).randbytes(8192)
    path.write_bytes(content)
    store = None
    with pytest.raises(UserError, match='is damaged .* was kept as'):
        store = opened(path)
        store.search(vectors(1), 3, ALL)
    assert Path(f'{path}.damaged-1').exists() and not path.exists()
    if store is not None:
        with pytest.raises(UserError, match='damaged|closed'):
            store.put([thing('a', vectors(1)[0])])
        store.close()


def test_a_lost_view_is_found_out(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute('DELETE FROM views WHERE id=7')
    db.close()
    store = opened(path)
    with pytest.raises(UserError, match='is damaged .*do not match'):
        store.search(vectors(1), 3, ALL)
    store.close()
    assert Path(f'{path}.damaged-1').exists()


def test_the_log_of_a_killed_writer_is_part_of_the_file(path: Path, tmp_path: Path) -> None:
    store = opened(path)
    store.put([thing('a', vectors(1)[0])])
    copy = tmp_path / 'copy.db'
    for suffix in ('', '-wal'):
        shutil.copy(f'{path}{suffix}', f'{copy}{suffix}')
    assert opened(copy).get('a') is not None
    store.close()


def test_a_newer_file_is_left_alone(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute('PRAGMA user_version=99')
    db.close()
    before = path.read_bytes()
    with pytest.raises(UserError, match='newer version of embedder_ros .*format 99.*update embedder_ros'):
        opened(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize('content', [JPEG * 100, b'hello', b'SQLite format 3\0' + bytes(200)])
def test_a_file_that_is_no_memory_is_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match='is no object memory; it is left as it is'):
        opened(path)
    assert path.read_bytes() == content


def test_another_programs_database_is_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute('CREATE TABLE objects (id)')
    db.close()
    with pytest.raises(UserError, match='is no object memory'):
        opened(path)


def test_a_lock_of_another_program_is_told(path: Path) -> None:
    store = opened(path)
    store.put([thing('a', vectors(1)[0])])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute('BEGIN IMMEDIATE')
    with pytest.raises(UserError, match='locked by another program'):
        store.put([thing('b', vectors(1)[0])])
    assert store.get('a') is not None and store.get('b') is None
    assert [h.object_id for h in store.search(vectors(1), 9, ALL)[0]] == ['a']
    other.execute('ROLLBACK')
    other.close()
    store.put([thing('b', vectors(1)[0])])
    store.close()
    assert opened(path).count() == (2, 0)


def test_forgetting_beside_a_reader_is_told_to_be_unfinished(path: Path) -> None:
    filled(path)
    store = opened(path)
    store.put([thing('a', vectors(1)[0])])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute('BEGIN')
    other.execute('SELECT * FROM objects').fetchone()
    with pytest.raises(UserError, match='is deleted, but its bytes are still in .*close that program'):
        store.forget(['a'])
    assert store.get('a') is None
    other.close()
    store.close()
    assert not found(path, JPEG + b'a 0') and found(path, b'thing 7')
    assert opened(path).get('a') is None


def test_a_full_disk_is_told_and_loses_nothing(path: Path) -> None:
    store = opened(path)
    store.put([thing('first', vectors(1)[0])])
    db = store._file.db  # type: ignore[attr-defined]
    db.execute(f'PRAGMA max_page_count={db.execute("PRAGMA page_count").fetchone()[0] + 2}')
    big = [thing(f'{i}', row) for i, row in enumerate(vectors(400))]
    with pytest.raises(UserError, match='the disk is full: free some space'):
        store.put(big)
    assert store.count() == (1, 0)
    assert [h.object_id for h in store.search(vectors(1), 9, ALL)[0]] == ['first']
    db.execute('PRAGMA max_page_count=100000')
    store.put(big)
    store.close()
    assert opened(path).count() == (401, 0)


def test_a_lock_that_cannot_be_written_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a disk that is full before the memory is first opened; it opens as soon as there is space."""
    with monkeypatch.context() as context, pytest.raises(UserError, match=r'objects.db.lock cannot be written .*space'):
        context.setattr(sqlite_file.os, 'getpid', no_space)
        opened(path)
    opened(path).close()


def no_space() -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_unknown_users_folder_is_told() -> None:
    with pytest.raises(UserError, match='full path'):
        open_store('~nobody-has-this-name/objects.db', MAP, MODEL)


FULL = """
import resource, signal
from memorytest import *
from embedder_ros.memory.open import open_store
from embedder_ros.types import UserError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
store = open_store(sys.argv[1], MAP, MODEL)
kept = 0
try:
    for i in range(10_000):
        store.put([thing(f'thing {i}', vectors(1)[0])])
        kept += 1
except UserError as error:
    print(kept, error)
"""


def test_writes_that_fail_under_way_lose_nothing(path: Path) -> None:
    with child(FULL, str(path)) as writer:
        kept, _, message = writer.communicate()[0].partition(' ')
    assert 'check the disk' in message or 'disk is full' in message
    assert int(kept) > 10
    store = opened(path)
    assert store.count()[0] == int(kept)
    assert store.get(f'thing {int(kept) - 1}') is not None
    store.close()


READ_ONLY = """
import os
from memorytest import *
from embedder_ros.memory.open import open_store
from embedder_ros.types import UserError
if os.geteuid() == 0:
    os.seteuid(65534)
try:
    open_store(sys.argv[1], MAP, MODEL)
except UserError as error:
    print(error)
"""


def test_a_folder_that_may_not_be_written_is_told() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'objects.db'
        filled(path)
        before = path.read_bytes()
        os.chmod(folder, 0o555)
        with child(READ_ONLY, str(path)) as reader:
            message = reader.communicate()[0]
        os.chmod(folder, 0o755)
        assert 'cannot be opened' in message and 'this user may write' in message
        assert path.read_bytes() == before


@pytest.mark.parametrize('url', ['/proc/objects.db', '/dev/null/objects.db', '{folder}', 'mysql://server/objects'])
def test_a_url_that_cannot_be_a_memory_is_told(tmp_path: Path, url: str) -> None:
    with pytest.raises(UserError, match='name a file'):
        open_store(url.format(folder=tmp_path), MAP, MODEL)


def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'deeper' / 'objects.db'
    open_store(f'sqlite://{path}', MAP, MODEL).close()
    assert path.exists()


def test_forgotten_things_leave_no_bytes(path: Path) -> None:
    secret = unit_rows(np.random.default_rng(77).standard_normal((3, DIM)))
    others = vectors(50)
    store = opened(path)
    store.put([thing(f'thing {i}', row, name=f'thing number {i}') for i, row in enumerate(others)])
    store.put([thing('person-4711', *secret, name='Grace Hopper', labels=('admiral',))])
    store.put([thing('person-4711', *secret[:2], name='Rear Admiral Hopper', last_seen=5000)])
    store.put_frame(frame(1, np.concatenate([others[:3], secret[:1]]), ('thing 1', '', '', 'person-4711')))
    store.put_frame(frame(2, others[:3], ('thing 1', 'thing 2', '')))
    marks = [b'person-4711', b'Hopper', b'hopper', b'dmiral', JPEG + b'person', JPEG + b'frame 1']
    marks += [row.astype('<f2').tobytes()[:24] for row in secret]
    assert all(found(path, mark) for mark in marks)
    assert store.forget(['person-4711']) == []
    assert [mark for mark in marks if found(path, mark)] == []
    assert found(path, JPEG + b'frame 2') and found(path, b'thing number 7')
    index = store._index  # type: ignore[attr-defined]
    assert not index._rows[index.count : index.count + 2].any()
    store.close()
    assert [mark for mark in marks if found(path, mark)] == []


def test_cleared_memories_leave_no_bytes(path: Path) -> None:
    store = opened(path)
    store.put([thing('a', vectors(1)[0], name='a secret name')])
    store.put_frame(frame(1, vectors(2), ('a', '')))
    store.clear()
    assert not any(found(path, mark) for mark in (b'secret name', JPEG, vectors(1)[0].astype('<f2').tobytes()[:24]))
    store.close()


def found(path: Path, mark: bytes) -> bool:
    """Whether any file of the memory has these bytes."""
    return any(mark in file.read_bytes() for file in path.parent.iterdir() if file.is_file())


def test_damage_in_a_frame_is_told_when_it_is_read(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute("UPDATE frames SET body='{'")
    db.close()
    store = opened(path)
    with pytest.raises(UserError, match='is damaged'):
        store.get_frame('front', 1)
    store.close()


def test_ram_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store('', MAP, MODEL)
    store.put([thing('a', vectors(1)[0])])
    store.forget(['a'])
    store.close()
    assert list(tmp_path.iterdir()) == []
