# SPDX-License-Identifier: Apache-2.0
"""A memory by its URL: a file on the robot, RAM, or a fleet's server."""

from __future__ import annotations

import logging

from embedder_ros.memory.sqlite import SqliteStore
from embedder_ros.memory.store import Store
from embedder_ros.types import ModelInfo, UserError

_log = logging.getLogger(__name__)


def open_store(url: str, map_id: str, model: ModelInfo, *, capacity: int = 0) -> Store:
    """Open the memory of one map and one model; made when it is not there.

    Args:
        url: a file ('~/.ros/objects.db' or 'sqlite:///...'), '' for RAM, or 'postgresql://user@host/database'.
        map_id: the map; '' when none is named.
        model: what embeds. What another model embedded stays and is never compared; `others` tells of it.
        capacity: objects for which memory is reserved; it is used only when they come.

    Raises:
        UserError: the memory cannot be opened; the message names the remedy.
    """
    store = _opened(url, map_id, model, capacity)
    if store.others and not store.count()[0]:
        for other in store.others:
            _log.warning(
                "nothing is remembered of map '%s' by model '%s'; %d objects of map '%s' by model '%s' are kept and "
                'not compared: load that model and name that map to use them',
                map_id, model.model_id, other.objects, other.map_id, other.model_id,
            )  # fmt: skip
    return store


def _opened(url: str, map_id: str, model: ModelInfo, capacity: int) -> Store:
    scheme, _, rest = url.partition('://')
    if scheme in ('postgresql', 'postgres') and rest:
        from embedder_ros.memory.postgres import PostgresStore

        return PostgresStore(url, map_id, model)
    if rest and scheme != 'sqlite':
        raise UserError(f"'{url}' is no memory; name a file, '' for RAM, or postgresql://user@host/database")
    return SqliteStore(rest if rest else url, map_id, model, capacity=capacity)
