# SPDX-License-Identifier: Apache-2.0
"""Labelled frames to train on, from every source in one shape: rendered scenes, kitchen frames, photos of one thing.

A mosaic puts such photos side by side, so that a real image holds several known things at the sizes a robot sees.
Photos are read from a folder the user names; none is part of this repository, but `things.json` says where the thing
is in those of `things/` (see localise.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from embedder_ros.types import UserError

# ImageNet rows that share an everyday name which their own names do not say.
GROUPS = {
    'dog': [(151, 269)], 'cat': [(281, 286)], 'bird': [(7, 25), (80, 101), (127, 147)], 'fish': [(0, 7), (389, 398)],
    'snake': [(52, 69)], 'insect': [(300, 327)], 'monkey': [(369, 383)], 'fruit': [(948, 958)], 'spider': [(72, 78)],
    'lizard': [(38, 49)], 'turtle': [(33, 38)], 'bear': [(294, 298)], 'mushroom': [(991, 998)],
}  # fmt: skip
GROCERIES = {
    'Milk': ('milk carton', 'milk', 'carton'), 'Juice': ('juice carton', 'juice', 'carton'),
    'Yoghurt': ('yogurt', 'yogurt carton', 'carton'), 'Oat-Milk': ('oat milk', 'milk carton', 'carton'),
    'Oatghurt': ('yogurt', 'carton'), 'Soy-Milk': ('soy milk', 'milk carton', 'carton'),
    'Soyghurt': ('yogurt', 'carton'), 'Sour-Cream': ('sour cream', 'carton'),
    'Sour-Milk': ('sour milk', 'milk carton', 'carton'),
}  # fmt: skip
COCO_ROWS = 80  # classes of the detector
SEEN = 0.12  # share of a rendered thing's outline that must be visible for its label to count
CUT = 0.25  # most of each side that an altered copy of a photo lacks
HELD_BACK = 'carlos'  # the person whose kitchen frames are never trained on
THINGS = Path(__file__).with_name('things.json')
SYNONYMS = Path(__file__).with_name('synonyms.json')
FILLED = (0.04, 0.04, 0.96, 0.96)  # share of a photo that its groceries fill


@dataclass(slots=True)
class Thing:
    """One labelled object: box (4,) xyxy pixels, names it answers to, colours, and its individual ('' unknown)."""

    box: np.ndarray
    names: tuple[str, ...]
    colours: tuple[str, ...] = ()
    instance: str = ''
    part: bool = False


@dataclass(slots=True)
class Sample:
    """One labelled frame.

    Attributes:
        key: unique file-safe name.
        image: (H, W, 3) uint8 RGB.
        things: what is labelled.
        complete: whether everything in view is labelled.
        group: frames that show the same individuals share it.
    """

    key: str
    image: np.ndarray
    things: list[Thing] = field(default_factory=list)
    complete: bool = True
    group: str = ''


@dataclass(frozen=True, slots=True)
class Single:
    """A photo of one thing: its names, and its box as shares of the photo's width and height."""

    path: Path
    names: tuple[str, ...]
    box: tuple[float, ...]


