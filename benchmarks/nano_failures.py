# SPDX-License-Identifier: Apache-2.0
"""What nano gets wrong, as a picture: `python benchmarks/nano_failures.py [SPLIT ...] [--out FILE]`.

Wrong answers that were given as FOUND, spread over the kinds of question: the answer in green, what was meant in red.
Without a split it is the sample bag. Pictures of private photos are for looking, not for this repository.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from report import ROOT
from tqdm import tqdm

from embedder_ros.commands import options as build
from embedder_ros.commands.evaluate_splits import splits
from embedder_ros.draw import contact_sheet, draw_answer, draw_labels
from embedder_ros.evaluation.grounding import RIGHT_IOU
from embedder_ros.evaluation.splits import FRAMES, SPLITS, Item
from embedder_ros.grounding.ground import ground
from embedder_ros.models.registry import load_model
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Outcome, box_iou

SAMPLE = ROOT / 'test' / 'sample' / 'kitchen'
COLUMNS, ROWS = 4, 3


def main() -> None:
    """Ask, draw, write."""
    parser = argparse.ArgumentParser(
        description=f'{__doc__}\nSplits:\n{SPLITS}', formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('split', metavar='SPLIT', nargs='*', default=[f'bag:{SAMPLE}'])
    parser.add_argument('--photos', type=Path)
    parser.add_argument('--classes', type=Path)
    parser.add_argument('--frames', type=build.positive, default=FRAMES)
    parser.add_argument('--model', default='nano')
    parser.add_argument('--out', type=Path, default=ROOT / 'docs' / 'nano_failures.jpg')
    options = parser.parse_args()
    model = load_model(options.model)
    pipeline = Pipeline(model.embedder, model.proposer)
    by_kind: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for split in splits(options):
        for item in tqdm(split.items(), total=split.frames, desc=split.name):
            for kind, text, picture in wrong(pipeline, item):
                by_kind[kind].setdefault(text, picture)  # one of each question, so that the kinds of mistakes show
    chosen = [picture for kind in sorted(by_kind) for picture in list(by_kind[kind].values())[:COLUMNS]]
    if not chosen:
        raise SystemExit('no wrong answer on these frames')
    sheet = contact_sheet(chosen[: COLUMNS * ROWS], COLUMNS)
    cv2.imwrite(str(options.out), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    print('written to', options.out)


def wrong(pipeline: Pipeline, item: Item) -> list[tuple[str, str, np.ndarray]]:
    """Kind, text and picture of every wrong FOUND on a frame."""
    seen = pipeline.observe([item.frame])[0]
    out = []
    for asked in item.asked:
        query = pipeline.embedder.embed_text([asked.text])[0]
        answer = ground(query, [seen], pipeline.embedder.info.calibration)
        meant = np.array([item.sample.things[row].box for row in asked.meant], np.float32).reshape(-1, 4)
        if answer.outcome is not Outcome.FOUND:
            continue
        if box_iou(answer.candidates[0].box[None], meant).max(initial=0.0) >= RIGHT_IOU:
            continue
        picture = draw_labels(item.frame.image, meant, np.zeros(len(meant), np.float32), ['meant'] * len(meant))
        picture = draw_answer(picture, asked.text, answer.outcome, answer.candidates[:1])
        out.append((asked.kind, asked.text, cv2.resize(picture, (320, 240), interpolation=cv2.INTER_AREA)))
    return out


if __name__ == '__main__':
    main()
