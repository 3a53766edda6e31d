# SPDX-License-Identifier: Apache-2.0
"""The demo's answers as a table, as pictures and as JSON, and whether they are right where the truth is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from embedder_ros import draw
from embedder_ros.images import Pixels
from embedder_ros.nodes.messages import stamp_to_ns
from embedder_ros.types import Candidate, Outcome, UserError

CELL = 640  # pixels, width of one picture on a sheet
SHEET = 8  # frames of `follow` on its sheet
VIDEOS = {'follow.mp4': 'mp4v', 'follow.avi': 'MJPG'}  # name: codec; the first that OpenCV can write
_VERDICTS = {True: 'agrees with the ground truth', False: 'DISAGREES with the ground truth', None: 'no ground truth'}


@dataclass(frozen=True, slots=True)
class Entry:
    """One answer, in JSON's types; stamps in nanoseconds, `agrees` None without ground truth."""

    query: str
    answer: str
    reason: str
    message: str
    score: float
    semantic: float
    iou: float
    threshold: float
    box: list[float]
    camera: str
    track_id: int
    stamp: int
    recorded_stamp: int
    agrees: bool | None


def candidate(message: Any) -> Candidate:
    """A GroundedObject as far as it is drawn and judged."""
    return Candidate(
        camera=message.camera,
        frame_id=message.header.frame_id,
        stamp=stamp_to_ns(message.header.stamp),
        box=np.array(message.box, np.float32),
        score=message.score,
        semantic=message.semantic,
        iou=message.iou,
        track_id=message.track_id,
    )


def entry(query: str, response: Any, stamp: int, recorded: int, agrees: bool | None) -> Entry:
    """What `find` said about the frame with this stamp."""
    best = candidate(response.candidates[0]) if response.candidates else None
    return Entry(
        query=query,
        answer=Outcome(response.outcome).name,
        reason=response.reason,
        message=response.message,
        score=best.score if best else 0.0,
        semantic=best.semantic if best else 0.0,
        iou=best.iou if best else 0.0,
        threshold=response.threshold,
        box=[round(float(v), 1) for v in best.box] if best else [],
        camera=best.camera if best else '',
        track_id=best.track_id if best else 0,
        stamp=stamp,
        recorded_stamp=recorded,
        agrees=agrees,
    )


def table(entries: Sequence[Entry]) -> str:
    """The answers for the terminal."""
    head = ('query', 'answer', 'score', 'semantic', 'iou', 'box', 'frame stamp', 'track')
    rows = [
        (
            e.query,
            e.answer.lower().replace('_', ' '),
            f'{e.score:.2f}',
            f'{e.semantic:.2f}',
            f'{e.iou:.2f}',
            ' '.join(f'{v:.0f}' for v in e.box) or '-',
            f'{e.stamp / 1e9:.3f}',
            str(e.track_id or '-'),
        )
        for e in entries
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    lines = ['  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in (head, *rows)]
    return '\n'.join([lines[0], '  '.join('-' * width for width in widths), *lines[1:]])


def verdict(entry: Entry) -> str:
    """One line about one answer."""
    return f"'{entry.query}': {entry.answer.lower().replace('_', ' ')}, {_VERDICTS[entry.agrees]}"


def clear(folder: Path) -> None:
    """Make the folder of the results, without those of an earlier run. Raises UserError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in ('answers.png', 'answers.json', 'follow.png', *VIDEOS):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f'{folder} cannot be written to ({error.strerror}); give another --output') from error


def write_sheet(path: Path, pictures: Sequence[Pixels], columns: int) -> None:
    """Pictures on one PNG."""
    _write(path, draw.contact_sheet([cell(p) for p in pictures], columns))


def write_video(folder: Path, pictures: Sequence[Pixels], seconds: float) -> Path:
    """Pictures as follow.mp4 of this length, or as follow.avi where OpenCV was built without an MPEG-4 encoder."""
    height, width = pictures[0].shape[:2]
    size = (width & ~1, height & ~1)
    for name, codec in VIDEOS.items():
        writer = cv2.VideoWriter(
            str(folder / name), cv2.VideoWriter.fourcc(*codec), max(1.0, len(pictures) / seconds), size
        )
        if writer.isOpened():
            for picture in pictures:
                writer.write(cv2.cvtColor(picture[: size[1], : size[0]], cv2.COLOR_RGB2BGR))
            writer.release()
            return folder / name
    raise UserError('this OpenCV writes no video; install opencv-python-headless')


def evenly(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of them, spread from the first to the last."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))]


def write_json(path: Path, entries: Sequence[Entry], more: Mapping[str, Any]) -> None:
    """Everything that was answered."""
    content = {**more, 'answers': [asdict(e) for e in entries]}
    path.write_text(json.dumps(content, indent=2) + '\n', encoding='utf-8')


def cell(picture: Pixels) -> Pixels:
    """A picture that is no wider than a sheet's column."""
    height, width = picture.shape[:2]
    if width <= CELL:
        return picture
    size = (CELL, max(1, round(height * CELL / width)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _write(path: Path, pixels: Pixels) -> None:
    if not cv2.imwrite(str(path), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)):
        raise UserError(f'{path} cannot be written; give another --output')
