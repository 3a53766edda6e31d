# SPDX-License-Identifier: Apache-2.0
"""The main job, end to end: camera images in, "find the red handle" answered, the handle followed.

The nodes run as they do on a robot: processes of their own that talk over DDS. The camera is the sample bag, whose
ground truth is known, or with --input whatever the user has.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions

from embedder_ros import draw
from embedder_ros.bags.source import BagSource, PhotoSource
from embedder_ros.evaluation.truth import Truth
from embedder_ros.images import Pixels
from embedder_ros.nodes import demo_report as report
from embedder_ros.nodes import wire
from embedder_ros.nodes.demo_client import Client, Late
from embedder_ros.nodes.messages import stamp_to_ns
from embedder_ros.nodes.processes import Child, environment
from embedder_ros.nodes.replay import is_compressed, one_camera
from embedder_ros.srv import Find
from embedder_ros.types import Candidate, Outcome, TrackStatus, UserError

SAMPLE = Path(__file__).resolve().parents[2] / 'test' / 'sample' / 'kitchen'
START_SECONDS = 90.0  # for the nodes to load their model on a slow machine
FIRST_FRAMES = 3  # looked at before the first question, so that tracks are confirmed
QUESTIONS = 4  # of the truth's, which begin with the handle, two things that are there and one that is not
TRIES = 10  # a question whose frame did not reach us is asked again


class Demo:
    """One run.

    Args:
        options: the command line.
        logs: folder for the nodes' logs.
        stack: stops what was started.
        interrupted: set when the user wants it to end.

    Raises:
        UserError: the input cannot be read.
    """

    def __init__(self, options: argparse.Namespace, logs: Path, stack: ExitStack, interrupted: Event) -> None:
        base = Path(options.relative_to)
        self._input = (base / Path(options.input).expanduser() if options.input else SAMPLE).resolve()
        self._output = (base / options.output).resolve()
        self._source = one_camera(self._input, options.topic)
        if isinstance(self._source, PhotoSource) and len(self._source.photos) > 1:
            raise UserError(
                f'{self._input} holds {len(self._source.photos)} photos, which are no camera; ask about them with '
                f'. .venv/bin/activate; embedder-ros find {self._input} "the red handle"'
            )
        self._camera = wire.COMPRESSED if is_compressed(self._source) else wire.IMAGE
        truth = self._input.with_name(self._input.name + '_truth.json')
        self._truth = Truth(truth) if truth.is_file() else None
        self._queries = options.find or (self._truth.questions[:QUESTIONS] if self._truth else [])
        if not self._queries:
            raise UserError(f'{truth.name} is missing and nothing else says what to find; give --find "the red handle"')
        self._seconds, self._logs, self._stack = options.follow_seconds, logs, stack
        self._children: list[Child] = []
        self._interrupted = interrupted
        self._begin = time.monotonic()

    def run(self) -> bool:
        """Everything; whether the first question, which is the main one, was answered well."""
        report.clear(self._output)
        client = self._ready_client()
        answers = [self._ask(client, query) for query in self._queries]
        entries = [entry for entry, _ in answers]
        print(f'\n{report.table(entries)}\n', flush=True)
        report.write_sheet(self._output / 'answers.png', [picture for _, picture in answers], 2)
        followed = self._follow(client, self._queries[0], answers[0][1])
        remembered = [self._recall(client, query) for query in self._queries]
        facts = {'model': client.model_id, 'input': str(self._input), 'topic': self._camera.name, 'follow': followed}
        facts['remembered'] = remembered
        report.write_json(self._output / 'answers.json', entries, facts)
        print(f'answers: {self._output / "answers.png"} {self._output / "answers.json"}')
        print(f'follow:  {self._output / "follow.png"} {followed["video"]}')
        print('\n'.join(report.verdict(entry) for entry in entries), flush=True)
        return entries[0].agrees is not False and bool(followed['frames'] or entries[0].answer != Outcome.FOUND.name)

    def _ready_client(self) -> Client:
        """Start the nodes, then the camera; return when frames are being looked at."""
        self._say(f'starting the nodes for {self._input.name} on topic {self._camera.name}')
        nodes = self._start('perception', '--ros-args', '-p', f"image_topics:=['{self._camera.name}']")
        client = Client(self._camera, self._check)
        self._stack.callback(client.close)
        try:
            client.wait(client.ready, 'start of the nodes', START_SECONDS)
            self._say(f'model {client.model_id} is ready, the camera begins')
            topic = ['--topic', next(iter(self._source.topics))] if isinstance(self._source, BagSource) else []
            loop = [] if self._truth else ['--loop']
            self._start('replay', str(self._input), *topic, *loop, '--stamp-log', str(self._logs / 'stamps'))
            client.wait(lambda: client.seen >= FIRST_FRAMES, 'first frames', START_SECONDS)
        except Late as error:
            raise UserError(f'{error}; the log of {nodes.name} ends:\n{nodes.tail()}') from error
        self._say('frames are being looked at, asking')
        return client

    def _start(self, module: str, *args: str) -> Child:
        child = self._stack.enter_context(Child(f'embedder_ros.nodes.{module}', list(args), logs=self._logs))
        self._children.append(child)
        return child

    def _check(self) -> None:
        if self._interrupted.is_set():
            raise KeyboardInterrupt
        for child in self._children:
            child.check()

    def _say(self, text: str) -> None:
        print(f'[{time.monotonic() - self._begin:5.1f} s] {text}', flush=True)

    def _recorded(self, stamp: int) -> int:
        """The stamp in the recording of an image that was published under `stamp`; 0 when unknown."""
        lines = (self._logs / 'stamps').read_text(encoding='utf-8').splitlines()
        return dict(tuple(map(int, line.split())) for line in lines if line.count(' ') == 1).get(stamp, 0)

    def _ask(self, client: Client, query: str) -> tuple[report.Entry, Pixels]:
        """The answer, and the very frame it is about with the answer drawn on it."""
        for _ in range(TRIES):
            response = client.find(query)
            candidates = [report.candidate(c) for c in response.candidates]
            stamp = candidates[0].stamp if candidates else client.stamps[-1]
            image = client.image(stamp)
            if image is not None:
                break
            client.next_frame()  # this one was lost on the way to us, which best effort allows
        else:
            raise UserError(f'the frames of {TRIES} answers did not reach the demo; is the machine overloaded?')
        outcome, recorded = Outcome(response.outcome), self._recorded(stamp)
        shown = [c for c in candidates if c.stamp == stamp]
        boxes = [c.box for c in shown]
        agrees = self._truth.agrees(query, recorded, outcome, boxes) if self._truth else None
        self._say(f"'{query}': {response.message}")
        picture = draw.draw_answer(image, query, outcome, shown)
        return report.entry(query, response, stamp, recorded, agrees), picture

    def _follow(self, client: Client, query: str, otherwise: Pixels) -> dict[str, Any]:
        """Follow it; write its frames as a video and on a sheet, which shows `otherwise` if it was never seen."""
        self._say(f"following '{query}' for {self._seconds:g} s")
        feedback, result = client.follow(query, self._seconds)
        seen = [report.candidate(f.target) for f in feedback if f.target.status == TrackStatus.TRACKED]
        pictures = self._pictures(client, query, seen)
        report.write_sheet(self._output / 'follow.png', report.evenly(pictures, report.SHEET) or [otherwise], 4)
        video = str(report.write_video(self._output, pictures, self._seconds)) if pictures else ''
        right = [self._right(query, c) for c in seen]
        known = [r for r in right if r is not None]
        judged = f', {sum(known)} of {len(known)} boxes right by the ground truth' if known else ''
        self._say(
            f'{"followed" if result.success else result.message}: seen in {len(seen)} of {len(feedback)} frames{judged}'
        )
        outcome = {'query': query, 'message': result.message, 'video': video, 'frames': len(seen)}
        return {**outcome, 'boxes_judged': len(known), 'boxes_right': sum(known)}

    def _recall(self, client: Client, query: str) -> dict[str, Any]:
        """Where it was last seen, whether it is in view or not."""
        response = client.find(query, Find.Request.MEMORY)
        found = response.outcome == Find.Response.FOUND
        best = response.candidates[0] if found else None
        what = 'not remembered' if best is None else f'object {best.object_id}, last seen {best.unseen:.1f} s ago'
        if response.outcome == Find.Response.AMBIGUOUS:
            what = response.message
        self._say(f"memory: '{query}': {what}")
        stamp = self._recorded(stamp_to_ns(best.header.stamp)) if best else 0
        box = [round(float(v), 1) for v in best.box] if best else []
        answer = {'query': query, 'answer': Outcome(response.outcome).name, 'recorded_stamp': stamp, 'box': box}
        return {**answer, 'object_id': best.object_id if best else '', 'unseen': best.unseen if best else -1.0}

    def _pictures(self, client: Client, query: str, seen: Sequence[Candidate]) -> list[Pixels]:
        images = ((client.image(c.stamp), c) for c in seen)
        return [report.cell(draw.draw_answer(i, query, Outcome.FOUND, [c])) for i, c in images if i is not None]

    def _right(self, query: str, seen: Candidate) -> bool | None:
        return self._truth.agrees(query, self._recorded(seen.stamp), Outcome.FOUND, [seen.box]) if self._truth else None


def _arguments(args: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog='demo.sh', description=(__doc__ or '').splitlines()[0])
    parser.add_argument('--input', help='photo, video or bag of your own; else the sample bag')
    parser.add_argument('--find', action='append', metavar='TEXT', help='what to find; can be given several times')
    parser.add_argument('--topic', default='', help='image topic of a bag; else its first')
    parser.add_argument('--follow-seconds', type=float, default=5.0, help='how long the first thing is followed')
    parser.add_argument('--output', default='demo_output', help='folder for the results')
    parser.add_argument('--relative-to', default='.', help='folder that relative paths are meant from')
    options = parser.parse_args(args)
    if options.input and not options.find:
        parser.error('with --input say what to find: --find "the red handle"')
    return options


def main(args: Sequence[str] | None = None) -> int:
    """Run the demo; 0 only when the main question was answered."""
    options = _arguments(args)
    # Looked at while waiting, because an exception out of nowhere could come between a child's start and its entry in
    # the stack. Set for SIGINT, too, which a background job of a script is born ignoring.
    interrupted = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: interrupted.set())
    try:
        with tempfile.TemporaryDirectory() as logs, ExitStack() as stack:
            os.environ.update(environment(1 + os.getpid() % 100), ROS_LOG_DIR=logs)
            rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
            stack.callback(rclpy.try_shutdown)
            return 0 if Demo(options, Path(logs), stack, interrupted).run() else 1
    except UserError as error:
        print(f'demo: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
