# SPDX-License-Identifier: Apache-2.0
"""Where the time and memory of one frame go: decode, encode, proposals, embed, message; and a text query.

Run `python benchmarks/frame_stages.py [--model nano] [--threads 2]`. Photographs that scikit-image ships, scaled to the
camera sizes robots use, one frame at a time in one process. Not measured: DDS (message_cost.py, node_latency.py).
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import skimage
from rclpy.serialization import serialize_message
from report import percentiles, write_result

from embedder_ros import images
from embedder_ros.models.registry import load_model
from embedder_ros.nodes import messages
from embedder_ros.nodes.images import rgb_to_image, rgb_to_jpeg
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import Frame

PHOTOS = [Path(skimage.__file__).parent / 'data' / name for name in ('coffee.png', 'motorcycle_left.png')]
SIZES = ((640, 480), (1280, 720))


def photo(path: Path, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8 RGB at a camera's size."""
    return cv2.cvtColor(cv2.resize(cv2.imread(str(path)), size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)


def timed(step: Callable[[], Any], repeats: int) -> tuple[dict[str, float], Any]:
    """p50 and p95 milliseconds after two unmeasured rounds, and the last result."""
    durations, result = [], None
    for _ in range(repeats + 2):
        begin = time.perf_counter()
        result = step()
        durations.append(time.perf_counter() - begin)
    return percentiles(durations[2:], 1e3), result


def stages(pipeline: Pipeline, pixels: np.ndarray, repeats: int) -> dict[str, Any]:
    """Milliseconds of every stage for one image, and of all of them as the node runs them."""
    embedder, header = pipeline.embedder, messages.header(1, 'optical')
    raw, jpeg = rgb_to_image(pixels, header), rgb_to_jpeg(pixels, header)
    bgr = rgb_to_image(pixels, header, 'bgr8')
    frames = [Frame(pixels, 1, 'camera')]
    result: dict[str, Any] = {}
    for name, step in (
        ('decode rgb8', lambda: images.image_to_rgb(raw)),
        ('decode bgr8', lambda: images.image_to_rgb(bgr)),
        ('decode jpeg', lambda: images.compressed_to_rgb(jpeg)),
    ):
        result[name], _ = timed(step, repeats)
    result['encode'], encoded = timed(lambda: embedder.encode(frames), repeats)
    propose = pipeline.proposer.propose
    result['proposals'], boxes = timed(lambda: propose(frames, encoded, pipeline.max_objects), repeats)
    result['embed'], observations = timed(lambda: embedder.embed(frames, encoded, boxes), repeats)
    result['message'], _ = timed(lambda: serialize_message(messages.observation_to_msg(observations[0])), repeats)
    result['whole pipeline'], _ = timed(lambda: pipeline.observe(frames), repeats)
    result['frames a second'] = 1e3 / result['whole pipeline']['p50']
    result['objects'] = len(observations[0])
    return result


def queries(pipeline: Pipeline, repeats: int) -> dict[str, Any]:
    """Milliseconds of a text that is new, and of one that is cached."""
    new = iter(f'the red handle number {i}' for i in range(repeats + 2))
    embed = pipeline.embedder.embed_text
    return {
        'new text': timed(lambda: embed([next(new)]), repeats)[0],
        'cached text': timed(lambda: embed(['the red handle']), repeats)[0],
    }


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='nano')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=20)
    options = parser.parse_args()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.perf_counter()
    model = load_model(options.model, threads=options.threads)
    loaded = time.perf_counter() - begin
    pipeline = Pipeline(model.embedder, model.proposer)
    measured: dict[str, Any] = {
        'model': model.embedder.info.model_id,
        'threads': options.threads,
        'load_s': loaded,
        'unit': 'milliseconds',
    }
    for size in SIZES:
        for path in PHOTOS:
            measured[f'{path.stem} {size[0]}x{size[1]}'] = stages(pipeline, photo(path, size), options.repeats)
    measured |= queries(pipeline, options.repeats)
    measured['peak_memory_mib'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    measured['memory_before_load_mib'] = before / 1024
    for name, value in measured.items():
        print(name, value if not isinstance(value, dict) else '')
        if isinstance(value, dict):
            for stage, numbers in value.items():
                print(f'    {stage:16}', numbers)
    print('written to', write_result('frame_stages', measured, PHOTOS))


if __name__ == '__main__':
    main()
