# SPDX-License-Identifier: Apache-2.0
"""Colours with names and procedural textures: what a rendered surface looks like."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

Image = NDArray[np.uint8]
Rgb = NDArray[np.float64]

# Typical sRGB values; each instance jitters around them within what people still call by the name.
COLOURS = {
    'red': (0.72, 0.06, 0.07),
    'green': (0.10, 0.50, 0.16),
    'blue': (0.08, 0.20, 0.72),
    'yellow': (0.93, 0.78, 0.08),
    'orange': (0.93, 0.42, 0.04),
    'purple': (0.42, 0.12, 0.58),
    'pink': (0.94, 0.48, 0.64),
    'brown': (0.36, 0.20, 0.10),
    'black': (0.05, 0.05, 0.055),
    'white': (0.93, 0.93, 0.91),
    'gray': (0.47, 0.47, 0.48),
    'cyan': (0.12, 0.72, 0.78),
}
# Tones of floors, walls and worktops: plaster, beech, oak, stone, terracotta, steel.
MUTED = (
    (1, 0.98, 0.94),
    (0.95, 0.78, 0.58),
    (0.72, 0.52, 0.34),
    (0.8, 0.8, 0.8),
    (0.82, 0.5, 0.38),
    (0.72, 0.77, 0.82),
)
NEUTRAL = ('black', 'white', 'gray')
TEXTURE_PIXELS = 128  # larger textures cost upload time and are not told apart at 640x480


@dataclass(frozen=True, slots=True)
class Paint:
    """What covers a surface.

    Attributes:
        colours: names that truthfully describe it, the dominant one first; empty when none does.
        rgb: (3,) float64 in 0..1; multiplies the texture.
        texture: (H, W, 3) uint8 or None.
        shine: 0 matt .. 1 glossy.
        alpha: 1 opaque .. 0 invisible.
        repeat: how often the texture repeats along u and v.
        look: of a mesh that looks the same in every scene, '' for one made up for this scene.
    """

    colours: tuple[str, ...]
    rgb: Rgb
    texture: Image | None = None
    shine: float = 0.3
    alpha: float = 1.0
    repeat: tuple[float, float] = (1.0, 1.0)
    look: str = ''


def jittered(name: str, rng: np.random.Generator) -> Rgb:
    """A (3,) sample of the named colour: hue, saturation and lightness moved a little."""
    amount = 0.25 if name in NEUTRAL else 1.0
    rgb = np.asarray(COLOURS[name]) * rng.uniform(0.82, 1.15) + amount * rng.normal(0, 0.025, 3)
    return np.clip(rgb, 0.02, 0.98)


def plain(name: str, rng: np.random.Generator, shine: float | None = None, alpha: float = 1.0) -> Paint:
    """One named colour."""
    return Paint(
        (name,), jittered(name, rng), shine=float(rng.uniform(0.05, 0.9)) if shine is None else shine, alpha=alpha
    )


def noise(rng: np.random.Generator, cells: int, octaves: int = 4, size: int = TEXTURE_PIXELS) -> NDArray[np.float64]:
    """(size, size) smooth noise in 0..1 with `cells` patches across at its coarsest."""
    total = np.zeros((size, size))
    for octave in range(octaves):
        grid = rng.random((cells * 2**octave + 2,) * 2).astype(np.float32)
        total += cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC) / 2**octave
    low, high = total.min(), total.max()
    return (total - low) / max(high - low, 1e-9)


def blend(weight: NDArray[np.float64], first: ArrayLike, second: ArrayLike) -> Image:
    """(H, W, 3) image between two colours by an (H, W) weight in 0..1."""
    mixed = np.asarray(first) * (1 - weight[..., None]) + np.asarray(second) * weight[..., None]
    return np.asarray(np.clip(mixed * 255, 0, 255), dtype=np.uint8)


def wood(rng: np.random.Generator, dark: ArrayLike, light: ArrayLike, size: int = TEXTURE_PIXELS) -> Image:
    """Planks with grain along v."""
    rows = np.linspace(0, rng.uniform(4, 14), size)[None, :] + 0.6 * noise(rng, 2, size=size)
    grain = 0.5 + 0.5 * np.sin(rows * 2 * np.pi + 0.6 * noise(rng, 12, size=size))
    fibres = cv2.resize(rng.random((8, size)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return blend(np.clip(0.55 * grain + 0.45 * fibres, 0, 1), dark, light)


def marble(rng: np.random.Generator, ground: ArrayLike, vein: ArrayLike, size: int = TEXTURE_PIXELS) -> Image:
    """Cloudy stone with thin veins."""
    field = noise(rng, 3, 5, size)
    veins = np.exp(-np.abs(field - rng.uniform(0.35, 0.65)) * rng.uniform(15, 40))
    return blend(np.clip(0.7 * veins + 0.25 * noise(rng, 6, size=size), 0, 1), ground, vein)


def speckle(rng: np.random.Generator, first: ArrayLike, second: ArrayLike, size: int = TEXTURE_PIXELS) -> Image:
    """Granite, carpet, plaster: fine noise."""
    fine = cv2.GaussianBlur(rng.random((size, size)).astype(np.float32), (0, 0), rng.uniform(0.4, 1.4))
    return blend(np.clip(0.5 + (fine - 0.5) * rng.uniform(0.8, 4), 0, 1), first, second)


def tiles(rng: np.random.Generator, tile: ArrayLike, joint: ArrayLike, size: int = TEXTURE_PIXELS) -> Image:
    """Tiles or bricks with joints."""
    rows, columns = int(rng.integers(2, 7)), int(rng.integers(2, 6))
    image = np.empty((size, size, 3))
    image[:] = joint
    gap, shift = rng.uniform(0.02, 0.07), bool(rng.random() < 0.5)
    for row in range(rows):
        for column in range(-1, columns + 1):
            x = (column + (0.5 if shift and row % 2 else 0)) / columns
            x0, x1 = (int(np.clip(v, 0, 1) * size) for v in (x + gap / columns, x + (1 - gap) / columns))
            y0, y1 = int((row + gap) / rows * size), int((row + 1 - gap) / rows * size)
            image[y0:y1, x0:x1] = np.asarray(tile) * rng.uniform(0.88, 1.08)
    return np.asarray(np.clip(image * 255, 0, 255), dtype=np.uint8)


def checks(rng: np.random.Generator, first: ArrayLike, second: ArrayLike, size: int = TEXTURE_PIXELS) -> Image:
    """A checked cloth, stripes one or both ways."""
    count = int(rng.integers(2, 9))
    stripes = (np.arange(size) * count // size % 2).astype(float)
    across = np.broadcast_to(stripes[None, :], (size, size))
    return blend(0.5 * across + 0.5 * (across.T if rng.random() < 0.6 else across), first, second)


def dots(rng: np.random.Generator, first: ArrayLike, second: ArrayLike, size: int = TEXTURE_PIXELS) -> Image:
    """Round spots in a grid."""
    count, radius = int(rng.integers(3, 7)), rng.uniform(0.15, 0.3)
    place = (np.arange(size) + 0.5) * count / size % 1 - 0.5
    spot = (place[None, :] ** 2 + place[:, None] ** 2 < radius**2).astype(float)
    return blend(spot, first, second)


def label(rng: np.random.Generator, ground: ArrayLike, ink: ArrayLike, size: int = TEXTURE_PIXELS) -> Image:
    """A package label: bands, a blob of a picture and lines that look like print."""
    image = np.empty((size, size, 3), dtype=np.float32)
    image[:] = ground
    if rng.random() < 0.6:
        top = int(rng.integers(0, size // 2))
        image[top : top + int(rng.integers(size // 8, size // 3))] = ink
    for _ in range(int(rng.integers(1, 4))):
        centre = tuple(int(v) for v in rng.integers(size // 5, size * 4 // 5, 2))
        shade = tuple(float(v) for v in rng.random(3))
        cv2.ellipse(
            image, centre, (int(rng.integers(5, size // 5)), int(rng.integers(5, size // 5))), 0, 0, 360, shade, -1
        )
    for line in range(int(rng.integers(2, 7))):
        y, x = size // 8 + line * size // 9, int(rng.integers(4, size // 3))
        for _ in range(int(rng.integers(2, 6))):
            width = int(rng.integers(4, 18))
            cv2.rectangle(
                image, (x, y), (x + width, y + int(rng.integers(2, 6))), tuple(float(v) for v in np.asarray(ink)), -1
            )
            x += width + 4
    return np.asarray(np.clip(image * 255, 0, 255), dtype=np.uint8)


def patterned(name: str, rng: np.random.Generator) -> Paint:
    """A named colour with a sparse pattern that does not change what one calls it."""
    ground = jittered(name, rng)
    accent = jittered('white' if name not in ('white', 'gray') else str(rng.choice(['blue', 'red', 'green'])), rng)
    maker = (dots, label, checks)[int(rng.integers(3))]
    faint = ground * 0.45 + accent * 0.55 if maker is checks else accent
    return Paint((name,), np.ones(3), maker(rng, ground, faint), shine=float(rng.uniform(0.1, 0.7)), repeat=(2.0, 1.0))


def wooden(rng: np.random.Generator) -> Paint:
    """Brown wood."""
    dark = jittered('brown', rng)
    image = wood(rng, dark, np.clip(dark * rng.uniform(1.3, 1.9), 0, 1))
    return Paint(('brown',), np.ones(3), image, shine=float(rng.uniform(0.05, 0.4)))


def metal(rng: np.random.Generator) -> Paint:
    """Steel: gray and glossy."""
    return Paint(('gray',), np.full(3, rng.uniform(0.45, 0.68)), shine=0.95)


def background(rng: np.random.Generator) -> Paint:
    """A surface without a name: worktop, floor, wall. Mostly in muted tones of real rooms, sometimes in any colour."""
    if rng.random() < 0.65:
        first = rng.uniform(0.3, 0.9) * np.asarray(MUTED[int(rng.integers(len(MUTED)))])
        second = first * rng.uniform(0.6, 0.9)
    else:
        first = np.clip(rng.uniform(0.2, 0.9) + rng.normal(0, 0.12, 3), 0, 1)
        second = np.clip(first * rng.uniform(0.5, 1.5) + rng.normal(0, 0.06, 3), 0, 1)
    maker = (wood, marble, speckle, speckle, speckle, tiles, checks)[int(rng.integers(7))]
    return Paint((), np.ones(3), maker(rng, first, second, 2 * TEXTURE_PIXELS), shine=float(rng.uniform(0, 0.4)))
