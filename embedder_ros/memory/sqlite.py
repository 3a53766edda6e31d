# SPDX-License-Identifier: Apache-2.0
"""The memory of one robot: an SQLite file, and its vectors in RAM for search.

One process has the file at a time, see `sqlite_file`. Opening reads the catalogue and the vectors in the background;
the first question waits for the rest of it. Frames stay on the disk: a search through them reads every frame that the
filter leaves, without holding up anything else.

With nano (688 numbers, 160 of them for identity) a view takes 4.4 kB of RAM and 1.7 kB of disk beside its thumbnail, an
object 0.3 kB more of each.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from embedder_ros.memory import codec
from embedder_ros.memory.catalogue import Catalogue
from embedder_ros.memory.codec import FrameRow, ObjectRow, ViewRow
from embedder_ros.memory.frames import FrameScan
from embedder_ros.memory.index import VectorIndex
from embedder_ros.memory.sqlite_file import MemoryFile
from embedder_ros.memory.store import EXACT, Filter, FrameHit, Hit, Other, Places, StoredFrame
from embedder_ros.types import FloatArray, ModelInfo, Object, UserError

CHUNK = 512  # rows read at once, so few that they stay in the processor's cache
PAUSE = 0.001  # seconds in which others get their turn between two steps of fitting
MANY = 500  # ids in one statement

_MARK = np.dtype('<i8')
_INT64 = 2**63

T = TypeVar('T')


class SqliteStore:
    """Objects and frames of one map and one model in a file. See `store.Store` for what the methods do.

    Args:
        path: the file, made when it is not there; '' keeps everything in RAM.
        map_id: the map.
        model: what embeds; its identity view compares individuals.
        capacity: objects for which memory is reserved; it is used only when they come.

    Attributes:
        others: what the file holds of other maps and models.

    Raises:
        UserError: see MemoryFile; or the model's vectors changed their length.
    """

    def __init__(self, path: str, map_id: str, model: ModelInfo, *, capacity: int = 0) -> None:
        self.map_id, self.model_id, self.dim = codec.text(map_id, 'the map id'), model.model_id, model.dim
        self._model = model
        self._lock = threading.RLock()
        self._scans = threading.Lock()
        self._failure: UserError | None = None
        self._catalogue = Catalogue(capacity)
        self._index = VectorIndex(model.dim, capacity, model.identity_dims)
        self._identity = self._index
        if model.identity_view is not None:
            self._identity = VectorIndex(model.identity_view.shape[1], capacity)
        self._file = MemoryFile(path)
        try:
            self._memory = self._claimed()
            self.others = self._found()
        except BaseException:
            self._file.close()
            raise
        self._loaded, self._closing = threading.Event(), False
        self._loader = threading.Thread(target=self._load, name='memory', daemon=True)
        self._loader.start()

    # Objects.

    def put(self, objects: Iterable[Object]) -> None:
        """Insert or replace. Raises UserError for another map or model, a vector of wrong length, not unit, or NaN."""
        newest = {o.object_id: o for o in objects}
        rows = codec.object_rows(list(newest.values()), self.map_id, self._model)
        if not rows:
            return
        with self._ready():
            with self._file.writing() as db:
                written = [(row, *self._write(db, row)) for row in rows]
            self._remember(written)

    def get(self, object_id: str) -> Object | None:
        """The object, with views and thumbnails; None when there is none."""
        return next(iter(self.read([object_id])), None)

    def read(self, object_ids: Sequence[str]) -> list[Object]:
        """Those of the objects that there are, in this order; several times quicker than one by one."""
        with self._ready(), self._file.reading():
            slots = [self._catalogue.slot(i) for i in dict.fromkeys(object_ids)]
            return self._read([self._catalogue.row(slot) for slot in slots if slot >= 0])

    def forget(self, object_ids: Sequence[str]) -> list[str]:
        """Really delete: rows, views, thumbnails, index, its rows in frames and those frames' thumbnails."""
        with self._ready(), self._scans:
            wanted = dict.fromkeys(object_ids)
            known = [i for i in wanted if self._catalogue.slot(i) >= 0]
            if known:
                with self._file.writing() as db:
                    self._delete(db, known)
                    self._leave_frames(db, known)
                self._drop(known)
                self._file.flush()
            return [i for i in wanted if i not in set(known)]

    def clear(self) -> int:
        """Forget every object and frame of this map and model; how many objects."""
        with self._ready(), self._scans:
            with self._file.writing() as db:
                self._delete_frames(db, '1')
                mine = 'SELECT id FROM views WHERE memory=?'
                db.execute(f'DELETE FROM thumbnails WHERE view IN ({mine})', (self._memory,))
                for table in ('views', 'objects'):
                    db.execute(f'DELETE FROM {table} WHERE memory=?', (self._memory,))
            count = len(self._catalogue)
            self._catalogue.clear()
            self._index.clear()
            self._identity.clear()
            self._file.flush()
            return count

    def objects(self, which: Filter, limit: int, offset: int = 0) -> tuple[list[Object], int]:
        """Objects, last seen first, and how many match in all."""
        where, values = _conditions(which, 'last_seen', text=True)
        query = f'SELECT id FROM objects WHERE memory=?{where} ORDER BY last_seen DESC, object_id LIMIT ? OFFSET ?'
        with self._ready(), self._file.reading() as db:
            allowed = self._catalogue.allowed(which)
            total = len(self._catalogue) if allowed is None else int(np.count_nonzero(allowed))
            found = db.execute(query, (self._memory, *values, _bounded(limit), _bounded(offset))).fetchall()
            return self._read([row for (row,) in found]), total

    def places(self) -> Places:
        """Every object with a position, without reading views; quick, since it is asked at the start."""
        columns = 'object_id, position_frame, x, y, z, last_seen, presence'
        query = f'SELECT {columns} FROM objects WHERE memory=? AND x NOT NULL'
        with self._ready(), self._file.reading() as db:
            found = db.execute(query, (self._memory,)).fetchall()
        ids, frames, x, y, z, seen, presence = zip(*found, strict=True) if found else ((),) * 7
        positions = np.column_stack([np.asarray(a, np.float64) for a in (x, y, z)])
        return Places(list(ids), list(frames), positions, np.asarray(seen, np.int64), np.asarray(presence, np.float32))

    def search(self, vectors: FloatArray, k: int, which: Filter, *, identity: bool = False) -> list[list[Hit]]:
        """For each of (Q, D) unit vectors the k objects with the nearest views, best first."""
        queries = codec.checked_vectors(vectors, self.dim, 'the query')
        with self._ready():
            index = self._identity if identity else self._index
            queries = self._model.identity(queries) if identity else queries
            allowed = self._catalogue.allowed(which)
            among = len(self._catalogue) if allowed is None else int(np.count_nonzero(allowed))
            found = index.search(queries, k, allowed, exact=among <= EXACT)
            name = self._catalogue.object_id
            return [[Hit(name(slot), cosine, view) for slot, cosine, view in hits] for hits in found]

    # Frames.

    def put_frame(self, frame: StoredFrame) -> None:
        """Insert or replace the camera's frame of that stamp."""
        row = codec.frame_row(frame, self.dim)
        with self._ready(), self._file.writing() as db:
            self._delete_frames(db, 'camera=? AND stamp=?', row.camera, _bounded(row.stamp))
            frame_id = db.execute(
                'INSERT INTO frames (memory, camera, stamp, whole, body) VALUES (?,?,?,?,?)',
                (self._memory, row.camera, _bounded(row.stamp), row.whole, row.body),
            ).lastrowid
            db.execute('INSERT INTO frame_rows VALUES (?,?,?)', (frame_id, row.boxes, row.vectors))
            if row.thumbnail:
                db.execute('INSERT INTO frame_thumbnails VALUES (?,?)', (frame_id, row.thumbnail))
            shown = [(frame_id, n, object_id) for n, object_id in enumerate(row.object_ids) if object_id]
            db.executemany('INSERT INTO shown VALUES (?,?,?)', shown)

    def get_frame(self, camera: str, stamp: int) -> StoredFrame | None:
        """The frame; None when there is none."""
        query = (
            "SELECT id, body, whole, vectors, boxes, ifnull(jpeg, x'') FROM frames JOIN frame_rows ON frame=id "
            'LEFT JOIN frame_thumbnails USING (frame) WHERE memory=? AND camera=? AND stamp=?'
        )
        if not codec.storable([camera]):
            return None
        with self._ready(), self._file.reading() as db:
            found = db.execute(query, (self._memory, camera, _bounded(stamp))).fetchone()
            if found is None:
                return None
            row, body, whole, vectors, boxes, thumbnail = found
            shown = dict(db.execute('SELECT row, object_id FROM shown WHERE frame=?', (row,)).fetchall())
        with self._lock, self._file.decoding():
            ids = tuple(shown.get(n, '') for n in range(len(vectors) // (2 * self.dim)))
            return codec.read_frame(FrameRow(camera, stamp, body, whole, vectors, boxes, ids, thumbnail), self.dim)

    def search_frames(self, vector: FloatArray, k: int, which: Filter, *, row: int = -1) -> list[FrameHit]:
        """The k frames nearest to (D,): by their best object, or by frame embedding `row` (0 coarse, 1 detailed)."""
        scan = FrameScan(codec.checked_vectors(np.asarray(vector)[None], self.dim, 'the query')[0], k, row)
        where, values = _conditions(which, 'stamp', text=False)
        column, join = ('vectors', ' JOIN frame_rows ON frame=id') if row < 0 else ('whole', '')
        query = f'SELECT camera, stamp, {column} FROM frames{join} WHERE memory=?{where}'
        with self._ready() if self._file.in_ram else nullcontext(), self._scans:
            try:
                with self._file.reader() as db:
                    for found in _batches(db.execute(query, (self._memory, *values)).fetchmany):
                        scan.take(found)
            except sqlite3.Error as error:
                failure = error
            else:
                return scan.hits()
        with self._lock:
            raise self._file.refused(failure) from failure

    def drop_frames(self, before: int) -> int:
        """Delete frames with an older stamp; how many."""
        with self._ready(), self._file.writing() as db:
            return self._delete_frames(db, 'stamp<?', _bounded(before))

    def count(self) -> tuple[int, int]:
        """Number of objects and of frames."""
        query = 'SELECT count(*) FROM {} WHERE memory=?'
        with self._usable(), self._file.reading() as db:
            frames = db.execute(query.format('frames'), (self._memory,)).fetchone()[0]
            if self._loaded.is_set():  # at once: every frame with something new asks
                return len(self._catalogue), frames
            return db.execute(query.format('objects'), (self._memory,)).fetchone()[0], frames

    def close(self) -> None:
        """Release the file; harmless when repeated."""
        self._closing = True
        self._loader.join()
        with self._lock, self._scans:
            self._file.close()

    # Opening.

    def _claimed(self) -> int:
        """The row of this map and model, made when it is new."""
        key = (self.map_id, codec.text(self.model_id, 'the model id'))
        with self._file.writing() as db:
            db.execute('INSERT OR IGNORE INTO memories (map_id, model_id, dim) VALUES (?,?,?)', (*key, self.dim))
            row, dim = db.execute('SELECT id, dim FROM memories WHERE map_id=? AND model_id=?', key).fetchone()
        if dim != self.dim:
            raise UserError(
                f"{self._file.name} holds vectors of {dim} numbers by model '{self.model_id}', which now gives "
                f'{self.dim}: load the model that wrote it, or name another file'
            )
        return int(row)

    def _found(self) -> tuple[Other, ...]:
        query = (
            'SELECT map_id, model_id, count(objects.id) FROM memories JOIN objects ON memory=memories.id '
            'WHERE memory!=? GROUP BY memory'
        )
        with self._file.reading() as db:
            return tuple(Other(*found) for found in db.execute(query, (self._memory,)))

    def _load(self) -> None:
        try:
            db = self._file.db
            self._load_views(db, *self._load_objects(db))
        except MemoryError:
            self._failure = UserError(
                f'{self._file.name} does not fit into RAM: free some, or forget objects elsewhere'
            )
        except Exception as error:  # noqa: BLE001 - whatever is read is not what was written
            with self._lock:
                self._failure = self._file.refused(error)
        finally:
            self._loaded.set()
        for index in (self._index, self._identity):
            self._fit(index)

    def _fit(self, index: VectorIndex) -> None:
        """What makes searches quicker, while they are answered already."""
        steps = index.fit()
        more = not self._closing
        while more:
            time.sleep(PAUSE)
            with self._lock:
                more = next(steps, self) is not self and not self._closing

    def _load_objects(self, db: Any) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Fill the catalogue; (V,) slots and (V,) marks of the views, in the order of the objects' views."""
        columns = 'object_id, id, last_seen, camera, words, marks'
        query = f'SELECT {columns} FROM objects NOT INDEXED WHERE memory=? ORDER BY id'  # to sort them costs more
        marks: list[bytes] = []
        for found in _batches(db.execute(query, (self._memory,)).fetchmany, CHUNK):
            *described, part = zip(*found, strict=True)
            self._catalogue.load(*described)
            marks += part
        counts = [len(mark) // _MARK.itemsize for mark in marks]
        return np.repeat(np.arange(len(marks)), counts), np.frombuffer(b''.join(marks), _MARK)

    def _load_views(self, db: Any, slots: NDArray[np.int64], marks: NDArray[np.int64]) -> None:
        """Fill the indexes. Raises ValueError when views and objects do not match."""
        places = np.arange(len(slots)) - np.searchsorted(slots, slots)
        order = np.lexsort((marks, slots))  # as the index of the table has them
        slots, marks, places = slots[order], marks[order], places[order]
        rows = self._catalogue.rows()[slots]
        for index in (self._index, self._identity):
            index.reserve(len(slots))
        query = 'SELECT object, mark, vector FROM views INDEXED BY views_object WHERE memory=? ORDER BY object, mark'
        start = 0
        for found in _batches(db.execute(query, (self._memory,)).fetchmany, CHUNK):
            part = slice(start, start + len(found))
            found_rows, found_marks, vectors = zip(*found, strict=True)
            packed = b''.join(vectors)
            same = np.array_equal(rows[part], found_rows) and np.array_equal(marks[part], found_marks)
            if not same or len(packed) != len(found) * 2 * self.dim:
                raise ValueError('views and objects do not match')
            rows_read, start = codec.unpack_vectors(packed, self.dim), part.stop
            self._add(slots[part].astype(np.int32), places[part].astype(np.int32), rows_read, fit=False)
        if start != len(slots):
            raise ValueError(f'{len(slots) - start} views are missing')

    @contextmanager
    def _ready(self) -> Iterator[None]:
        """Our turn, with everything loaded."""
        self._loaded.wait()
        with self._usable():
            yield

    @contextmanager
    def _usable(self) -> Iterator[None]:
        with self._lock:
            if self._failure:
                raise self._failure
            yield

    # Reading and writing rows.

    def _read(self, rows: Sequence[int]) -> list[Object]:
        """The objects in these rows, in this order."""
        parts = (rows[start : start + MANY] for start in range(0, len(rows), MANY))
        return [o for part in parts for o in self._read_few(part)]

    def _read_few(self, rows: Sequence[int]) -> list[Object]:
        names = 'id, object_id, last_seen, camera, words, position_frame, x, y, z, presence, marks, body'
        db, wanted = self._file.db, f'({",".join("?" * len(rows))})'
        found = {o[0]: o[1:] for o in db.execute(f'SELECT {names} FROM objects WHERE id IN {wanted}', rows)}
        query = (
            "SELECT object, mark, body, vector, ifnull(jpeg, x'') FROM views LEFT JOIN thumbnails ON view=id "
            f'WHERE object IN {wanted}'
        )
        views = {view[:2]: ViewRow(*view[1:]) for view in db.execute(query, rows)}
        columns = []
        with self._file.decoding():
            for row in rows:
                object_id, last_seen, camera, words, frame, x, y, z, presence, marks, body = found[row]
                position = None if x is None else (x, y, z)
                in_order = tuple(views[row, mark] for mark in np.frombuffer(marks, _MARK).tolist())
                columns.append(
                    ObjectRow(object_id, last_seen, camera, words, frame, position, presence, body, in_order)
                )
            return codec.read_objects(columns, self.map_id, self._model)

    def _write(self, db: Any, o: ObjectRow) -> tuple[int, bool]:
        """Upsert an object and what changed of its views; its row, and whether the views changed."""
        marks = np.array([v.mark for v in o.views], _MARK).tobytes()
        columns = (_bounded(o.last_seen), o.camera, o.words, o.position_frame, *(o.position or (None,) * 3), o.presence)
        slot = self._catalogue.slot(o.object_id)
        if slot < 0:
            row = db.execute(
                'INSERT INTO objects (last_seen, camera, words, position_frame, x, y, z, presence, marks, body, '
                'memory, object_id) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)',
                (*columns, marks, o.body, self._memory, o.object_id),
            ).lastrowid
            old = b''
        else:
            row = self._catalogue.row(slot)
            old = db.execute('SELECT marks FROM objects WHERE id=?', (row,)).fetchone()[0]
            db.execute(
                'UPDATE objects SET last_seen=?, camera=?, words=?, position_frame=?, x=?, y=?, z=?, presence=?, '
                'marks=?, body=? WHERE id=?',
                (*columns, marks, o.body, row),
            )
        if old != marks:
            self._write_views(db, row, o, set(np.frombuffer(old, _MARK).tolist()))
        return row, old != marks

    def _write_views(self, db: Any, row: int, o: ObjectRow, old: set[int]) -> None:
        gone = [(row, mark) for mark in old - {v.mark for v in o.views}]
        db.executemany('DELETE FROM thumbnails WHERE view IN (SELECT id FROM views WHERE object=? AND mark=?)', gone)
        db.executemany('DELETE FROM views WHERE object=? AND mark=?', gone)
        for v in o.views:
            if v.mark not in old:
                view = db.execute(
                    'INSERT INTO views (memory, object, mark, vector, body) VALUES (?,?,?,?,?)',
                    (self._memory, row, v.mark, v.vector, v.body),
                ).lastrowid
                if v.thumbnail:
                    db.execute('INSERT INTO thumbnails VALUES (?,?)', (view, v.thumbnail))

    def _remember(self, written: Sequence[tuple[ObjectRow, int, bool]]) -> None:
        """Bring catalogue and indexes up to what was committed."""
        before = [self._catalogue.slot(o.object_id) for o, _, new in written if new]
        self._remove([slot for slot in before if slot >= 0])
        slots = [self._catalogue.put(o.object_id, row, o.last_seen, o.camera, o.words) for o, row, _ in written]
        changed = [(slot, o.views) for slot, (o, _, new) in zip(slots, written, strict=True) if new]
        owners = np.repeat(np.array([s for s, _ in changed], np.int32), [len(v) for _, v in changed])
        if len(owners):
            places = np.concatenate([np.arange(len(views), dtype=np.int32) for _, views in changed])
            packed = b''.join(v.vector for _, views in changed for v in views)
            self._add(owners, places, codec.unpack_vectors(packed, self.dim))

    def _add(self, owners: NDArray[np.int32], places: NDArray[np.int32], rows: FloatArray, *, fit: bool = True) -> None:
        self._index.add(owners, places, rows, fit=fit)
        if self._identity is not self._index:
            self._identity.add(owners, places, self._model.identity(rows), fit=fit)

    def _remove(self, slots: Sequence[int]) -> None:
        if not slots:
            return
        for index in {id(i): i for i in (self._index, self._identity)}.values():
            index.remove(slots)

    def _drop(self, object_ids: Sequence[str]) -> None:
        self._remove([self._catalogue.remove(i) for i in object_ids])

    def _delete(self, db: Any, object_ids: Sequence[str]) -> None:
        rows = [(self._catalogue.row(self._catalogue.slot(i)),) for i in object_ids]
        db.executemany('DELETE FROM thumbnails WHERE view IN (SELECT id FROM views WHERE object=?)', rows)
        db.executemany('DELETE FROM views WHERE object=?', rows)
        db.executemany('DELETE FROM objects WHERE id=?', rows)

    def _leave_frames(self, db: Any, object_ids: Sequence[str]) -> None:
        """Take the objects' rows out of frames, and the thumbnails of frames that show them."""
        gone: dict[int, list[int]] = {}
        for start in range(0, len(object_ids), MANY):
            part = object_ids[start : start + MANY]
            marks = ','.join('?' * len(part))
            query = (
                f'SELECT frame, row FROM shown JOIN frames ON frames.id=frame WHERE memory=? AND object_id IN ({marks})'
            )
            for frame, row in db.execute(query, (self._memory, *part)):
                gone.setdefault(frame, []).append(row)
        for frame, rows in gone.items():
            self._leave_frame(db, frame, rows)

    def _leave_frame(self, db: Any, frame: int, rows: Sequence[int]) -> None:
        boxes, vectors = db.execute('SELECT boxes, vectors FROM frame_rows WHERE frame=?', (frame,)).fetchone()
        left = codec.without_rows(boxes, rows, 20), codec.without_rows(vectors, rows, 2 * self.dim)
        shown = db.execute('SELECT row, object_id FROM shown WHERE frame=?', (frame,)).fetchall()
        kept = [(frame, n - sum(r < n for r in rows), i) for n, i in shown if n not in rows]
        db.execute('UPDATE frame_rows SET boxes=?, vectors=? WHERE frame=?', (*left, frame))
        db.execute('DELETE FROM frame_thumbnails WHERE frame=?', (frame,))
        db.execute('DELETE FROM shown WHERE frame=?', (frame,))
        db.executemany('INSERT INTO shown VALUES (?,?,?)', kept)

    def _delete_frames(self, db: Any, where: str, *values: Any) -> int:
        wanted = f'(SELECT id FROM frames WHERE memory=? AND {where})'
        for table in ('frame_rows', 'frame_thumbnails', 'shown'):
            db.execute(f'DELETE FROM {table} WHERE frame IN {wanted}', (self._memory, *values))
        return int(db.execute(f'DELETE FROM frames WHERE memory=? AND {where}', (self._memory, *values)).rowcount)


def _conditions(which: Filter, stamp: str, *, text: bool) -> tuple[str, list[Any]]:
    """SQL for a filter, to follow another condition, and its values."""
    parts: list[str] = []
    values: list[Any] = []
    for bound, sign in ((which.since, '>='), (which.until, '<')):
        if bound:
            parts.append(f'{stamp}{sign}?')
            values.append(_bounded(bound))
    if which.cameras:
        cameras = codec.storable(which.cameras)
        parts.append(f'camera IN ({",".join("?" * len(cameras))})')
        values += cameras
    if text and which.text:
        parts.append('instr(words, ?)')
        values.append(codec.words([which.text]))
    return ''.join(f' AND {part}' for part in parts), values


def _bounded(value: int) -> int:
    return max(-_INT64, min(int(value), _INT64 - 1))


def _batches(fetch: Callable[[int], list[T]], size: int = 64) -> Iterator[list[T]]:
    while found := fetch(size):
        yield found
