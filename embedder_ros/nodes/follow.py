# SPDX-License-Identifier: Apache-2.0
"""The Follow action.

Driven by frames and a timer rather than by a waiting coroutine, which older rclpy executors poll at full speed. A goal
therefore stays ACCEPTED while it runs, and is executed only to deliver its result.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.clock import Clock, ClockType

from embedder_ros.action import Follow
from embedder_ros.grounding.follow import Follower, FollowOutcome
from embedder_ros.msg import Targets
from embedder_ros.nodes import messages, wire
from embedder_ros.types import Observation, Track, UserError

FIND_TIMEOUT = 5.0  # what 0 means in the goal
RIVALS = 100  # candidates among which a lost target is looked for; its twins may fit the words better
TICK = 0.1  # seconds between looks at deadlines and cancel requests

_MESSAGES = {
    FollowOutcome.NOT_FOUND: 'nothing matched within find_timeout',
    FollowOutcome.AMBIGUOUS: 'something matches and nothing stands out; say more about it',
    FollowOutcome.LOST: 'the target was lost for longer than lost_timeout',
}


@dataclass
class _Goal:
    handle: Any
    follower: Follower
    cameras: list[str]


class FollowServer:
    """Runs any number of goals at once.

    Args:
        grounder: the node; its scene and questions are used.
    """

    def __init__(self, grounder: Any) -> None:
        self._node = grounder
        self._goals: list[_Goal] = []
        self._results: dict[bytes, Follow.Result] = {}
        self._targets = grounder.create_lifecycle_publisher(*wire.TARGETS.args)
        self._server = ActionServer(
            grounder,
            *wire.FOLLOW.args,
            execute_callback=self._deliver,
            goal_callback=lambda goal: GoalResponse.ACCEPT,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
            handle_accepted_callback=lambda handle: grounder.executor.create_task(self._begin, handle),
        )
        self._timer = grounder.create_timer(TICK, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy(self) -> None:
        """Withdraw the action."""
        self._node.destroy_timer(self._timer)
        self._node.destroy_lifecycle_publisher(self._targets)
        self._server.destroy()

    def end_all(self, reason: str) -> None:
        """End every goal; after shutdown there is nobody left to tell."""
        for goal in list(self._goals) if self._node.context.ok() else ():
            self._end(goal, Follow.Result(outcome=Follow.Result.FAILED, message=reason))

    def on_frame(self, observation: Observation, tracks: list[Track]) -> None:
        """Feedback to every goal that looks at this camera, and the `targets` topic."""
        header = messages.header(observation.stamp, observation.frame_id)
        targets = Targets(header=header, camera=observation.camera)
        for goal in list(self._goals):
            if goal.cameras and observation.camera not in goal.cameras:
                continue
            try:
                target = goal.follower.on_frame(observation, tracks, self._node.now)
            except UserError as error:  # a query vector that does not fit this model
                self._end(goal, Follow.Result(outcome=Follow.Result.FAILED, message=str(error)))
                continue
            if target is not None:
                feedback = Follow.Feedback(frames=goal.follower.frames)
                feedback.target = messages.candidate_to_msg(target)
                goal.handle.publish_feedback(feedback)
                targets.goals.append(goal.follower.question.words)
                targets.targets.append(feedback.target)
        if targets.targets:
            self._targets.publish(targets)

    async def _begin(self, handle: Any) -> None:
        request = handle.request
        try:
            question = await self._node.question(request.query)
            scene = self._node.ready_scene()
        except Exception as error:  # a goal that cannot begin must not end the node
            if not isinstance(error, UserError):
                self._node.get_logger().error(traceback.format_exc())
            self._results[bytes(handle.goal_id.uuid)] = Follow.Result(outcome=Follow.Result.FAILED, message=str(error))
            handle.execute()
            return
        cameras = list(request.cameras)
        follower = Follower(
            scene,
            question,
            lambda: self._node.find(question, [c for c in cameras if c in scene.views], limit=RIVALS),
            find_timeout=request.find_timeout or FIND_TIMEOUT,
            lost_timeout=request.lost_timeout,
            now=self._node.now,
        )
        self._goals.append(_Goal(handle, follower, cameras))

    def _tick(self) -> None:
        for goal in list(self._goals):
            outcome = goal.follower.outcome(self._node.now)
            if goal.handle.is_cancel_requested:
                found = goal.follower.target is not None
                message = 'cancelled' if found else 'cancelled before the target was found'
                self._end(goal, Follow.Result(outcome=Follow.Result.CANCELLED, success=found, message=message))
            elif outcome is not None:
                self._end(goal, Follow.Result(outcome=outcome.value, message=_MESSAGES[outcome]))

    def _end(self, goal: _Goal, result: Follow.Result) -> None:
        self._goals.remove(goal)
        result.frames = goal.follower.frames
        if goal.follower.target is not None:
            result.target = messages.candidate_to_msg(goal.follower.target)
        self._results[bytes(goal.handle.goal_id.uuid)] = result
        goal.handle.execute()

    def _deliver(self, handle: Any) -> Follow.Result:
        if handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return self._results.pop(bytes(handle.goal_id.uuid))
