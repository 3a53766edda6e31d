# SPDX-License-Identifier: Apache-2.0
"""The inference thread: takes the newest frame of every waiting camera, runs the pipeline, hands the observations on.

It never dies of one bad frame: an exception is logged with its traceback, counted, and the next frames are taken.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from rclpy.task import Future

from embedder_ros.nodes.cameras import CameraInputs
from embedder_ros.nodes.slots import Slots
from embedder_ros.pipeline import Pipeline
from embedder_ros.positions import located
from embedder_ros.types import Frame, Observation, UserError

RECENT = 50  # batches whose processing time is averaged


class Worker:
    """Owns the model while active.

    Args:
        pipeline: frames to observations.
        inputs: decodes messages to frames.
        slots: where the messages wait.
        publish: called on this thread with the frames and their observations.
        on_error: called on this thread with an exception's text.
        history: frames kept per camera.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        inputs: CameraInputs,
        slots: Slots,
        publish: Callable[[Sequence[Frame], Sequence[Observation]], None],
        on_error: Callable[[str], None],
        history: int,
    ) -> None:
        self._pipeline, self._inputs, self._slots = pipeline, inputs, slots
        self._publish, self._on_error = publish, on_error
        self._history: dict[str, deque[Frame]] = {name: deque(maxlen=history) for name in inputs.cameras}
        self.frames = 0
        self.errors = 0
        self.last_error = ''
        self.seconds: deque[float] = deque(maxlen=RECENT)
        self._thread = threading.Thread(target=self._run, name='inference', daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the batch at hand."""
        self._slots.close()
        self._thread.join()

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras."""
        return list(self._history)

    def history(self, camera: str) -> list[Frame]:
        """The newest frames of a camera, oldest first. Only for jobs, on this thread."""
        return list(self._history[camera])

    def submit(self, job: Callable[[], Any], executor: Any) -> Future:
        """Run a job on this thread; the returned future wakes `executor` when it is done."""
        future: Future = Future(executor=executor)

        def run() -> None:
            try:
                future.set_result(job())
            except UserError as error:
                future.set_exception(error)
            except Exception as error:
                self._failed('job')
                future.set_exception(UserError(f'the model failed with {type(error).__name__}: {error}; see the log'))

        self._slots.submit(run)
        return future

    def _run(self) -> None:
        while not self._slots.closed:
            jobs, messages = self._slots.take()
            for job in jobs:
                job()
            try:
                self._batch(messages)
            except Exception:
                self.errors += 1
                self._failed('batch of frames')
        for job in self._slots.take()[0]:
            job()

    def _failed(self, what: str) -> None:
        text = traceback.format_exc()
        self.last_error = text.strip().splitlines()[-1]
        self._on_error(f'{what} skipped: {text}')

    def _batch(self, messages: dict[str, Any]) -> None:
        begin = time.perf_counter()
        frames = [f for f in (self._inputs.frame(name, m) for name, m in messages.items()) if f is not None]
        if not frames:
            return
        observations = self._pipeline.observe(frames)
        frames = [self._inputs.with_depth(frame) for frame in frames]
        observations = [located(frame, o) for frame, o in zip(frames, observations, strict=True)]
        for frame in frames:
            self._history[frame.camera].append(frame)
        self._publish(frames, observations)
        self.frames += len(frames)
        self.seconds.append(time.perf_counter() - begin)
