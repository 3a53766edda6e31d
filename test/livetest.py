# SPDX-License-Identifier: Apache-2.0
"""For tests of live nodes: node processes, a node of our own that talks to them, and cameras of coloured blobs.

Nothing here measures time: whatever is waited for is polled, with a deadline that a busy machine keeps.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, Image

from embedder_ros.msg import Query
from embedder_ros.nodes import wire
from embedder_ros.nodes.images import rgb_to_image, rgb_to_jpeg
from embedder_ros.nodes.messages import header
from embedder_ros.srv import Find

PATIENCE = 30.0  # seconds for anything to happen
STOP_SECONDS = 10.0  # between SIGINT and SIGKILL
COLOURS = {'red': (255, 0, 0), 'green': (0, 255, 0), 'blue': (0, 0, 255)}
WIDTH, HEIGHT = 320, 240
RELIABLE = QoSProfile(depth=10)

Box = Sequence[int]


def picture(**boxes: Box | Sequence[Box]) -> np.ndarray:
    """(240, 320, 3) black, with filled boxes x0 y0 x1 y1 of the named colours."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for colour, where in boxes.items():
        for x0, y0, x1, y1 in np.reshape(where, (-1, 4)):
            image[y0:y1, x0:x1] = COLOURS[colour]
    return image


class Process:
    """A node process, its output in a file."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path | None = None) -> None:
        self.log = log
        with log.open('wb') as output:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, 'PYTHONUNBUFFERED': '1', **env},
                cwd=cwd,
            )

    @property
    def output(self) -> str:
        """All it has written."""
        return self.log.read_text(errors='replace')

    def stop(self) -> int:
        """Ask it to end; its exit status, negative when it had to be killed."""
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGINT)
        try:
            return self.popen.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.popen.pid, signal.SIGKILL)
            return self.popen.wait()


class Robot:
    """Node processes in one namespace, and a node in this process that talks to them, and listens while it waits."""

    def __init__(self, namespace: str, logs: Path) -> None:
        self.namespace, self._logs = namespace, logs
        self.processes: list[Process] = []
        self._clients: dict[str, Any] = {}
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node('robot', namespace=namespace, context=self._context)
        self._statuses: dict[str, DiagnosticStatus] = {}
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        ours = f'{self.namespace.lstrip("/")}/'
        self._statuses.update({s.name.removeprefix(ours): s for s in msg.status if s.name.startswith(ours)})

    def start(
        self,
        name: str,
        *args: str,
        blobs: bool = True,
        env: Mapping[str, str] = MappingProxyType({}),
        cwd: Path | None = None,
        **parameters: Any,
    ) -> Process:
        """Start a node by its module's name, with the model of blobs.py or with the real ones."""
        program = [str(Path(__file__).with_name('blobs.py')), name] if blobs else ['-m', f'embedder_ros.nodes.{name}']
        values = [part for key, value in parameters.items() for part in ('-p', f'{key}:={json.dumps(value)}')]
        command = [sys.executable, *program, '--ros-args', '-r', f'__ns:={self.namespace}', *values, *args]
        process = Process(command, self._logs / f'{len(self.processes)}-{name}.log', env, cwd)
        self.processes.append(process)
        return process

    def until(self, ready: Callable[[], Any], what: str) -> Any:
        """What `ready` returns once it is true; fails with the nodes' logs when that takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not (value := ready()):
            if time.monotonic() > deadline:
                logs = '\n'.join(f'--- {p.log.name}\n{p.output[-3000:]}' for p in self.processes)
                raise AssertionError(f'waited {PATIENCE:g} s for {what}\n{logs}')
            self._executor.spin_once(timeout_sec=0.02)
        return value

    def settle(self, seconds: float = 0.3) -> None:
        """Take what is still on its way."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._executor.spin_once(timeout_sec=0.02)

    def listen(self, kind: Any, topic: str, qos: Any = RELIABLE) -> list[Any]:
        """A list that grows with the topic's messages."""
        received: list[Any] = []
        self.node.create_subscription(kind, topic, received.append, qos)
        return received

    def send(self, kind: Any, name: str, request: Any = None) -> Any:
        """The future of a service's response."""
        if name not in self._clients:
            self._clients[name] = self.node.create_client(kind, name, qos_profile=wire.SERVICE_QOS)
        self.until(self._clients[name].service_is_ready, f'service {name}')
        return self._clients[name].call_async(kind.Request() if request is None else request)

    def call(self, kind: Any, name: str, request: Any = None) -> Any:
        """A service's response, asked for again when none comes: see README.md, "Limits", for why that happens."""
        futures = [self.send(kind, name, request)]
        again = time.monotonic() + PATIENCE / 3

        def answered() -> Any:
            if len(futures) == 1 and time.monotonic() > again:
                futures.append(self.send(kind, name, request))
            return next((f for f in futures if f.done()), None)

        return self.until(answered, f'answer of {name}').result()

    def result(self, future: Any, what: str) -> Any:
        """A future's result."""
        self.until(future.done, what)
        return future.result()

    def find(self, text: str = '', **fields: Any) -> Find.Response:
        """Ask once. `fields` are those of the request."""
        return self.call(Find, 'find', Find.Request(**{'query': Query(text=text), **fields}))

    def found(self, text: str, **fields: Any) -> Find.Response:
        """Ask until the answer is FOUND."""

        def answer() -> Find.Response | None:
            response = self.find(text, **fields)
            return response if response.outcome == Find.Response.FOUND else None

        return self.until(answer, f'"{text}" to be found')

    def status(self, name: str, message: str = '') -> DiagnosticStatus:
        """The diagnostic status of that name in our namespace, once its message contains `message`."""

        def told() -> DiagnosticStatus | None:
            status = self._statuses.get(name)
            return status if status is not None and message in status.message else None

        return self.until(told, f'status {name} to say "{message}", not {self._statuses.get(name)}')

    @contextmanager
    def camera(self, topic: str, image: np.ndarray, *, hertz: float = 10.0, **options: Any) -> Iterator[Camera]:
        """A camera that shows `image` while the block lasts."""
        camera = Camera(self.node, topic, image, **options)
        stop = threading.Event()

        def run() -> None:
            while not stop.wait(1 / hertz):
                camera.publish()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield camera
        finally:
            stop.set()
            thread.join()
            self.node.destroy_publisher(camera.publisher)

    def close(self) -> None:
        """End our node and theirs."""
        try:
            for process in self.processes:
                process.stop()
        finally:
            self._executor.shutdown()
            self._context.shutdown()


