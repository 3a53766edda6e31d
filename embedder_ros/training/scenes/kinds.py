# SPDX-License-Identifier: Apache-2.0
"""What a kind of thing is: names, a colour range and a recipe that draws new shape parameters for every instance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from embedder_ros.training.scenes import surfaces
from embedder_ros.training.scenes.meshes import Mesh
from embedder_ros.training.scenes.surfaces import Paint

T = TypeVar('T')

# Held-out things take every shape parameter from the outer ends of its range. A wider margin makes the test harder and
# training shapes more alike.
HELD_MARGIN = 0.12


class Draw:
    """Random choices of one instance; the only source of randomness a recipe may use.

    Args:
        rng: where the choices come from.
        held_out: take shape parameters that training never takes.
    """

    def __init__(self, rng: np.random.Generator, *, held_out: bool = False) -> None:
        self.rng = rng
        self._held_out = held_out

    def size(self, low: float, high: float) -> float:
        """A shape parameter between `low` and `high`: from the middle for training, from the ends when held out."""
        share = float(self.rng.random())
        if self._held_out:
            share = share * HELD_MARGIN if self.chance(0.5) else 1 - share * HELD_MARGIN
        else:
            share = HELD_MARGIN + share * (1 - 2 * HELD_MARGIN)
        return low + share * (high - low)

    def count(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, share: float) -> bool:
        """True in `share` of the draws."""
        return bool(self.rng.random() < share)

    def pick(self, options: Sequence[T]) -> T:
        """One of `options`."""
        return options[int(self.rng.integers(len(options)))]

    def colour(self) -> str:
        """The name of any colour."""
        return self.pick(tuple(surfaces.COLOURS))

    def paint(self, colour: str) -> Paint:
        """A plain paint of a named colour."""
        return surfaces.plain(colour, self.rng)

    def trim(self) -> Paint:
        """A paint for caps, grips and feet: dark, light or steel."""
        if self.chance(0.3):
            return surfaces.metal(self.rng)
        return self.paint(self.pick(('black', 'black', 'white', 'brown', self.colour())))


@dataclass(frozen=True, slots=True)
class Piece:
    """One mesh of a thing.

    Attributes:
        mesh: its surface; the thing stands on z = 0 and faces -y.
        paint: what covers it.
        part: '' for the body, else a path of parts such as 'drawer1/handle0'.
    """

    mesh: Mesh
    paint: Paint
    part: str = ''


Recipe = Callable[[Draw, Paint], list[Piece]]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of thing.

    Attributes:
        name: what people call it.
        synonyms: other names that are as true.
        recipe: draws one instance in a given body paint.
        colours: names of the colours it comes in; empty for all.
        where: 'top' stands on a table, 'desk' at the back of one, 'floor' on the floor; 'built', 'tall' and 'wall'
            make up a kitchen.
        weight: how often it is drawn, relative to the others.
        dress: 'any' paints and patterns, 'plain' only, 'metal' and 'wood' sometimes.
    """

    name: str
    synonyms: tuple[str, ...]
    recipe: Recipe
    colours: tuple[str, ...] = ()
    where: str = 'top'
    weight: float = 1.0
    dress: str = 'any'


# Other names for the parts of things.
PART_SYNONYMS = {
    'handle': ('pull', 'grip'),
    'knob': ('pull knob', 'round handle'),
    'drawer': ('drawer front',),
    'door': ('cupboard door', 'cabinet door'),
    'lid': ('cover', 'top'),
    'lever': (),
    'cap': ('bottle cap', 'lid'),
}

KINDS: dict[str, Kind] = {}


def kind(
    name: str,
    *synonyms: str,
    colours: Sequence[str] = (),
    where: str = 'top',
    weight: float = 1.0,
    dress: str = 'any',
) -> Callable[[Recipe], Recipe]:
    """Register a recipe under its names; see `Kind`."""

    def register(recipe: Recipe) -> Recipe:
        KINDS[name] = Kind(name, synonyms, recipe, tuple(colours), where, weight, dress)
        return recipe

    return register


def body_paint(what: Kind, colour: str, rng: np.random.Generator) -> Paint:
    """A body paint of the named colour that suits the kind."""
    if what.dress == 'metal' and colour == 'gray':
        return surfaces.metal(rng)
    if what.dress == 'wood' and colour == 'brown':
        return surfaces.wooden(rng)
    if what.dress == 'any' and rng.random() < 0.2:
        return surfaces.patterned(colour, rng)
    return surfaces.plain(colour, rng)
