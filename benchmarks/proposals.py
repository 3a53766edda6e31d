# SPDX-License-Identifier: Apache-2.0
"""What a frame's boxes cost: WeDetect-Uni, stage by stage, beside nano's proposer.

Run `python benchmarks/proposals.py [--weights wedetect_base_uni.pth] [--threads 1]`. Without weights they are made by
rule, which changes nothing in the time of the network and little in that of the suppression: random scores repeat each
other less. A photograph that scikit-image ships, one process, nano first. Not measured: how good the boxes are
(`embedder-ros evaluate` does, with weights), and a GPU unless --device names one.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from frame_stages import PHOTOS, SIZES, photo
from report import percentiles, write_result

from embedder_ros.evaluation.parity_wedetect import made
from embedder_ros.models.wedetect.image import letterbox
from embedder_ros.models.wedetect.select import select
from embedder_ros.proposals import load_proposer
from embedder_ros.types import Frame

SHAPES = Path(__file__).resolve().parents[1] / 'test' / 'data' / 'wedetect_uni_base' / 'checkpoint_shapes.json'

PHOTO = PHOTOS[0]


def timed(step: Callable[[], Any], repeats: int) -> tuple[dict[str, float], Any]:
    """Milliseconds after one unmeasured round, and the last result.

    p50 and p95 are wall time; cpu is the least processor time of the process, which a busy machine leaves alone.
    """
    wall, cpu, result = [], [], step()
    for _ in range(repeats):
        begin = time.perf_counter(), time.process_time()
        result = step()
        wall.append(time.perf_counter() - begin[0])
        cpu.append(time.process_time() - begin[1])
    return percentiles(wall, 1e3) | {'cpu': round(min(cpu) * 1e3, 1)}, result


def nano_stages(proposer: Any, pixels: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of nano's boxes: alone for another embedder, and where nano embeds and has encoded already."""
    frames = [Frame(pixels, 1, 'camera')]
    whole, boxes = timed(lambda: proposer.propose(frames, None, options.objects), options.repeats)
    encoded = proposer.embedder.encode(frames)
    own, _ = timed(lambda: proposer.proposer.propose(frames, encoded, options.objects), options.repeats)
    return {'for another embedder': whole, 'on its own encoding': own, 'boxes': len(boxes[0])}


def wedetect_stages(proposer: Any, pixels: np.ndarray, options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of every stage of WeDetect-Uni for one frame."""
    side, network = proposer.network.shape.pixels, proposer.network
    result: dict[str, Any] = {}
    result['letterbox'], (square, _) = timed(lambda: letterbox(pixels, side), options.repeats)
    with torch.inference_mode():
        batch = proposer.pixels([square])
        result['network'], raw = timed(lambda: finished(network(batch)), options.repeats)
        choose = lambda: select(raw.boxes[0], raw.logits[0], options.objects)  # noqa: E731
        result['selection'], _ = timed(choose, options.repeats)
    frames = [Frame(pixels, 1, 'camera')]
    result['whole'], boxes = timed(lambda: proposer.propose(frames, None, options.objects), options.repeats)
    return result | {'boxes': len(boxes[0])}


def finished(raw: Any) -> Any:
    """The network's output once a GPU has it."""
    if raw.boxes.is_cuda:
        torch.cuda.synchronize()
    return raw


def made_weights(folder: str) -> Path:
    """A checkpoint of full size with weights made by rule."""
    path = Path(folder) / 'made_uni.pth'
    torch.save({key: made(key, shape, 'a') for key, shape in json.loads(SHAPES.read_text()).items()}, path)
    return path


def resident() -> float:
    """MiB that this process holds."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return round(next(int(line.split()[1]) for line in lines if line.startswith('VmRSS:')) / 1024, 1)


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--weights', help='a wedetect_*_uni.pth; without one they are made by rule')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--precision', default='auto')
    parser.add_argument('--threads', type=int, default=1)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--objects', type=int, default=100, help='boxes a frame; 100 is what ObjEmbed is used with')
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    measured: dict[str, Any] = {
        'weights': Path(options.weights).name if options.weights else 'made by rule',
        **{name: getattr(options, name) for name in ('device', 'precision', 'threads', 'objects')},
        'unit': 'milliseconds',
        'resident_mib': resident(),
    }
    # one photograph: what it shows changes the suppression alone, a hundredth of the time
    photos = {f'{PHOTO.stem} {w}x{h}': photo(PHOTO, (w, h)) for w, h in SIZES}
    nano = load_proposer('nano', device=options.device, threads=options.threads)
    measured['nano'] = {name: nano_stages(nano, pixels, options) for name, pixels in photos.items()}
    measured['nano']['resident_mib'] = resident()  # with the measuring code and torch itself
    with tempfile.TemporaryDirectory() as folder:
        source = options.weights or str(made_weights(folder))
        begin = time.perf_counter()
        wedetect = load_proposer(source, device=options.device, precision=options.precision, threads=options.threads)
        loaded = time.perf_counter() - begin
    stages: dict[str, Any] = {name: wedetect_stages(wedetect, pixels, options) for name, pixels in photos.items()}
    measured['wedetect'] = {'load_s': round(loaded, 2), **stages, 'resident_mib': resident()}
    print(json.dumps(measured, indent=2))
    print('written to', write_result('proposals', measured, [PHOTO]))


if __name__ == '__main__':
    main()
