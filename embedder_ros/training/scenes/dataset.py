# SPDX-License-Identifier: Apache-2.0
"""Write a folder of rendered scenes with exact boxes, names and colours.

    pip install mujoco opencv-python-headless numpy tqdm    (and libegl1 or libosmesa6 from the system)
    python -m embedder_ros.training.scenes.dataset --out scenes_train --scenes 500 --seed 1
    python -m embedder_ros.training.scenes.dataset --out scenes_held --scenes 50 --seed 2 --held-out

A scene is a set of individuals in one room; each of its arrangements (new places, new light) is seen from four sides.
`annotations.json` holds `{"frames": [{"file", "scene", "arrangement", "view", "width", "height", "objects": [...]}]}`,
an object being `{"box": [x0, y0, x1, y1], "name", "synonyms", "colours", "part_of", "instance", "visible"}`: pixel
edges tight on what is visible; `part_of` the instance that a handle, knob, drawer, door or lid belongs to, else null;
`instance` the same for the same individual throughout its scene; `visible` the share of its outline that is neither
hidden nor cut off. Running it again continues where it stopped; the same seed gives the same scenes.

Not measured here: how well a model trained on these does on photographs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from embedder_ros.training.scenes import compose, packages
from embedder_ros.training.scenes.kinds import KINDS
from embedder_ros.training.scenes.stage import HEIGHT, WIDTH, Stage
from embedder_ros.training.scenes.surfaces import Image
from embedder_ros.training.scenes.truth import Labeller

VIEWS = 4
QUALITY = (85, 96)  # JPEG, drawn per frame
MERGE_EVERY = 20  # scenes; a trainer may start on what is there


def spoiled(image: Image, rng: np.random.Generator) -> Image:
    """The image as a real camera might see it: exposure, white balance, blur and noise, each at times."""
    picture: NDArray[Any] = image.astype(np.float32) / 255
    picture = np.power(picture, rng.uniform(0.75, 1.3)) * rng.uniform(0.8, 1.2) * rng.normal(1, 0.03, 3)
    if rng.random() < 0.35:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.4, 1.4))
    if rng.random() < 0.1:
        picture = cv2.filter2D(picture, -1, _streak(int(rng.integers(3, 9)), rng.uniform(0, 180)))
    if rng.random() < 0.6:
        picture = picture + rng.normal(0, rng.uniform(0.003, 0.03), picture.shape)
    return np.asarray(np.clip(picture * 255, 0, 255), dtype=np.uint8)


def _streak(length: int, angle: float) -> NDArray[np.float64]:
    """The kernel of a camera that moved `length` pixels during the exposure."""
    middle = (length - 1) / 2
    line = np.zeros((length, length))
    line[length // 2] = 1
    turned = cv2.warpAffine(line, cv2.getRotationMatrix2D((middle, middle), angle, 1), (length, length))
    return np.asarray(turned / turned.sum())


def render_scene(
    seed: int, number: int, *, held_out: bool = False, arrangements: int = 2
) -> Iterator[tuple[Image, dict[str, Any]]]:
    """The frames of one scene.

    Args:
        seed: of the whole set.
        number: of the scene.
        held_out: use shape parameters that training never takes.
        arrangements: how often its things are put elsewhere, `VIEWS` frames each.

    Yields:
        (480, 640, 3) uint8 RGB and the frame's entry without `file`.
    """
    rng = np.random.default_rng([seed, number, int(held_out)])
    prefix = f'{"h" if held_out else "s"}{seed}_{number:05d}'
    scene = compose.make(rng, prefix, held_out=held_out)
    stage = Stage(scene.things, scene.scenery)
    labeller = Labeller(stage)
    try:
        for arrangement in range(arrangements):
            poses = compose.arrange(scene, rng)
            stage.arrange(poses)
            stage.light(*compose.lights(scene, rng))
            for view, camera in enumerate(compose.cameras(scene, poses, rng, VIEWS)):
                shot = stage.shoot(camera)
                entry = {'scene': prefix, 'arrangement': arrangement, 'view': arrangement * VIEWS + view}
                size = {'width': WIDTH, 'height': HEIGHT}
                yield spoiled(shot.image, rng), {**entry, **size, 'objects': labeller.label(shot, camera, poses)}
    finally:
        stage.close()


def write_scene(out: Path, seed: int, number: int, *, held_out: bool, arrangements: int) -> None:
    """Write the frames of one scene and, once they are all there, its entries."""
    frames = []
    for image, entry in render_scene(seed, number, held_out=held_out, arrangements=arrangements):
        file = f'{entry["scene"]}_{entry["view"]}.jpg'
        quality = QUALITY[0] + (number * 7 + entry['view'] * 3) % (QUALITY[1] - QUALITY[0])
        cv2.imwrite(str(out / file), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        frames.append({'file': file, **entry})
    _write_json(out / 'scenes' / f'{number:05d}.json', frames)


def _write_json(path: Path, content: object) -> None:
    part = path.with_suffix('.part')
    part.write_text(json.dumps(content))
    part.replace(path)  # a file that exists is complete


def merge_annotations(out: Path) -> int:
    """Collect the entries of all finished scenes in `annotations.json`; returns the number of frames."""
    frames = [frame for path in sorted((out / 'scenes').glob('*.json')) for frame in json.loads(path.read_text())]
    _write_json(out / 'annotations.json', {'frames': frames})
    return len(frames)


def write(out: Path, scenes: int, seed: int, *, held_out: bool = False, arrangements: int = 2) -> int:
    """Write a dataset or continue one; returns its number of frames."""
    (out / 'scenes').mkdir(parents=True, exist_ok=True)
    missing = [n for n in range(scenes) if not (out / 'scenes' / f'{n:05d}.json').exists()]
    for done, number in enumerate(tqdm(missing, unit='scene')):
        write_scene(out, seed, number, held_out=held_out, arrangements=arrangements)
        if done % MERGE_EVERY == MERGE_EVERY - 1:
            merge_annotations(out)
    return merge_annotations(out)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description='Render scenes with exact boxes, names and colours.')
    parser.add_argument('--out', type=Path, required=True, help='folder for JPEG frames and annotations.json')
    parser.add_argument('--scenes', type=int, default=100)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--arrangements', type=int, default=2, help=f'of each scene, {VIEWS} views each')
    parser.add_argument('--held-out', action='store_true', help='shapes from parameter ranges that training never uses')
    parser.add_argument('--packages', action='store_true', help="packages' meshes beside ours (scenes/packages.py)")
    given = parser.parse_args()
    if given.packages:
        KINDS.update((f'{kind.name} of a package', kind) for kind in packages.kinds(held_out=given.held_out))
    frames = write(given.out, given.scenes, given.seed, held_out=given.held_out, arrangements=given.arrangements)
    print(f'{frames} frames in {given.out}')


if __name__ == '__main__':
    main()
