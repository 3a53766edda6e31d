# SPDX-License-Identifier: Apache-2.0
"""The grounder's object memory: opens it for the running model, feeds it with tracks and pictures, answers."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.task import Future

from embedder_ros.grounding.scene import Question
from embedder_ros.memory.memory import Memory, Place
from embedder_ros.memory.open import open_store
from embedder_ros.memory.policy import PERSON_WORDS, Settings
from embedder_ros.memory.store import Filter
from embedder_ros.models.base import TextKind
from embedder_ros.msg import Query, Region
from embedder_ros.nodes import diagnostics, messages, parameters, recall, wire
from embedder_ros.nodes.embedding import QueryEmbedder
from embedder_ros.nodes.images import smaller_jpeg
from embedder_ros.nodes.poses import Poses
from embedder_ros.srv import Forget, ListObjects, Reidentify, Remember, SearchFrames
from embedder_ros.types import Answer, ModelInfo, Object, Observation, Outcome, Track, UserError, box_iou

RETRY = 5.0  # seconds until a memory that could not be opened is tried again
THUMBNAIL = 160  # longer side of an object's picture, pixels
FRAME_THUMBNAIL = 320
MAX_OBJECTS, LISTED, FRAMES = 1000, 100, 10  # most listed at once, and what 0 means in a request
SAME_PLACE = 0.5  # overlap by which a region means a track

_BY = {SearchFrames.Request.OBJECTS: 'objects', SearchFrames.Request.SHORT: 'short', SearchFrames.Request.LONG: 'long'}


class MemoryServer:
    """One memory for the model that runs.

    Args:
        grounder: the node; its scene, questions and clock are used.
        queries: embeds, and cuts pictures out of recent frames.
        values: the grounder's parameters.

    Raises:
        UserError: a map frame is named and tf2 is not installed.
    """

    def __init__(self, grounder: Any, queries: QueryEmbedder, values: Any) -> None:
        self._node, self._queries, self._values = grounder, queries, values
        self._memory: Memory | None = None
        self._failure = 'no model yet'
        self._wanted: ModelInfo | None = None
        self._opening = False
        self._poses = Poses(grounder, values.map_frame)
        callbacks = {
            wire.REIDENTIFY: self._on_reidentify,
            wire.REMEMBER: self._on_remember,
            wire.FORGET: self._on_forget,
            wire.LIST_OBJECTS: self._on_list,
            wire.SEARCH_FRAMES: self._on_search,
        }
        self._offered = [wire.offer(grounder, s, callback) for s, callback in callbacks.items()]
        self._timer = grounder.create_timer(RETRY, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy(self) -> None:
        """Withdraw the services and close the store."""
        self._node.destroy_timer(self._timer)
        for service in self._offered:
            self._node.destroy_service(service)
        self._wanted = None
        self.close()

    def close(self) -> None:
        """Write what is not yet written and close the store; harmless when repeated."""
        memory, self._memory = self._memory, None
        if memory is not None:
            try:
                memory.close()
            except UserError as error:
                self._node.get_logger().error(f'object memory: {error}')

    def use(self, model: ModelInfo) -> None:
        """Remember with this model from now on. Another model's memory is closed, not touched."""
        self.close()
        self._wanted, self._failure = model, 'the memory is being opened'
        self._tick()

    @property
    def memory(self) -> Memory:
        """The open memory. Raises UserError, saying why there is none."""
        if self._memory is None:
            raise UserError(f'no object memory: {self._failure}')
        return self._memory

    def known(self, object_id: str) -> Object:
        """A remembered object. Raises UserError for an unknown id."""
        known = self.memory.get(object_id)
        if known is None:
            raise UserError(f"no remembered object '{object_id}'; see service list_objects")
        return known

    def names(self, object_ids: Iterable[str]) -> dict[str, str]:
        """What remembered objects are called, by their ids; without a memory, nothing."""
        memory = self._memory
        if memory is None:
            return {}
        known = (memory.get(object_id) for object_id in object_ids if object_id)
        return {one.object_id: one.name for one in known if one is not None}

    def flush(self) -> None:
        """Write what is not yet written."""
        if self._memory is not None:
            with self._refusals(self._memory):
                self._memory.flush()

    def recognise(self, observation: Observation, tracks: list[Track]) -> list[Track]:
        """The tracks with the ids of the objects they were recognised as."""
        memory = self._memory
        if memory is None:
            return tracks
        pose = self._poses.camera_to_map(observation.frame_id, observation.stamp)
        tracks = memory.update(observation, tracks, pose=pose, now=self._node.now)
        begin = self._node.executor.create_task  # together, so that they are cut before the frames are gone
        with self._refusals(memory):
            for row, object_id in memory.wants_thumbnails(observation).items():
                begin(self._picture_object, memory, observation, row, object_id)
            if memory.wants_frame(observation):
                begin(self._keep_frame, memory, observation, tracks)
        return tracks

    def find(self, question: Question, request: Any, limit: int) -> Answer:
        """Ground a question in what is remembered. Raises UserError."""
        cameras, age = tuple(request.cameras), request.max_age
        if question.object_id:
            known, gone = self.known(question.object_id), self.memory.settings.gone
            return recall.one(known, gone, cameras, age, self._node.now)
        return self.memory.find(
            question.vector,
            by_identity=question.by_identity,
            max_age=age,
            cameras=cameras,
            limit=limit,
            now=self._node.now,
        )

    def found(self, text: str, answer: Answer) -> None:
        """Label the object that a text found."""
        best = answer.candidates[0] if answer.candidates else None
        if text and self._memory is not None and answer.outcome is Outcome.FOUND and best and best.object_id:
            with contextlib.suppress(UserError):  # forgotten meanwhile
                self._memory.label(best.object_id, text)

    def describe(self, candidates: Sequence[Any], *, thumbnails: bool) -> None:
        """Fill the names, and if asked for remembered pictures, into GroundedObject messages."""
        memory = self._memory
        if memory is None:
            return
        with self._refusals(memory):
            for candidate in candidates:
                known = memory.get(candidate.object_id) if candidate.object_id else None
                candidate.name = known.name if known is not None else ''
                if thumbnails and known is not None:
                    candidate.thumbnail = recall.thumbnail(known)

    def status(self) -> DiagnosticStatus:
        """For /diagnostics."""
        memory = self._memory
        if memory is None:
            return diagnostics.status(self._node, 'memory', diagnostics.WARN, self._failure, {})
        values: dict[str, Any] = {'kept in': self._values.memory or 'RAM'}
        with self._refusals(memory):
            values['objects'], values['frames'] = memory.count()
        values |= dict(memory.report.counts) | {'frames without a pose': self._poses.missing}
        if memory.report.failure:
            return diagnostics.status(self._node, 'memory', diagnostics.ERROR, memory.report.failure, values)
        return diagnostics.status(self._node, 'memory', diagnostics.OK, 'remembering', values)

    def _tick(self) -> None:
        self.flush()
        if self._memory is None and self._wanted is not None and not self._opening and self._node.executor is not None:
            self._opening = True
            self._node.executor.create_task(self._open, self._wanted)

    async def _open(self, model: ModelInfo) -> None:
        try:
            memory = await self._opened(model)
        except Exception as error:  # none of them may end the process: now is answered without a memory
            expected = isinstance(error, UserError)
            failure = str(error) if expected else f'{type(error).__name__}: {error}'
            if failure != self._failure:
                self._node.get_logger().error(f'no object memory: {failure if expected else traceback.format_exc()}')
            self._failure = failure
            return
        finally:
            self._opening = False
        if model is self._wanted:
            self._memory = memory
        else:  # another model came meanwhile
            memory.close()

    async def _opened(self, model: ModelInfo) -> Memory:
        v = self._values
        person = None if v.allow_person_identity else await self._queries.text(PERSON_WORDS)
        settings = Settings(**{name: getattr(v, f'memory_{name}') for name in parameters.MEMORY_SETTINGS})
        opening = partial(open_store, v.memory, v.map_id, model, capacity=settings.max_objects)
        store = await aside(opening, self._node.executor)  # a server that does not answer takes seconds
        try:
            return Memory(
                store,
                model,
                map_id=v.map_id,
                settings=settings,
                map_frame=v.map_frame,
                person=person,
                allow_person_identity=v.allow_person_identity,
                background=True,  # a frame does not wait for a search
            )
        except Exception:
            store.close()  # the next try opens another
            raise

    async def _picture_object(self, memory: Memory, observation: Observation, row: int, object_id: str) -> None:
        picture = await self._picture(observation, observation.boxes[row], THUMBNAIL)
        with self._refusals(memory):
            if picture:
                memory.add_thumbnail(object_id, observation.stamp, observation.camera, picture)

    async def _keep_frame(self, memory: Memory, observation: Observation, tracks: list[Track]) -> None:
        o = observation
        picture = await self._picture(o, [0, 0, o.width, o.height], FRAME_THUMBNAIL)
        with self._refusals(memory):
            memory.keep_frame(o, tracks, thumbnail=picture)

    @contextlib.contextmanager
    def _refusals(self, memory: Memory) -> Iterator[None]:
        """Note what the store refuses; what comes for a memory that was closed meanwhile is left."""
        try:
            yield
        except UserError as error:
            memory.report.refused(error)
        except Exception:
            if memory is self._memory:
                raise

    async def _picture(self, o: Observation, box: Any, side: int) -> bytes:
        try:
            region = Region(header=messages.header(o.stamp, o.frame_id), camera=o.camera, box=box)
            return smaller_jpeg(await self._queries.thumbnail(region), side)
        except UserError:  # the frame is gone, or the embedder is: a view without a picture is still a view
            return b''

    async def _on_reidentify(self, request: Reidentify.Request, response: Reidentify.Response) -> None:
        query, limits = request.target, {'cameras': tuple(request.cameras), 'max_age': request.max_age}
        limits |= {'limit': request.max_candidates or 5, 'now': self._node.now}
        if query.text:
            raise UserError('whether it is the same one is seen, not said: give an object_id, a track_id or a region')
        messages.query_kind(query)
        if query.object_id or query.track_id:
            decision = self.memory.reidentify(object_id=query.object_id, track_id=query.track_id, **limits)
        else:
            seen = await self._queries.region(query.region)
            place = Place(seen.camera, seen.stamp, seen.box) if seen.camera else None
            decision = self.memory.reidentify(embedding=seen.embedding, place=place, **limits)
        recall.fill_decision(response, decision)
        self.describe(response.candidates, thumbnails=request.thumbnails)

    async def _on_remember(self, request: Remember.Request, response: Remember.Response) -> None:
        object_id, track_id = await self._meant(request.target)
        known = self.memory.remember(object_id=object_id, track_id=track_id, name=request.name.strip())
        response.object = recall.object_to_msg(known)
        response.success, response.message = True, f"kept as '{known.name}'" if known.name else 'kept'

    async def _meant(self, query: Query) -> tuple[str, int]:
        """The object or track that a query means now: (object id or '', track id or 0). Raises UserError."""
        messages.query_kind(query)
        if query.object_id or query.track_id:
            return query.object_id, query.track_id
        if query.text:
            question = await self._node.question(query)
            answer = self._node.find(question, [])
            if answer.outcome is Outcome.NOT_FOUND:  # what left the view can be named, too
                answer = self.memory.find(question.vector, now=self._node.now)
            if answer.outcome is not Outcome.FOUND:
                raise UserError(
                    f"'{query.text}' is {answer.outcome.name} ({answer.reason}); give a track_id or a region"
                )
            best = answer.candidates[0]
            return (best.object_id, 0) if best.object_id else ('', best.track_id)
        seen = await self._queries.region(query.region)
        view = self._node.ready_scene().views.get(seen.camera)
        tracks = [t for t in view.tracks if t.row >= 0] if view else []
        overlap = [float(box_iou(t.box[None], seen.box[None])[0, 0]) for t in tracks]
        if max(overlap, default=0.0) >= SAME_PLACE:
            track = tracks[overlap.index(max(overlap))]
            return (track.object_id, 0) if track.object_id else ('', track.track_id)
        decision = self.memory.reidentify(embedding=seen.embedding, now=self._node.now)
        return recall.one_object(decision), 0

    async def _on_forget(self, request: Forget.Request, response: Forget.Response) -> None:
        if bool(request.object_ids) == request.all:
            raise UserError('give object_ids, or all: true, and not both')
        if request.all:
            response.forgotten, unknown = self.memory.forget_all(), []
        else:
            response.forgotten, unknown = self.memory.forget(list(request.object_ids))
        response.unknown, response.success = list(unknown), not unknown
        response.message = f'{response.forgotten} forgotten' + (f', {len(unknown)} unknown' if unknown else '')

    async def _on_list(self, request: ListObjects.Request, response: ListObjects.Response) -> None:
        if request.map_id not in ('', self._values.map_id):
            raise UserError(
                f"this node remembers map '{self._values.map_id}'; to see map '{request.map_id}' set parameter map_id"
            )
        since, until = map(messages.stamp_to_ns, (request.since, request.until))
        which = Filter(since, until, tuple(request.cameras), request.text.strip())
        limit = min(request.max_objects or LISTED, MAX_OBJECTS)
        known, response.total = self.memory.objects(which, limit, request.offset)
        response.objects = [recall.object_to_msg(o, request.thumbnails) for o in known]
        response.success, response.message = True, f'{len(known)} of {response.total} objects'

    async def _on_search(self, request: SearchFrames.Request, response: SearchFrames.Response) -> None:
        if request.by not in _BY:
            raise UserError(f'by {request.by} is none of OBJECTS 0, SHORT 1, LONG 2')
        by, text = _BY[request.by], request.query.text
        if text and by != 'objects':
            vector, by_identity = await self._queries.text(text, TextKind.IMAGE), False
        else:
            question = await self._node.question(request.query)
            vector, by_identity = question.vector, question.by_identity
        since, until = map(messages.stamp_to_ns, (request.since, request.until))
        found = self.memory.search_frames(
            vector,
            by=by,
            by_identity=by_identity,
            cameras=tuple(request.cameras),
            since=since,
            until=until,
            limit=request.max_frames or FRAMES,
        )
        response.frames = [recall.frame_to_msg(f, self._values.map_id, request.thumbnails) for f in found.frames]
        response.frames_searched, response.success = found.searched, True
        response.message = f'{len(found.frames)} best of {found.searched} remembered frames'


def aside(work: Callable[[], Any], executor: Any) -> Future:
    """Run `work` on a thread of its own; the returned future wakes `executor` when it is done."""
    future: Future = Future(executor=executor)

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, name='memory', daemon=True).start()
    return future
