# SPDX-License-Identifier: Apache-2.0
"""Lifecycle node: cameras in, `objects` out. Owns the model; answers `embed_text` and `embed_region` while it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from sensor_msgs.msg import CompressedImage

from embedder_ros import draw
from embedder_ros.models.base import TextKind
from embedder_ros.models.registry import load_model
from embedder_ros.nodes import diagnostics, lifecycle, messages, parameters, regions, wire
from embedder_ros.nodes.cameras import CameraInputs, configured_cameras
from embedder_ros.nodes.images import rgb_to_image
from embedder_ros.nodes.slots import Slots
from embedder_ros.nodes.worker import Worker
from embedder_ros.pipeline import Pipeline
from embedder_ros.srv import EmbedRegion, EmbedText
from embedder_ros.types import NANOSECONDS, FloatArray, Frame, Observation, UserError

MAX_TEXTS = 256


class Embedder(LifecycleNode):
    """The model is loaded at configure and kept across deactivate; cameras are listened to while active."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__('embedder', **kwargs)
        parameters.declare(self, parameters.EMBEDDER)
        self.failure = ''
        self.pipeline: Pipeline | None = None
        self._worker: Worker | None = None
        self._inputs: CameraInputs | None = None
        self._slots = Slots()
        self._monitor = diagnostics.CameraMonitor()
        self._latency = float('nan')
        self._reporter = diagnostics.Reporter(self, self._diagnose)

    @lifecycle.reported
    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Load the model and offer the services."""
        self._values = parameters.read(self, parameters.EMBEDDER)
        self._cameras = configured_cameras(self, self._values)
        v = self._values
        model = load_model(
            v.model, device=v.device, precision=v.precision, threads=v.threads, prompt=v.prompt, proposals=v.proposals,
            min_tokens=v.min_tokens, max_tokens=v.max_tokens,
        )  # fmt: skip
        self.pipeline = Pipeline(
            model.embedder, model.proposer, max_objects=v.max_objects, score_threshold=v.score_threshold
        )
        self._objects = self.create_lifecycle_publisher(*wire.OBJECTS.args)
        self._picture = self.create_lifecycle_publisher(*wire.PICTURE.args)
        self._info = self.create_publisher(*wire.MODEL.args)
        self._info.publish(messages.model_info_to_msg(model.embedder.info))
        self._offered = [
            wire.offer(self, wire.EMBED_TEXT, self._on_embed_text),
            wire.offer(self, wire.EMBED_REGION, self._on_embed_region),
        ]
        self.get_logger().info(f'model {model.embedder.info.model_id} is ready')
        return super().on_configure(state)

    @lifecycle.reported
    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Listen to the cameras."""
        v = self._values
        self._slots = Slots()
        self._inputs = CameraInputs(
            self, self._cameras, self._slots, depth_slop=v.depth_slop, max_frame_age=v.max_frame_age
        )
        self._worker = Worker(self.pipeline, self._inputs, self._slots, self._publish, self._on_error, v.frame_history)
        self.get_logger().info('listening to ' + ', '.join(c.image_topic for c in self._cameras))
        return super().on_activate(state)

    @lifecycle.reported
    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Stop listening; the model stays."""
        self.close()
        return super().on_deactivate(state)

    @lifecycle.reported
    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Release the model."""
        for publisher in (self._objects, self._picture):
            self.destroy_lifecycle_publisher(publisher)
        self.destroy_publisher(self._info)
        for service in self._offered:
            self.destroy_service(service)
        self.pipeline = None
        return super().on_cleanup(state)

    @lifecycle.reported
    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """Stop the inference thread."""
        self.close()
        return super().on_shutdown(state)

    def close(self) -> None:
        """Stop the inference thread and the subscriptions; harmless when there are none."""
        if self._worker is not None:
            self._inputs.close()
            self._worker.stop()
            self._worker = None

    def embed_texts(self, texts: Sequence[str], kind: TextKind = TextKind.OBJECT) -> FloatArray:
        """(T, D) unit rows. Raises UserError when not configured, or for texts that cannot be embedded."""
        if self.pipeline is None:
            raise UserError(f'the embedder has no model: {self.failure or "it is not configured"}')
        if not 0 < len(texts) <= MAX_TEXTS:
            raise UserError(f'{len(texts)} texts; give 1 to {MAX_TEXTS}')
        return self.pipeline.embedder.embed_text(list(texts), kind)

    async def embed_region(self, region: Any) -> tuple[Frame, Observation]:
        """The meant frame and a one-row Observation, computed on the inference thread. Raises UserError."""
        return await self._on_worker(lambda worker: regions.embed_region(region, self.pipeline, worker))

    async def thumbnail(self, region: Any) -> CompressedImage:
        """JPEG of a region's box. Raises UserError when its frame is not kept any more."""
        frame = await self._on_worker(lambda worker: regions.meant_frame(region, worker))
        return messages.box_jpeg(frame, region.box)

    async def _on_worker(self, job: Callable[[Worker], Any]) -> Any:
        worker = self._worker
        if worker is None:
            raise UserError('the embedder is not active; activate it first')
        return await worker.submit(lambda: job(worker), self.executor)

    def _on_error(self, text: str) -> None:
        if self.context.ok():  # what fails because the process is being ended is no error
            self.get_logger().error(text, throttle_duration_sec=10.0)

    def _publish(self, frames: Sequence[Frame], observations: Sequence[Observation]) -> None:
        for observation in observations:
            self._objects.publish(messages.observation_to_msg(observation))
        if self._picture.get_subscription_count():
            for frame, observation in zip(frames, observations, strict=True):
                header = messages.header(observation.stamp, observation.frame_id)
                self._picture.publish(rgb_to_image(draw.draw_observation(frame.image, observation), header))
        self._latency = (self.get_clock().now().nanoseconds - frames[-1].stamp) / NANOSECONDS

    def _on_embed_text(self, request: EmbedText.Request, response: EmbedText.Response) -> None:
        try:
            kind = TextKind(request.kind)
        except ValueError as error:
            raise UserError(str(error)) from None
        messages.fill_embed_text(response, self.embed_texts(request.texts, kind), self.pipeline.embedder.info, kind)

    async def _on_embed_region(self, request: EmbedRegion.Request, response: EmbedRegion.Response) -> None:
        frame, observation = await self.embed_region(request.region)
        messages.fill_embed_region(response, frame, observation, request.thumbnail)

    def _diagnose(self) -> list[DiagnosticStatus]:
        statuses = [self._model_status()]
        if self._worker is not None:
            statuses += [
                self._monitor.look(self, self._inputs, camera, self._slots.replaced[camera.name])
                for camera in self._cameras
            ]
        return statuses

    def _model_status(self) -> DiagnosticStatus:
        if self.pipeline is None:
            level = diagnostics.ERROR if self.failure else diagnostics.WARN
            return diagnostics.status(self, 'model', level, self.failure or 'not configured', {})
        values: dict[str, Any] = {'model_id': self.pipeline.embedder.info.model_id}
        worker = self._worker
        if worker is None:
            return diagnostics.status(self, 'model', diagnostics.OK, 'loaded, not active', values)
        seconds = list(worker.seconds)
        values |= {'frames': worker.frames, 'failed batches': worker.errors, 'stamp to publish (s)': self._latency}
        values |= {'processing (s)': sum(seconds) / len(seconds)} if seconds else {}
        if worker.errors:
            message = f'{worker.errors} batches failed, the last with {worker.last_error}; see the log'
            return diagnostics.status(self, 'model', diagnostics.WARN, message, values)
        return diagnostics.status(self, 'model', diagnostics.OK, 'running' if seconds else 'waiting for image', values)


def main(args: Sequence[str] | None = None) -> None:
    """Run the embedder alone."""
    lifecycle.run(lambda: [Embedder()], args)


if __name__ == '__main__':
    main()