class Camera:
    """Publishes one picture, which may be changed.

    Args:
        node: ours.
        topic: a name that ends in '/compressed' gets JPEG.
        image: (H, W, 3) uint8 RGB.
        qos: best effort, as camera drivers publish, unless given.
    """

    def __init__(self, node: Any, topic: str, image: np.ndarray, *, qos: QoSProfile = qos_profile_sensor_data) -> None:
        self.image = image
        self.compressed = topic.endswith('/compressed')
        self.count = 0
        self._node = node
        self.publisher = node.create_publisher(CompressedImage if self.compressed else Image, topic, qos)

    def message(self, stamp: int | None = None) -> Image | CompressedImage:
        """The picture, stamped with now unless a stamp in nanoseconds is given."""
        at = header(self._node.get_clock().now().nanoseconds if stamp is None else stamp, 'optical')
        return rgb_to_jpeg(self.image, at, 95) if self.compressed else rgb_to_image(self.image, at)

    def publish(self, stamp: int | None = None) -> None:
        """One image."""
        self.publisher.publish(self.message(stamp))
        self.count += 1


@contextmanager
def robot(namespace: str, logs: Path, *, calm: bool = True) -> Iterator[Robot]:
    """A Robot that is closed at the end; with `calm` no node may have logged a traceback and all end with status 0."""
    it = Robot(namespace, logs)
    try:
        yield it
    finally:
        it.close()
    if calm:
        for process in it.processes:
            assert 'Traceback' not in process.output, process.output
            assert process.stop() == 0, process.output