def read_image(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    image = cv2.imread(str(path))
    if image is None:
        raise FileNotFoundError(f'{path} is not an image')
    return np.ascontiguousarray(image[..., ::-1])


def rendered(folder: Path) -> Iterator[Sample]:
    """Frames of `python -m embedder_ros.training.scenes.dataset`."""
    for frame in json.loads((folder / 'annotations.json').read_text())['frames']:
        scene = f'{folder.name}/{frame["scene"]}'
        things = [_rendered_thing(o, scene) for o in frame['objects'] if o['visible'] > SEEN]
        key = f'{folder.name}_{Path(frame["file"]).stem}'
        yield Sample(key, read_image(folder / frame['file']), things, group=scene)


def recoloured(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Frames mirrored, in other hues and another light, to learn where things are: names of colours no longer hold."""
    for sample in samples:
        rng = np.random.default_rng(hash_of(sample.key))
        other = mirrored(sample)
        hue, saturation, value = cv2.split(cv2.cvtColor(other.image, cv2.COLOR_RGB2HSV).astype(np.float32))
        hue = (hue + rng.uniform(0, 180)) % 180
        turned = cv2.merge([hue, saturation * rng.uniform(0.7, 1.2), value * rng.uniform(0.6, 1.25)])
        image = cv2.cvtColor(turned.clip(0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)
        if rng.random() < 0.3:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 1.0))
        image = (image + rng.normal(0, rng.uniform(0, 5), image.shape)).clip(0, 255).astype(np.uint8)
        things = [replace(t, colours=()) for t in other.things]
        yield replace(other, key=f'{sample.key}_recoloured', image=image, things=things)


def recorded(bag: Path) -> Iterator[Sample]:
    """Frames of a bag whose truth lies beside it as NAME_truth.json (test/sample)."""
    from embedder_ros.bags.source import open_source

    truth = json.loads(bag.with_name(f'{bag.name}_truth.json').read_text())
    things = {frame['stamp']: [_rendered_thing(o, bag.name) for o in frame['objects']] for frame in truth['frames']}
    for frame in open_source(bag).frames():
        if frame.stamp in things:
            yield Sample(f'{bag.name}_{frame.stamp}', frame.image, things[frame.stamp], group=bag.name)


def _rendered_thing(entry: dict[str, Any], scene: str) -> Thing:
    names = (entry['name'], *entry['synonyms'])
    box = np.array(entry['box'], np.float32)
    return Thing(box, names, tuple(entry['colours']), f'{scene}/{entry["instance"]}', entry['part_of'] is not None)


def shared_look(instance: str) -> str:
    """The look that an individual shares with its like in other scenes (scenes/packages.py); '' when it has its own."""
    return instance.partition('@')[2].partition('#')[0]


def owners(instance: str, named: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Names of what a part belongs to, nearest first: 'cabinet_0#drawer1/handle0' is a drawer's; none for whole things.

    Args:
        instance: its individual.
        named: names of the individuals in view; what is not in view is called by its plain name.
    """
    thing, is_part, path = instance.rpartition('#')
    names: list[str] = []
    while is_part and path:
        path = path.rpartition('/')[0]
        plain = re.sub(r'\d', '', path.rpartition('/')[2])
        names += named.get(f'{thing}#{path}' if path else thing) or filter(None, [plain])
    return tuple(names)


def kitchen(folder: Path, *, held_back: bool, copies: int = 0) -> Iterator[Sample]:
    """Egocentric kitchen frames with one named box each; `held_back` chooses the validation person or all others.

    After each frame come `copies` altered ones: mirrored, cut and lit at random.
    """
    for frame in json.loads((folder / 'annotations.json').read_text()):
        if frame['video'].startswith(HELD_BACK) != held_back:
            continue
        things = [Thing(np.array(o['box'], np.float32), (o['name'],)) for o in frame['objects']]
        key = f'kitchen_{Path(frame["image"]).stem}'
        sample = Sample(key, read_image(folder / frame['image']), things, complete=False)
        yield sample
        for copy in range(copies):
            yield altered(sample, f'{key}_{copy}')


def altered(sample: Sample, key: str) -> Sample:
    """Another view of a photo: a cut that keeps the labelled things, mirrored or not, in another light."""
    rng = np.random.default_rng(hash_of(key))
    height, width = sample.image.shape[:2]
    boxes = np.array([t.box for t in sample.things])
    low = rng.uniform(0, 1, 2) * np.minimum(boxes[:, :2].min(0), [CUT * width, CUT * height])
    room = np.minimum([width, height] - boxes[:, 2:].max(0), [CUT * width, CUT * height])
    high = np.array([width, height]) - rng.uniform(0, 1, 2) * np.maximum(room, 0)
    x0, y0, x1, y1 = (int(v) for v in (*np.maximum(low, 0), *np.ceil(high)))
    lit = 255 * (sample.image[y0:y1, x0:x1] / 255) ** rng.uniform(0.6, 1.5) * rng.uniform(0.75, 1.25, 3)
    image, boxes = np.clip(lit, 0, 255).astype(np.uint8), boxes - np.array([x0, y0, x0, y0])
    things = [replace(t, box=box.astype(np.float32)) for t, box in zip(sample.things, boxes, strict=True)]
    other = replace(sample, key=key, image=image, things=things)
    return mirrored(other) if rng.random() < 0.5 else other


def mirrored(sample: Sample) -> Sample:
    """The frame with left and right exchanged."""
    width = sample.image.shape[1]
    boxes = [np.array([width - t.box[2], t.box[1], width - t.box[0], t.box[3]], np.float32) for t in sample.things]
    things = [replace(t, box=box) for t, box in zip(sample.things, boxes, strict=True)]
    return replace(sample, image=np.ascontiguousarray(sample.image[:, ::-1]), things=things)


def hash_of(key: str) -> int:
    """A number that is the same in every run, unlike hash()."""
    return int.from_bytes(key.encode()[-8:], 'big')


def class_names(path: Path) -> list[tuple[str, ...]]:
    """Names of each class from a file with one class a line, synonyms apart by commas."""
    return [tuple(n.strip() for n in line.split(',')) for line in path.read_text().splitlines() if line.strip()]


def coco_names(path: Path) -> list[tuple[str, ...]]:
    """Names of the detector's 80 classes in its order. Raises UserError for another number of names."""
    names = class_names(path)
    if len(names) != COCO_ROWS:
        raise UserError(
            f"{path} has {len(names)} names, and the detector {COCO_ROWS} classes; Debian's opencv-doc has them as "
            'object_detection_classes_yolov3.txt (its ..._coco.txt counts classes that COCO left out)'
        )
    return names


def spoken_names(classes: Path, coco: Path) -> list[tuple[str, ...]]:
    """Names of every class row, ImageNet's and then the detector's, with what people call them.

    Of the words in synonyms.json MiniLM knows too little: to it a boy is a cock, and a sneaker a shoe shop.
    """
    named = class_names(classes) + coco_names(coco)
    called: dict[str, list[str]] = {}
    for word, kinds in json.loads(SYNONYMS.read_text()).items():
        for kind in kinds:
            called.setdefault(kind, []).append(word)
    return [tuple(dict.fromkeys([*names, *called.get(names[0].lower(), [])])) for names in named]


def everyday_names(classes: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """ImageNet names with the group they belong to: 'beer bottle' also answers to 'bottle', 'beagle' to 'dog'."""
    last = Counter(names[0].split()[-1].lower() for names in classes)
    out = []
    for row, names in enumerate(classes):
        head = names[0].split()[-1].lower()
        groups = [g for g, spans in GROUPS.items() if any(a <= row < b for a, b in spans)]
        wider = [head] if last[head] > 1 and ' ' in names[0] else []
        out.append(tuple(dict.fromkeys([*(n.lower() for n in names[:3]), *groups, *wider])))
    return out


def things(folder: Path, classes: list[tuple[str, ...]], *, held_back: bool) -> list[Single]:
    """Photos in `things/`, one per ImageNet class, where the thing was located; held back is every tenth class."""
    boxes = json.loads(THINGS.read_text())
    photos = sorted((folder / 'things').glob('*.jpg'))
    named = enumerate(zip(photos, everyday_names(classes), strict=True))
    mine = [pair for row, pair in named if (row % 10 == 0) == held_back and pair[0].name in boxes]
    return [Single(path, names, tuple(boxes[path.name])) for path, names in mine]


def groceries(folder: Path, *, held_back: bool) -> list[Single]:
    """Photos in `grocery/`; held back is the set's test split."""
    entries = json.loads((folder / 'grocery' / 'labels.json').read_text())
    mine = [e for e in entries if (e['split'] == 'train') != held_back]
    return [Single(folder / 'grocery' / e['image'], grocery_names(e['classes']), FILLED) for e in mine]


def single_things(folder: Path, classes: list[tuple[str, ...]], *, held_back: bool) -> list[Single]:
    """Every photo of one thing; those of `things/` twice, since the groceries are many and alike."""
    return 2 * things(folder, classes, held_back=held_back) + groceries(folder, held_back=held_back)


def grocery_names(classes: list[str]) -> tuple[str, ...]:
    """('Fruit', 'Apple', 'Golden-Delicious') -> 'golden delicious apple', 'apple', 'fruit'."""
    kind = classes[1]
    if kind in GROCERIES:
        return GROCERIES[kind]
    plain = re.sub('s$', '', kind.replace('-', ' ').lower()) if kind != 'Asparagus' else 'asparagus'
    fine = (
        [f'{classes[2].replace("-", " ").lower()} {plain}']
        if len(classes) > 2 and plain not in classes[2].lower()
        else []
    )
    return (*fine, plain, 'fruit' if classes[0] == 'Fruit' else 'vegetable')


def alone(photos: list[Single], count: int, seed: int) -> Iterator[Sample]:
    """`count` photos as they are, cut, mirrored and lit at random."""
    for number, single in enumerate(_shuffled(photos, count, np.random.default_rng(seed))):
        image, key = read_image(single.path), f'alone{seed}_{number:05d}'
        box = np.array(single.box, np.float32) * np.tile(image.shape[1::-1], 2)
        thing = Thing(box.astype(np.float32), single.names, instance=single.path.stem)
        yield altered(Sample(key, image, [thing], complete=False), key)


def mosaics(photos: list[Single], count: int, seed: int) -> Iterator[Sample]:
    """`count` frames of 640 x 480 tiled with photos in random grids, mirrored and lit at random."""
    rng = np.random.default_rng(seed)
    order = _shuffled(photos, count * 16, rng)
    for number in range(count):
        rows, columns = [(1, 1), (1, 2), (2, 2), (2, 3), (3, 3), (3, 4), (4, 4)][rng.integers(7)]
        canvas = np.full((480, 640, 3), rng.integers(0, 256, 3), np.uint8)
        shown = [
            (single, _tile(canvas, single, cell, rows, columns, rng))
            for cell, single in zip(range(rows * columns), order, strict=False)
        ]
        tiles = [Thing(box, single.names, instance=single.path.stem) for single, box in shown]
        yield Sample(f'mosaic{seed}_{number:05d}', canvas, tiles, complete=False)


def _shuffled(photos: list[Single], count: int, rng: np.random.Generator) -> Iterator[Single]:
    """`count` photos, each once before any comes again."""
    order = np.concatenate([rng.permutation(len(photos)) for _ in range(1 + count // len(photos))])
    return iter([photos[i] for i in order[:count]])


def _tile(
    canvas: np.ndarray, single: Single, cell: int, rows: int, columns: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw a photo into a cell, keeping its shape; returns the thing's box."""
    photo, (left, top, right, bottom) = read_image(single.path), single.box
    height, width = 480 // rows, 640 // columns
    zoom = min(width / photo.shape[1], height / photo.shape[0]) * rng.uniform(0.7, 1.0)
    size = max(8, int(photo.shape[1] * zoom)), max(8, int(photo.shape[0] * zoom))
    small = cv2.resize(photo, size, interpolation=cv2.INTER_AREA)
    if rng.random() < 0.5:
        small, left, right = small[:, ::-1], 1 - right, 1 - left
    small = np.clip(small * rng.uniform(0.7, 1.25), 0, 255).astype(np.uint8)
    x = cell % columns * width + int(rng.integers(0, width - size[0] + 1))
    y = cell // columns * height + int(rng.integers(0, height - size[1] + 1))
    canvas[y : y + size[1], x : x + size[0]] = small
    return np.array([x, y, x, y] + np.array([left, top, right, bottom]) * np.tile(size, 2), np.float32)
