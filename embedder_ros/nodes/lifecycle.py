# SPDX-License-Identifier: Apache-2.0
"""Start, transitions and end of our lifecycle nodes."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from embedder_ros.types import UserError

Transition = Callable[..., TransitionCallbackReturn]


def reported(transition: Transition) -> Transition:
    """Log why a transition failed, which rclpy swallows; a UserError leaves the node alive in its old state."""

    @functools.wraps(transition)
    def wrapper(node: Any, state: Any) -> TransitionCallbackReturn:
        try:
            result = transition(node, state)
            node.failure = ''
            return result
        except UserError as error:
            node.failure = str(error)
            node.get_logger().error(node.failure)
            return TransitionCallbackReturn.FAILURE
        except Exception:
            node.failure = traceback.format_exc().strip().splitlines()[-1]
            node.get_logger().error(traceback.format_exc())
            return TransitionCallbackReturn.ERROR

    return wrapper


def autostart(node: LifecycleNode) -> None:
    """Configure and activate when the node's parameter asks for it; failures are logged by `reported`."""
    if node.get_parameter('autostart').value and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()


def run(make_nodes: Callable[[], Sequence[Any]], args: Sequence[str] | None = None) -> None:
    """Spin nodes until SIGINT or shutdown, then stop their threads and destroy them."""
    rclpy.init(args=args)
    nodes: Sequence[Any] = ()
    try:
        nodes = make_nodes()
        executor = SingleThreadedExecutor()
        for node in nodes:
            executor.add_node(node)
            autostart(node)
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        for node in reversed(nodes):
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
