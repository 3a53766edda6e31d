# SPDX-License-Identifier: Apache-2.0
"""Render the sample bag and its ground truth.

    python -m embedder_ros.training.scenes.sample_bag --out test/sample

writes `kitchen/` (rosbag2, mcap: JPEG images and camera_info at 10 Hz) and `kitchen_truth.json` (`{"topic", "frames":
[{"stamp", "objects"}], "queries": [{"text", "instances"}]}`, objects as in `embedder_ros.training.scenes.dataset`).
Frames are the same on every run on the same renderer. Shadows are soft because every frame is the mean of many, each
lit from other points of the same lamps.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from embedder_ros.bags import wire
from embedder_ros.bags.write import BagWriter
from embedder_ros.training.scenes import sample_kitchen
from embedder_ros.training.scenes.meshes import Array
from embedder_ros.training.scenes.stage import HEIGHT, WIDTH, Camera, Stage
from embedder_ros.training.scenes.surfaces import Image
from embedder_ros.training.scenes.truth import Labelled, Labeller
from embedder_ros.types import NANOSECONDS

TOPIC, INFO_TOPIC, FRAME_ID = '/camera/image_raw/compressed', '/camera/camera_info', 'camera_optical_frame'
START = 1_760_781_612 * NANOSECONDS
PASSES = 16  # renders per frame; fewer show the edges of single shadows
QUALITY = 80  # JPEG; 85 would pass the 6 MB that bag and truth may take in the repository
GRAIN = 1.2  # grey levels of sensor noise

# Text, noun, colour; the answer is every individual of that name and colour. The first four are what the demo asks.
QUERIES: tuple[tuple[str, str, str], ...] = (
    ('the red handle', 'handle', 'red'),
    ('the yellow mug', 'mug', 'yellow'),
    ('the bowl', 'bowl', ''),
    ('the teddy bear', 'teddy bear', ''),
    ('the blue mug', 'mug', 'blue'),
    ('the white mug', 'mug', 'white'),
    ('the kettle', 'kettle', ''),
    ('the green bottle', 'bottle', 'green'),
    ('the blue bottle', 'bottle', 'blue'),
    ('the red apple', 'apple', 'red'),
    ('the lemon', 'lemon', ''),
    ('the toaster', 'toaster', ''),
    ('the cooking pot', 'cooking pot', ''),
    ('the potted plant', 'potted plant', ''),
    ('a green handle', 'handle', 'green'),
    ('a drawer', 'drawer', ''),
    ('the banana', 'banana', ''),
    ('the red mug', 'mug', 'red'),
)


def stamps(count: int) -> list[int]:
    """Nanoseconds of `count` exposures of a camera with a little jitter."""
    rng = np.random.default_rng(3)
    jitter = np.clip(rng.normal(0, 0.8e6, count), -3e6, 3e6).astype(np.int64)
    return [START + round(i * NANOSECONDS / sample_kitchen.RATE) + int(j) for i, j in enumerate(jitter)]


def exposed(stage: Stage, camera: Camera, lamps: Sequence[tuple[list[Any], Array]], rng: np.random.Generator) -> Image:
    """One frame as a good camera sees it: soft light, clean edges, a gentle tone curve and a little grain."""
    total = np.zeros((HEIGHT, WIDTH, 3))
    for i, (lights, ambient) in enumerate(lamps):
        stage.light(lights, ambient)
        shift = np.array([(i + 0.5) / len(lamps) - 0.5, (i * 5 % len(lamps)) / len(lamps) - 0.5])
        total += stage.picture(_nudged(camera, shift))
    tone = np.clip(total / len(lamps) / 255 * 1.1, 0, 1)
    tone = 0.75 * tone + 0.25 * tone * tone * (3 - 2 * tone)
    return np.asarray(np.clip(tone * 255 + rng.normal(0, GRAIN, tone.shape), 0, 255), dtype=np.uint8)


def _nudged(camera: Camera, pixels: Array) -> Camera:
    """The camera turned by a part of a pixel in x and y, which makes edges clean in the mean."""
    axes = camera.rotation()
    reach = float(np.linalg.norm(camera.target - camera.eye)) / camera.focal()
    return replace(camera, target=camera.target + reach * (axes[:, :2] @ pixels))


def answers(frames: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The queries with the individuals that each means: of that name, and in most frames of that colour."""
    objects: list[Labelled] = [o for frame in frames for o in frame['objects']]
    seen, coloured = Counter(o['instance'] for o in objects), Counter[tuple[str, str]]()
    names: defaultdict[str, set[str]] = defaultdict(set)
    for o in objects:
        names[o['instance']] |= {o['name'], *o['synonyms']}
        coloured.update((o['instance'], colour) for colour in o['colours'])
    return [
        {
            'text': text,
            'instances': [i for i in sorted(seen) if noun in names[i] and (not c or 2 * coloured[i, c] > seen[i])],
        }
        for text, noun, c in QUERIES
    ]


