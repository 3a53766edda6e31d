# SPDX-License-Identifier: Apache-2.0
"""Drawn frames of coloured blocks with labels, captions and proposals, in the files that fine-tuning reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

COLOURS = {'red block': (200, 30, 30), 'green block': (30, 200, 30), 'blue block': (30, 30, 200)}
WIDTH, HEIGHT = 160, 120


def write(folder: Path, count: int = 6, seed: int = 0) -> Path:
    """images/, data.json, proposals.json: two blocks per frame, each with a shaken proposal, and two of background."""
    rng = np.random.default_rng(seed)
    (folder / 'images').mkdir(parents=True)
    records, proposals = [], {}
    for number in range(count):
        image, objects = np.full((HEIGHT, WIDTH, 3), 100, np.uint8), []
        for place, name in enumerate(rng.permutation(list(COLOURS))[:2].tolist()):
            x, y = 20 + 70 * place, int(rng.integers(10, 60))
            image[y : y + 40, x : x + 45] = COLOURS[name]
            objects.append({'label': name, 'bbox': [x, y, x + 45, y + 40]})
        name = f'{number}.png'
        cv2.imwrite(str(folder / 'images' / name), image[..., ::-1])
        boxes = np.array([o['bbox'] for o in objects]) + rng.normal(0, 2, (2, 4))
        proposals[name] = [*boxes.tolist(), [0, 0, 15, 15], [140, 100, 158, 118]]
        records.append({'image': name, 'objects': objects, 'captions': captions(objects)})
    (folder / 'data.json').write_text(json.dumps(records))
    (folder / 'proposals.json').write_text(json.dumps(proposals))
    return folder


def captions(objects: list[dict[str, Any]]) -> dict[str, str]:
    """What a frame shows, short and long."""
    names = [o['label'] for o in objects]
    return {'short_caption': names[0], 'long_caption': f'{names[0]} to the left of {names[1]}'}
