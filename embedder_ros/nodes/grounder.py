# SPDX-License-Identifier: Apache-2.0
"""Lifecycle node: `objects` in; tracks and targets out; answers `find`, runs `follow`, remembers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

from embedder_ros.grounding.scene import Question, Scene
from embedder_ros.msg import ModelInfo, ObjectEmbeddings, Query, Region
from embedder_ros.nodes import diagnostics, lifecycle, messages, parameters, wire
from embedder_ros.nodes.embedding import QueryEmbedder, RemoteEmbedder
from embedder_ros.nodes.follow import FollowServer
from embedder_ros.nodes.markers import markers
from embedder_ros.nodes.memory import MemoryServer
from embedder_ros.srv import Find
from embedder_ros.types import Answer, Outcome, UserError
from embedder_ros.types import ModelInfo as Model

DEFAULT_CANDIDATES = 5
MAX_CANDIDATES = 100


class Grounder(LifecycleNode):
    """Tracks every camera, remembers objects, and answers questions about what is in view and what was.

    Args:
        embedder: embeds queries; None asks an embedder node in another process.
    """

    def __init__(self, embedder: QueryEmbedder | None = None, **kwargs: Any) -> None:
        super().__init__('grounder', **kwargs)
        parameters.declare(self, parameters.GROUNDER)
        self.failure = ''
        self.scene: Scene | None = None
        self._queries = embedder or RemoteEmbedder(self)
        self._active = False
        self._follow: FollowServer | None = None
        self.memory_server: MemoryServer | None = None
        self._invalid = 0
        self._reporter = diagnostics.Reporter(self, self._diagnose)

    @lifecycle.reported
    def on_configure(self, state: Any) -> TransitionCallbackReturn:
        """Offer the services; listening starts at activate."""
        self._values = parameters.read(self, parameters.GROUNDER)
        self.memory_server = MemoryServer(self, self._queries, self._values)  # what can fail first: nothing is offered
        self._tracks = self.create_lifecycle_publisher(*wire.TRACKS.args)
        self._views = self._offer_views()
        self._find = wire.offer(self, wire.FIND, self._on_find)
        self._follow = FollowServer(self)
        self._subscriptions_in = [
            self.create_subscription(ModelInfo, wire.MODEL.name, self._on_model, wire.STATE_QOS),
            self.create_subscription(ObjectEmbeddings, wire.OBJECTS.name, self._on_objects, wire.OUTPUT_QOS),
        ]
        return super().on_configure(state)

    @lifecycle.reported
    def on_activate(self, state: Any) -> TransitionCallbackReturn:
        """Start to track."""
        self._active = True
        return super().on_activate(state)

    @lifecycle.reported
    def on_deactivate(self, state: Any) -> TransitionCallbackReturn:
        """Stop tracking; what was in view is forgotten, since it will be old when tracking starts again."""
        self.close()
        return super().on_deactivate(state)

    @lifecycle.reported
    def on_cleanup(self, state: Any) -> TransitionCallbackReturn:
        """Withdraw the services."""
        self._follow.destroy()
        self._follow = None
        self.memory_server.destroy()
        self.memory_server = None
        self.destroy_service(self._find)
        for publisher in (self._tracks, *self._views):
            self.destroy_lifecycle_publisher(publisher)
        for subscription in self._subscriptions_in:
            self.destroy_subscription(subscription)
        self.scene = None
        return super().on_cleanup(state)

    @lifecycle.reported
    def on_shutdown(self, state: Any) -> TransitionCallbackReturn:
        """Stop tracking."""
        self.close()
        return super().on_shutdown(state)

    def close(self) -> None:
        """Stop tracking; harmless when not started."""
        self._active = False
        if self._follow is not None:
            self._follow.end_all('the grounder was deactivated')
            self.memory_server.flush()
        if self.scene is not None:
            self.scene = self._new_scene(self.scene.model)

    @property
    def now(self) -> int:
        """The node's clock, nanoseconds."""
        return self.get_clock().now().nanoseconds

    def ready_scene(self) -> Scene:
        """The scene. Raises UserError, saying what is missing, before it can be asked."""
        if not self._active:
            raise UserError('the grounder is not active; activate it first')
        if self.scene is None:
            raise UserError(
                "no model has been announced on topic 'model'; is the embedder configured? See /diagnostics"
            )
        return self.scene

    async def question(self, query: Query) -> Question:
        """What a message asks for, embedded. Raises UserError for none or several queries, or one that fails."""
        given = messages.query_kind(query)
        if given == 'object_id':
            known = self.memory_server.known(query.object_id)
            words = f'object {known.name or known.object_id}'
            return Question(known.views[0].embedding, words, by_identity=True, object_id=known.object_id)
        if given == 'track_id':
            track = self.ready_scene().track(query.track_id)
            return Question(track.embedding, f'track {query.track_id}', by_identity=True, track_id=query.track_id)
        if given == 'text':
            return Question(await self._queries.text(query.text), query.text)
        return Question((await self._queries.region(query.region)).embedding, 'region', by_identity=True)

    def find(self, question: Question, cameras: Sequence[str], max_age: float = 0.0, limit: int = 0) -> Answer:
        """Ground a question in the newest views. Raises UserError."""
        return self.ready_scene().find(
            question,
            cameras=cameras,
            now=self.now,
            max_age=max_age or self._values.max_age,
            max_candidates=_limit(limit),
        )

    def _offer_views(self) -> dict[Any, Callable[..., Any]]:
        """Publishers of the live tracks in others' messages, and what makes those."""
        views = {self.create_lifecycle_publisher(*wire.MARKERS.args): markers}
        if wire.DETECTIONS.installed:
            from embedder_ros.nodes.detections import detections

            views[self.create_lifecycle_publisher(*wire.DETECTIONS.args)] = detections
        return views

    def _new_scene(self, model: Model) -> Scene:
        own, v = model.calibration, self._values
        thresholds = {
            'found': own.found if v.found_threshold < 0 else v.found_threshold,
            'margin': own.margin if v.margin < 0 else v.margin,
        }
        return Scene(model, replace(own, **thresholds), max_lost=v.max_lost)

    def _on_model(self, msg: ModelInfo) -> None:
        try:
            model = messages.model_info_from_msg(msg)
        except UserError as error:
            self.get_logger().error(f'model message refused: {error}')
            return
        if self.scene is None or self.scene.model.model_id != model.model_id:
            self._follow.end_all(f'the model is now {model.model_id}; ask again')
            self.scene = self._new_scene(model)
            self.memory_server.use(replace(model, calibration=self.scene.calibration))

    def _on_objects(self, msg: ObjectEmbeddings) -> None:
        if not self._active or self.scene is None:
            return
        try:
            observation = messages.observation_from_msg(msg)
            tracks = self.scene.update(observation, self.now)
        except UserError as error:
            self._invalid += 1
            self.get_logger().warning(f'objects message skipped: {error}', throttle_duration_sec=10.0)
            return
        tracks = self.memory_server.recognise(observation, tracks)
        self.scene.recognised(observation.camera, tracks)
        self._tracks.publish(messages.tracks_to_msg(tracks, observation))
        for publisher, view in self._views.items():
            if publisher.get_subscription_count():
                names = self.memory_server.names(track.object_id for track in tracks)
                publisher.publish(view(tracks, observation, names))
        self._follow.on_frame(observation, tracks)

    async def _on_find(self, request: Find.Request, response: Find.Response) -> None:
        answer, remembered = await self._answer(request)
        messages.answer_to_response(answer, response, remembered=remembered)
        self.memory_server.describe(response.candidates, thumbnails=request.thumbnails and remembered)
        if request.thumbnails and not remembered:
            await self._add_thumbnails(response)

    async def _answer(self, request: Find.Request) -> tuple[Answer, bool]:
        """The answer in the scope that is asked for, and whether it is from memory."""
        scope = request.scope
        if scope not in (Find.Request.NOW, Find.Request.MEMORY, Find.Request.BOTH):
            raise UserError(f'scope {scope} is none of NOW 0, MEMORY 1, BOTH 2')
        self.ready_scene()
        question = await self.question(request.query)
        if scope != Find.Request.MEMORY:
            cameras = list(request.cameras)
            answer = self.find(
                question, cameras, request.max_age if scope == Find.Request.NOW else 0.0, request.max_candidates
            )
            self.memory_server.found(request.query.text, answer)
            if scope == Find.Request.NOW or answer.outcome is not Outcome.NOT_FOUND:
                return answer, False
        return self.memory_server.find(question, request, _limit(request.max_candidates)), True

    async def _add_thumbnails(self, response: Find.Response) -> None:
        for candidate in response.candidates:
            region = Region(header=candidate.header, camera=candidate.camera, box=candidate.box)
            try:
                candidate.thumbnail = await self._queries.thumbnail(region)
            except UserError as error:  # the frame is gone: the answer stands without its picture
                self.get_logger().info(f'no thumbnail: {error}')

    def _diagnose(self) -> list[DiagnosticStatus]:
        values = {'skipped messages': self._invalid}
        if self.scene is None:
            level, message = diagnostics.WARN, "waiting for topic 'model' from the embedder"
        else:
            level, message = (diagnostics.OK, 'tracking') if self._active else (diagnostics.OK, 'not active')
            values |= {f'live tracks, {name}': len(view.tracks) for name, view in self.scene.views.items()}
        if self.failure:
            level, message = diagnostics.ERROR, self.failure
        statuses = [diagnostics.status(self, 'scene', level, message, values)]
        return statuses + ([self.memory_server.status()] if self.memory_server is not None else [])


def _limit(asked: int) -> int:
    return min(asked or DEFAULT_CANDIDATES, MAX_CANDIDATES)


def main(args: Sequence[str] | None = None) -> None:
    """Run the grounder alone; an embedder node must run in the same namespace."""
    lifecycle.run(lambda: [Grounder()], args)


if __name__ == '__main__':
    main()