def camera_info(stamp: int) -> Any:
    """sensor_msgs/CameraInfo of the pinhole camera; pixel centres are whole numbers, as in ROS."""
    f, cx, cy = Camera(np.zeros(3), np.ones(3), sample_kitchen.FOVY).focal(), (WIDTH - 1) / 2, (HEIGHT - 1) / 2
    types = wire.typestore().types
    region = types['sensor_msgs/msg/RegionOfInterest'](x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    return types['sensor_msgs/msg/CameraInfo'](
        header=wire.header(stamp, FRAME_ID),
        height=HEIGHT,
        width=WIDTH,
        distortion_model='plumb_bob',
        d=np.zeros(5),
        k=np.array([f, 0, cx, 0, f, cy, 0, 0, 1]),
        r=np.eye(3).ravel(),
        p=np.array([f, 0, cx, 0, 0, f, cy, 0, 0, 0, 1, 0]),
        binning_x=0,
        binning_y=0,
        roi=region,
    )


def jpeg(image: Image, stamp: int) -> Any:
    """sensor_msgs/CompressedImage of an RGB image."""
    settings = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
    _, data = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), settings)
    kind = wire.typestore().types['sensor_msgs/msg/CompressedImage']
    return kind(header=wire.header(stamp, FRAME_ID), format='jpeg', data=data)


def write(out: Path, *, passes: int = PASSES) -> None:
    """Write `kitchen/` and `kitchen_truth.json` under `out`, in place of those that are there."""
    things, poses = sample_kitchen.things()
    cameras, lamps = sample_kitchen.cameras(), sample_kitchen.lights(passes)
    stage, rng, frames = Stage(things, sample_kitchen.scenery()), np.random.default_rng(0), []
    stage.arrange(poses)
    labeller = Labeller(stage)
    shutil.rmtree(out / 'kitchen', ignore_errors=True)
    with BagWriter(out / 'kitchen') as bag:
        for camera, stamp in zip(tqdm(cameras, unit='frame'), stamps(len(cameras)), strict=True):
            image, received = exposed(stage, camera, lamps, rng), stamp + 14_000_000
            bag.message(INFO_TOPIC, received, camera_info(stamp))
            bag.message(TOPIC, received + 900_000, jpeg(image, stamp))
            frames.append({'stamp': stamp, 'objects': labeller.label(stage.shoot(camera), camera, poses)})
    stage.close()
    truth = {'topic': TOPIC, 'frames': frames, 'queries': answers(frames)}
    (out / 'kitchen_truth.json').write_text(json.dumps(truth, separators=(',', ':')))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description='Render the sample bag and its ground truth.')
    parser.add_argument('--out', type=Path, required=True, help='folder that will hold kitchen/ and kitchen_truth.json')
    write(parser.parse_args().out)


if __name__ == '__main__':
    main()
