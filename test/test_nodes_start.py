# SPDX-License-Identifier: Apache-2.0
"""Each node as its own process: it becomes active by itself, and ends in order when asked to."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import rclpy
from lifecycle_msgs.srv import GetState
from rclpy.node import Node

from embedder_ros.nodes.processes import Child
from embedder_ros.types import UserError

LIMIT = 60.0


@pytest.fixture
def asker() -> Iterator[Node]:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('asker', context=context)
    yield node
    node.destroy_node()
    context.shutdown()


def state(asker: Node, name: str, process: Child) -> str:
    """The lifecycle state of a node once it is active, or its last one."""
    client = asker.create_client(GetState, f'{name}/get_state')
    executor = rclpy.executors.SingleThreadedExecutor(context=asker.context)
    executor.add_node(asker)
    deadline, label = time.monotonic() + LIMIT, 'absent'
    while label != 'active' and time.monotonic() < deadline:
        process.check()
        if client.wait_for_service(0.2):
            future = client.call_async(GetState.Request())
            executor.spin_until_future_complete(future, 1.0)
            label = future.result().current_state.label if future.done() else label
    executor.shutdown()
    return label


@pytest.mark.parametrize(
    ('executable', 'nodes'),
    [('embedder', ['embedder']), ('grounder', ['grounder']), ('perception', ['embedder', 'grounder'])],
)
def test_starts_active_and_ends_in_order(
    executable: str, nodes: list[str], node_process: Callable[..., Child], asker: Node
) -> None:
    process = node_process(executable, '-r', '__ns:=/robot')
    for name in nodes:
        assert state(asker, f'/robot/{name}', process) == 'active', process.tail()
    process.stop()
    process.check()  # raises when it ended with an error or had to be killed
    assert 'Traceback' not in process.log.read_text()


@pytest.mark.parametrize(
    ('arguments', 'reason'),
    [
        (['-p', 'max_objects:=0'], 'max_objects out of range'),
        (['-p', 'max_objects:=5.0'], "'max_objects' to '5.0' of type 'DOUBLE', expecting type 'INTEGER'"),
        (['-p', 'image_topics:=image'], "expecting type 'STRING_ARRAY'"),
        (['--params-file', '/nope.yaml'], "Couldn't parse params file: '--params-file /nope.yaml'"),
        (['-r', 'image'], "Couldn't parse remap rule: '-r image'"),
    ],
)
def test_a_mistake_in_the_arguments_is_one_line(
    arguments: list[str], reason: str, node_process: Callable[..., Child]
) -> None:
    process = node_process('perception', *arguments)
    deadline = time.monotonic() + LIMIT
    while process.running and time.monotonic() < deadline:
        time.sleep(0.1)
    with pytest.raises(UserError, match='died with status 1'):
        process.check()
    last = process.tail().splitlines()[-1]
    assert reason in last and '; correct ' in last and 'Traceback' not in process.log.read_text()


def test_an_empty_list_is_told_without_a_traceback(node_process: Callable[..., Child]) -> None:
    """It leaves the node alive, as other values do that only its configuring refuses."""
    process = node_process('embedder', '-p', 'image_topics:=[]')
    deadline = time.monotonic() + LIMIT
    while "'image_topics' is not initialized" not in process.tail() and time.monotonic() < deadline:
        process.check()
        time.sleep(0.1)
    assert 'give it a value' in process.tail() and 'Traceback' not in process.log.read_text() and process.running
