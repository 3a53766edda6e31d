# SPDX-License-Identifier: Apache-2.0
"""The memory of a fleet: PostgreSQL with pgvector. Several robots write at once; the newest write of an object stays.

Search runs on the server: exact by a pass over the vectors that the filter leaves, and by an HNSW index beyond
`store.EXACT` of them. The index is made in the background when a memory that has grown so large is opened or searched,
and again later when that fails. What is forgotten is deleted in one transaction; the server's own log and backups keep
its bytes until they are recycled and vacuumed, which is its administrator's.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np

from embedder_ros.memory import codec, store
from embedder_ros.memory.codec import FrameRow, ObjectRow, ViewRow
from embedder_ros.memory.postgres_server import Cursor, Half, Server
from embedder_ros.memory.store import Filter, FrameHit, Hit, Other, Places, StoredFrame
from embedder_ros.types import FloatArray, ModelInfo, Object, UserError

EF_SEARCH = 200  # candidates of the approximate index. Raising it finds more and takes longer.
INDEX_PAUSE = 600.0  # seconds after which an index that could not be made is tried again, when it is missed
_COLUMNS = 'object_id, last_seen, camera, words, position_frame, x, y, z, presence, body'

_log = logging.getLogger(__name__)

T = TypeVar('T')


class PostgresStore:
    """Objects and frames of one map and one model on a server. See `store.Store` for what the methods do.

    Args:
        url: postgresql://user:password@host:port/database.
        map_id: the map.
        model: what embeds; its identity view compares individuals.

    Attributes:
        others: what the server holds of other maps and models.

    Raises:
        UserError: see Server; or the model's vectors changed their length.
    """

    def __init__(self, url: str, map_id: str, model: ModelInfo) -> None:
        self.map_id, self.model_id, self.dim = codec.text(map_id, 'the map id'), model.model_id, model.dim
        self._model = model
        self._lock = threading.RLock()
        self._server = Server(url)
        try:
            self._memory = self._run(self._claimed)
            identity = model.dim if model.identity_view is None else model.identity_view.shape[1]
            self._server.tables(self._memory, model.dim, identity)
            self.others = self._run(self._found)
            large = self.count()[0] > store.EXACT
        except BaseException:
            self._server.close()
            raise
        self._indexed = False
        self._index_after = 0.0  # by time.monotonic, from when it may be made; never while it is
        if large:
            self._index_aside()

    # Objects.

    def put(self, objects: Iterable[Object]) -> None:
        """Insert or replace. Raises UserError for another map or model, a vector of wrong length, not unit, or NaN."""
        newest = {o.object_id: o for o in objects}
        in_order = [newest[i] for i in sorted(newest)]  # the same for all robots, so that they do not deadlock
        rows = codec.object_rows(in_order, self.map_id, self._model)
        if rows:
            self._run(partial(self._put, rows))

    def get(self, object_id: str) -> Object | None:
        """The object, with views and thumbnails; None when there is none."""
        return next(iter(self.read([object_id])), None)

    def read(self, object_ids: Sequence[str]) -> list[Object]:
        """Those of the objects that there are, in this order."""
        return self._run(partial(self._read, codec.storable(object_ids)))

    def forget(self, object_ids: Sequence[str]) -> list[str]:
        """Delete: rows, views, thumbnails, index, its rows in frames and those frames' thumbnails."""
        wanted = codec.storable(dict.fromkeys(object_ids))
        known = self._run(partial(self._forget, wanted)) if wanted else set()
        return [i for i in dict.fromkeys(object_ids) if i not in known]

    def clear(self) -> int:
        """Forget every object and frame of this map and model; how many objects."""

        def work(cursor: Cursor) -> int:
            cursor.execute(f'DELETE FROM frames_{self._memory}')
            return int(cursor.execute(f'DELETE FROM objects_{self._memory}').rowcount)

        return self._run(work)

    def objects(self, which: Filter, limit: int, offset: int = 0) -> tuple[list[Object], int]:
        """Objects, last seen first, and how many match in all."""
        where, values = _conditions(which, 'last_seen', text=True)
        table = f'FROM objects_{self._memory} WHERE true{where}'

        def work(cursor: Cursor) -> tuple[list[Object], int]:
            total = cursor.execute(f'SELECT count(*) {table}', values).fetchone()[0]
            order = 'ORDER BY last_seen DESC, object_id LIMIT %s OFFSET %s'
            found = cursor.execute(f'SELECT object_id {table} {order}', (*values, limit, offset)).fetchall()
            return self._read([i for (i,) in found], cursor), total

        return self._run(work)

    def places(self) -> Places:
        """Every object with a position, without reading views."""
        columns = 'object_id, position_frame, x, y, z, last_seen, presence'
        query = f'SELECT {columns} FROM objects_{self._memory} WHERE x IS NOT NULL'
        found = self._run(lambda cursor: cursor.execute(query).fetchall())
        ids, frames, x, y, z, seen, presence = zip(*found, strict=True) if found else ((),) * 7
        positions = np.column_stack([np.asarray(a, np.float64) for a in (x, y, z)])
        return Places(list(ids), list(frames), positions, np.asarray(seen, np.int64), np.asarray(presence, np.float32))

    def search(self, vectors: FloatArray, k: int, which: Filter, *, identity: bool = False) -> list[list[Hit]]:
        """For each of (Q, D) unit vectors the k objects with the nearest views, best first."""
        queries = codec.checked_vectors(vectors, self.dim, 'the query')
        column = 'individual' if identity and self._model.identity_view is not None else 'vector'
        queries = self._model.identity(queries) if identity else queries
        where, values = _conditions(which, 'last_seen', text=True)
        m = self._memory

        def work(cursor: Cursor) -> list[list[Hit]]:
            approximate = self._approximate(cursor, where, values)
            table = f'views_{m} JOIN objects_{m} ON id=object WHERE true{where}'
            return [
                [
                    Hit(object_id, 1 - distance, place)
                    for object_id, place, distance in _nearest(
                        cursor, f'object_id, place, {column}', table, values, q, k, approximate
                    )
                ]
                for q in queries
            ]

        return self._run(work)

    # Frames.

    def put_frame(self, frame: StoredFrame) -> None:
        """Insert or replace the camera's frame of that stamp."""
        row = codec.frame_row(frame, self.dim)
        size, m = 2 * self.dim, self._memory
        whole = [Half(row.whole[i : i + size]) if row.whole else None for i in (0, size)]

        def work(cursor: Cursor) -> None:
            cursor.execute(f'DELETE FROM frames_{m} WHERE camera=%s AND stamp=%s', (row.camera, row.stamp))
            (frame_id,) = cursor.execute(
                f'INSERT INTO frames_{m} (camera, stamp, body, coarse, detailed, thumbnail) VALUES (%s,%s,%s,%s,%s,%s) '
                'RETURNING id',
                (row.camera, row.stamp, row.body, *whole, row.thumbnail),
            ).fetchone()
            rows = [
                (frame_id, n, i, row.boxes[20 * n : 20 * n + 20], Half(row.vectors[size * n : size * (n + 1)]))
                for n, i in enumerate(row.object_ids)
            ]
            cursor.executemany(f'INSERT INTO shown_{m} VALUES (%s,%s,%s,%s,%s)', rows)

        self._run(work)

    def get_frame(self, camera: str, stamp: int) -> StoredFrame | None:
        """The frame; None when there is none."""
        m = self._memory
        if not codec.storable([camera]):
            return None

        def work(cursor: Cursor) -> StoredFrame | None:
            query = f'SELECT id, body, coarse, detailed, thumbnail FROM frames_{m} WHERE camera=%s AND stamp=%s'
            found = cursor.execute(query, (camera, stamp)).fetchone()
            if found is None:
                return None
            frame_id, body, coarse, detailed, thumbnail = found
            query = f'SELECT object_id, box, vector FROM shown_{m} WHERE frame=%s ORDER BY row'
            rows = cursor.execute(query, (frame_id,)).fetchall()
            ids, boxes, vectors = zip(*rows, strict=True) if rows else ((), (), ())
            whole = (coarse or b'') + (detailed or b'')
            row = FrameRow(camera, stamp, body, whole, b''.join(vectors), b''.join(boxes), ids, thumbnail)
            return codec.read_frame(row, self.dim)

        return self._run(work)

    def search_frames(self, vector: FloatArray, k: int, which: Filter, *, row: int = -1) -> list[FrameHit]:
        """The k frames nearest to (D,): by their best object, or by frame embedding `row` (0 coarse, 1 detailed)."""
        query = codec.checked_vectors(np.asarray(vector)[None], self.dim, 'the query')[0]
        where, values = _conditions(which, 'stamp', text=False)
        m = self._memory
        column = 'vector' if row < 0 else ('coarse', 'detailed')[row]
        table = f'shown_{m} JOIN frames_{m} ON id=frame WHERE true' if row < 0 else f'frames_{m} WHERE {column} NOTNULL'
        columns = f'id, {"row" if row < 0 else -1}, camera, stamp, {column}'

        def work(cursor: Cursor) -> list[FrameHit]:
            found = _nearest(cursor, columns, table + where, values, query, k, False)
            return [FrameHit(stamp, camera, 1 - distance, n) for _, n, camera, stamp, distance in found]

        return self._run(work)

    def drop_frames(self, before: int) -> int:
        """Delete frames with an older stamp; how many."""
        query = f'DELETE FROM frames_{self._memory} WHERE stamp<%s'
        return self._run(lambda cursor: int(cursor.execute(query, (before,)).rowcount))

    def count(self) -> tuple[int, int]:
        """Number of objects and of frames."""
        m = self._memory
        query = f'SELECT (SELECT count(*) FROM objects_{m}), (SELECT count(*) FROM frames_{m})'
        return self._run(lambda cursor: cursor.execute(query).fetchone())

    def close(self) -> None:
        """Disconnect; harmless when repeated."""
        with self._lock:
            self._server.close()

    def _run(self, work: Callable[[Cursor], T]) -> T:
        with self._lock:
            return self._server.run(work)

    def _claimed(self, cursor: Cursor) -> int:
        """The number of this map and model, made when it is new."""
        key = (self.map_id, codec.text(self.model_id, 'the model id'))
        cursor.execute(
            'INSERT INTO memories (map_id, model_id, dim) VALUES (%s,%s,%s) ON CONFLICT DO NOTHING', (*key, self.dim)
        )
        query = 'SELECT id, dim FROM memories WHERE map_id=%s AND model_id=%s'
        row, dim = cursor.execute(query, key).fetchone()
        if dim != self.dim:
            raise UserError(
                f"{self._server.name} holds vectors of {dim} numbers by model '{self.model_id}', which now gives "
                f'{self.dim}: load the model that wrote it, or name another database'
            )
        return int(row)

    def _found(self, cursor: Cursor) -> tuple[Other, ...]:
        memories = cursor.execute('SELECT id, map_id, model_id FROM memories WHERE id!=%s', (self._memory,)).fetchall()
        others = []
        for row, map_id, model_id in memories:
            if cursor.execute("SELECT to_regclass('objects_' || %s)::text", (str(row),)).fetchone()[0]:
                count = cursor.execute(f'SELECT count(*) FROM objects_{row}').fetchone()[0]
                others.append(Other(map_id, model_id, count))
        return tuple(o for o in others if o.objects)

    def _index_aside(self) -> None:
        """Make the index in the background, unless that goes on or has failed just now."""
        if time.monotonic() >= self._index_after:
            self._index_after = math.inf
            threading.Thread(target=self._build_indexes, name='memory index', daemon=True).start()

    def _build_indexes(self) -> None:
        columns = ('vector',) if self._model.identity_view is None else ('vector', 'individual')
        try:
            for column in columns:
                self._server.index(self._memory, column)
        except Exception as error:  # noqa: BLE001 - search goes on without, exact and slower
            _log.warning('the index of %s was not made, search stays exact and slow: %s', self._server.name, error)
            self._index_after = time.monotonic() + INDEX_PAUSE
        else:
            self._indexed = True

    def _approximate(self, cursor: Cursor, where: str, values: Sequence[Any]) -> bool:
        """Whether more objects than can be compared one by one are left; prepares the transaction for it."""
        query = f'SELECT count(*) FROM objects_{self._memory} WHERE true{where}'
        if cursor.execute(query, values).fetchone()[0] <= store.EXACT:
            return False
        if not self._indexed:
            self._index_aside()
            return False
        cursor.execute(f'SET LOCAL hnsw.ef_search={EF_SEARCH}')
        cursor.execute("SET LOCAL hnsw.iterative_scan='strict_order'")
        return True

    def _put(self, rows: Sequence[ObjectRow], cursor: Cursor) -> None:
        m = self._memory
        names = _COLUMNS.split(', ')
        changes = ', '.join(f'{n}=excluded.{n}' for n in names[1:])
        cursor.executemany(
            f'INSERT INTO objects_{m} ({_COLUMNS}) VALUES ({",".join(["%s"] * len(names))}) '
            f'ON CONFLICT (object_id) DO UPDATE SET {changes}',
            [_values(o) for o in rows],
        )
        found = cursor.execute(
            f'SELECT object_id, id FROM objects_{m} WHERE object_id=ANY(%s)', ([o.object_id for o in rows],)
        )
        ids = dict(found.fetchall())
        listed = cursor.execute(
            f'SELECT object, mark, place FROM views_{m} WHERE object=ANY(%s)', (list(ids.values()),)
        )
        old = {(row, mark): place for row, mark, place in listed.fetchall()}
        new = {(ids[o.object_id], v.mark): (place, v) for o in rows for place, v in enumerate(o.views)}
        self._put_views(cursor, old, new)

    def _put_views(
        self, cursor: Cursor, old: dict[tuple[int, int], int], new: dict[tuple[int, int], tuple[int, ViewRow]]
    ) -> None:
        m = self._memory
        cursor.executemany(f'DELETE FROM views_{m} WHERE object=%s AND mark=%s', sorted(old.keys() - new.keys()))
        moved = [(place, *key) for key, (place, _) in new.items() if old.get(key, place) != place]
        cursor.executemany(f'UPDATE views_{m} SET place=%s WHERE object=%s AND mark=%s', moved)
        added = [(*key, place, v) for key, (place, v) in new.items() if key not in old]
        cursor.executemany(
            f'INSERT INTO views_{m} VALUES (%s,%s,%s,%s,%s,%s,%s)',
            [
                (row, mark, place, v.body, Half(v.vector), self._individual(v.vector), v.thumbnail)
                for row, mark, place, v in added
            ],
        )

    def _individual(self, packed: bytes) -> Half | None:
        if self._model.identity_view is None:
            return None
        return Half(codec.pack_vectors(self._model.identity(codec.unpack_vectors(packed, self.dim))))

    def _read(self, object_ids: Sequence[str], cursor: Cursor) -> list[Object]:
        """The objects, in this order."""
        m = self._memory
        found = cursor.execute(
            f'SELECT id, {_COLUMNS} FROM objects_{m} WHERE object_id=ANY(%s)', (list(object_ids),)
        ).fetchall()
        query = f'SELECT object, mark, body, vector, thumbnail FROM views_{m} WHERE object=ANY(%s) ORDER BY place'
        views: dict[int, list[ViewRow]] = {row[0]: [] for row in found}
        for row, *view in cursor.execute(query, (list(views),)):
            views[row].append(ViewRow(*view))
        rows = []
        for row, object_id, last_seen, camera, words, frame, x, y, z, presence, body in found:
            position = None if x is None else (x, y, z)
            part = tuple(views[row])
            rows.append(ObjectRow(object_id, last_seen, camera, words, frame, position, presence, body, part))
        objects = {o.object_id: o for o in codec.read_objects(rows, self.map_id, self._model)}
        return [objects[i] for i in object_ids if i in objects]

    def _forget(self, object_ids: Sequence[str], cursor: Cursor) -> set[str]:
        m = self._memory
        query = f'DELETE FROM objects_{m} WHERE object_id=ANY(%s) RETURNING object_id'
        known = {i for (i,) in cursor.execute(query, (sorted(object_ids),))}
        query = f'DELETE FROM shown_{m} WHERE object_id=ANY(%s) RETURNING frame'
        frames = sorted({frame for (frame,) in cursor.execute(query, (list(known),))})
        cursor.execute(f"UPDATE frames_{m} SET thumbnail='' WHERE id=ANY(%s)", (frames,))
        again = f'SELECT frame, row, row_number() OVER (PARTITION BY frame ORDER BY row) - 1 AS n FROM shown_{m}'
        cursor.execute(
            f'UPDATE shown_{m} s SET row=n FROM ({again} WHERE frame=ANY(%s)) r WHERE s.frame=r.frame AND s.row=r.row',
            (frames,),
        )
        return known


