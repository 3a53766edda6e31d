# SPDX-License-Identifier: Apache-2.0
"""The newest-frame slot between cameras and the model."""

import threading

import pytest

from embedder_ros.nodes.slots import Slots
from embedder_ros.types import UserError


def test_a_newer_frame_replaces_an_unread_one_and_is_counted_per_camera() -> None:
    slots = Slots()
    for n in range(5):
        slots.put('left', n)
    slots.put('right', 'r')
    assert slots.take() == ([], {'left': 4, 'right': 'r'})
    assert slots.replaced == {'left': 4}


def test_take_waits_and_close_wakes_it() -> None:
    slots = Slots()
    taken = []
    thread = threading.Thread(target=lambda: taken.append(slots.take()))
    thread.start()
    assert thread.is_alive()
    slots.close()
    thread.join(5)
    assert taken == [([], {})]


def test_jobs_left_at_close_are_still_handed_out_and_later_ones_are_refused() -> None:
    slots = Slots()
    done = []
    slots.put('left', 1)
    slots.submit(lambda: done.append(1))
    slots.close()
    jobs, frames = slots.take()
    for job in jobs:
        job()
    assert done == [1]
    assert frames == {}
    with pytest.raises(UserError, match='activate'):
        slots.submit(lambda: None)
