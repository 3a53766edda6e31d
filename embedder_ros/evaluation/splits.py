# SPDX-License-Identifier: Apache-2.0
"""Named splits of labelled frames, each saying what the model has seen of it, and which answers belong together.

Kitchen photos are split by person (so by video), mosaics by ImageNet class and by the grocery set's own split, renders
by shape parameters; a bag and a user's own photos were never trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from embedder_ros.evaluation.images import load
from embedder_ros.evaluation.named import read_photos
from embedder_ros.evaluation.questions import Asked, as_given, questions
from embedder_ros.training import photos
from embedder_ros.training.photos import Sample, Thing
from embedder_ros.types import NANOSECONDS, Frame, UserError

SPLITS = """\
kitchen-held:DIR[:VIDEO] kitchen photos of the person never trained on; VIDEO, the beginning of its name, for a part
kitchen-trained:DIR[:VIDEO]
mosaic-held:COUNT:SEED   mosaics of photos never trained on; needs --photos and --classes
mosaic-trained:COUNT:SEED
render-held:DIR          rendered scenes with held-out shapes (training.scenes.dataset --held-out)
render-trained:DIR       rendered scenes with trained shapes
packages-held:DIR        rendered scenes with held-out shapes and held-out meshes of packages (--held-out --packages)
bag:BAG                  a recording with its truth beside it as BAG_truth.json
photos:FILE[:DIR]        photos with named boxes, both layouts of `evaluate grounding`; DIR where file names start"""
RENDERED = ('render-held', 'render-trained', 'packages-held')
FRAMES = 40  # of each split; raising it narrows the intervals and costs half a second a frame
BLOCK = NANOSECONDS  # of a recording whose frames count as one unit: neighbours show the same


@dataclass(frozen=True, slots=True)
class Item:
    """One frame to ask.

    Attributes:
        sample: the labelled frame.
        frame: its pixels as the pipeline takes them.
        unit: answers of one unit are not independent: a scene, a second of a recording, else a frame.
        asked: what it is asked.
    """

    sample: Sample
    frame: Frame
    unit: str
    asked: list[Asked]


@dataclass(frozen=True, slots=True)
class Split:
    """Some frames of a source, read anew by each `items()`, so that none stays in memory.

    Attributes:
        name: of the report; holds no private path.
        unit: what a unit is, for the report.
        frames: how many.
        samples: reads all of the source.
        chosen: keys of the frames that are used.
        given: whether texts are asked as the file has them.
    """

    name: str
    unit: str
    samples: Callable[[], Iterator[Sample]]
    chosen: frozenset[str]
    given: bool = False

    @property
    def frames(self) -> int:
        """How many frames are used."""
        return len(self.chosen)

    def items(self) -> Iterator[Item]:
        """The chosen frames in the source's order."""
        for sample in self.samples():
            if sample.key in self.chosen:
                asked = as_given(sample) if self.given else questions(sample)
                yield Item(sample, Frame(sample.image, _stamp(sample), ''), self._unit(sample), asked)

    def _unit(self, sample: Sample) -> str:
        if self.unit == 'second':
            return str(_stamp(sample) // BLOCK)
        return sample.group if self.unit == 'scene' else sample.key


def open_split(spec: str, *, photo_folder: Path | None, classes: Path | None, frames: int = FRAMES) -> Split:
    """A split by its name (SPLITS), `frames` of it spread evenly, whole scenes together.

    Raises:
        UserError: no such split, or its files are missing.
    """
    kind, _, rest = spec.partition(':')
    samples = _reader(kind, rest, photo_folder, classes)
    try:
        seen = [(s.key, s.group) for s in samples()]
    except UserError:
        raise
    except (OSError, KeyError, ValueError) as error:
        raise UserError(
            f'{spec} cannot be read ({type(error).__name__}: {error}); see --help for its layout'
        ) from error
    if not seen:
        raise UserError(f'{spec} holds no frames')
    place, _, part = rest.partition(':')
    unit = 'scene' if kind in RENDERED else {'bag': 'second'}.get(kind, 'frame')
    label = {'bag': Path(place).name, 'photos': Path(place).name}.get(kind, part if kind.startswith('kitchen') else '')
    name = f'{kind}:{label}' if label else kind
    return Split(name, unit, samples, frozenset(_spread(seen, frames)), given=kind == 'photos')


def _reader(kind: str, rest: str, photo_folder: Path | None, classes: Path | None) -> Callable[[], Iterator[Sample]]:
    place, _, other = rest.partition(':')
    if kind in ('kitchen-held', 'kitchen-trained'):
        start = f'kitchen_{other}'  # keys hold the image's name, and it begins with its video's
        return lambda: (
            s for s in photos.kitchen(Path(place), held_back=kind == 'kitchen-held') if s.key.startswith(start)
        )
    if kind in RENDERED:
        return lambda: photos.rendered(Path(rest))
    if kind == 'bag':
        return lambda: photos.recorded(Path(rest))
    if kind == 'photos':
        return lambda: _named(Path(place), Path(other) if other else Path(place).parent)
    if kind in ('mosaic-held', 'mosaic-trained'):
        if photo_folder is None or classes is None:
            raise UserError(f'{kind} needs --photos, the folder that holds things/ and grocery/, and --classes')
        if not place.isdecimal() or not other.isdecimal():
            raise UserError(f'{kind}:{rest} needs two numbers: {kind}:COUNT:SEED')
        single = photos.single_things(photo_folder, photos.class_names(classes), held_back=kind == 'mosaic-held')
        return lambda: photos.mosaics(single, int(place), int(other))
    raise UserError(f"no split is called '{kind}'; choose among\n{SPLITS}")


def _named(path: Path, folder: Path) -> Iterator[Sample]:
    for number, photo in enumerate(read_photos(path)):
        frame = load(folder, photo.image)
        things = [Thing(box, texts) for box, texts in zip(photo.pixels(frame), photo.queries, strict=True)]
        yield Sample(f'{path.stem}_{number}', frame.image, things, complete=False)


def _spread(seen: list[tuple[str, str]], frames: int) -> list[str]:
    """Keys of `frames` frames, evenly over the source; whole groups of views where there are several."""
    groups = sorted({group for _, group in seen})
    if len(groups) == 1:
        rows = [round(i * len(seen) / min(frames, len(seen))) for i in range(min(frames, len(seen)))]
        return [seen[row][0] for row in rows]
    wanted = min(len(groups), max(1, round(frames * len(groups) / len(seen))))
    kept = {groups[i * len(groups) // wanted] for i in range(wanted)}
    return [key for key, group in seen if group in kept]


def _stamp(sample: Sample) -> int:
    """Nanoseconds of a recording's frame, which its key ends in; 0 for others."""
    last = sample.key.rpartition('_')[2]
    return int(last) if sample.group and last.isdecimal() and len(last) > 12 else 0


class Digest:
    """What was asked about: a hash over pixels and labels that anybody with the same files gets, too."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, item: Item) -> None:
        """One more frame."""
        self._hash.update(item.frame.image.tobytes())
        for thing in item.sample.things:
            self._hash.update(repr((thing.names, thing.colours, [float(v) for v in thing.box])).encode())

    def __str__(self) -> str:
        return self._hash.hexdigest()