def _values(o: ObjectRow) -> tuple[Any, ...]:
    """What goes into _COLUMNS."""
    place = o.position or (None, None, None)
    return o.object_id, o.last_seen, o.camera, o.words, o.position_frame, *place, o.presence, o.body


def _nearest(
    cursor: Cursor, columns: str, table: str, values: Sequence[Any], query: FloatArray, k: int, approximate: bool
) -> list[tuple[Any, ...]]:
    """The k rows of different first columns nearest to the query; the last column is replaced by the distance."""
    *rest, vector = columns.split(', ')
    distance = f'({vector} <=> %s)' + ('' if approximate else ' + 0')  # a sum keeps the planner off the index
    sql = f'SELECT {", ".join(rest)}, {vector} <=> %s FROM {table} ORDER BY {distance} LIMIT %s'
    half, limit = Half(codec.pack_vectors(query)), 4 * k
    while True:
        found = cursor.execute(sql, (half, *values, half, limit)).fetchall()
        best: dict[Any, tuple[Any, ...]] = {}
        for row in found:
            best.setdefault(row[0], row)
        if len(best) >= k or len(found) < limit:
            return list(best.values())[:k]
        limit *= 4


def _conditions(which: Filter, stamp: str, *, text: bool) -> tuple[str, list[Any]]:
    """SQL for a filter, to follow another condition, and its values."""
    parts: list[str] = []
    values: list[Any] = []
    for bound, sign in ((which.since, '>='), (which.until, '<')):
        if bound:
            parts.append(f'{stamp}{sign}%s')
            values.append(bound)
    if which.cameras:
        parts.append('camera=ANY(%s)')
        values.append(codec.storable(which.cameras))
    if text and which.text:
        parts.append('strpos(words, %s) > 0')
        values.append(codec.words([which.text]))
    return ''.join(f' AND {part}' for part in parts), values
