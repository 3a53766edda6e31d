# SPDX-License-Identifier: Apache-2.0
"""Start, transitions and end of our lifecycle nodes."""

from __future__ import annotations

import functools
import re
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
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
    interrupt = _Interrupt()
    _init(args)
    nodes: Sequence[Any] = ()
    try:
        nodes = make_nodes()
        executor = SingleThreadedExecutor()
        for node in nodes:
            executor.add_node(node)
            autostart(node)
        with interrupt.left_to_rclpy():
            executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except ParameterException as error:  # the wrong type, or out of the declared range
        raise SystemExit(f'{error}; correct it in the command or the parameter file') from None
    except Exception:
        if rclpy.ok():  # what fails because the process is being ended is no error
            raise
    finally:
        for node in reversed(nodes):
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()


def _init(args: Sequence[str] | None) -> None:
    try:
        rclpy.init(args=args)
    except RuntimeError as error:  # rcl's own: arguments or a parameter file that it cannot read, no place for logs
        remedy = (
            'logs cannot be written there: set ROS_LOG_DIR to a folder that can be written, or add '
            '--disable-external-lib-logs after --ros-args to log to the terminal only'
            if 'log directory' in str(error)
            else 'correct what follows --ros-args'
        )
        reason = re.sub(r',?\s+at \S+:\d+', '', str(error))  # lines of rcl's source
        raise SystemExit(f'{" ".join(reason.split())}; {remedy}') from None


class _Interrupt:
    """SIGINT while rclpy spins only shuts its context down, which ends the spinning.

    Python's KeyboardInterrupt beside it may come up inside rclpy's C++, where it turns into a SystemError.
    """

    def __init__(self) -> None:
        self._left = False
        signal.signal(signal.SIGINT, self._on_sigint)  # before rclpy's own handler, which calls this one

    def _on_sigint(self, number: int, frame: Any) -> None:
        if not self._left:
            raise KeyboardInterrupt

    @contextmanager
    def left_to_rclpy(self) -> Iterator[None]:
        self._left = True
        try:
            yield
        finally:
            self._left = False
