# SPDX-License-Identifier: Apache-2.0
"""Recipes for what one drinks, eats and cooks with."""

from __future__ import annotations

import numpy as np

from embedder_ros.training.scenes import surfaces
from embedder_ros.training.scenes.kinds import Draw, Piece, kind
from embedder_ros.training.scenes.meshes import (
    Array,
    Mesh,
    ball,
    block,
    disc,
    lathe,
    rotation,
    smooth,
    stack,
    sweep,
    tub,
    tube,
    vessel,
)
from embedder_ros.training.scenes.surfaces import Paint


def ear(reach: float, low: float, high: float, wide: float, thick: float, flat: float = 1.0) -> Mesh:
    """A loop handle in the plane y = 0 that starts and ends at x = `reach`, `wide` metres out."""
    middle = (low + high) / 2
    out = [(reach + 0.8 * wide, 0, high), (reach + wide, 0, middle), (reach + 0.7 * wide, 0, low)]
    return tube([(reach, 0, high), *out, (reach, 0, low)], thick, flat, 18, 8)


def radius_at(side: Array, height: float) -> float:
    """Radius of a turned `side`, (P, 2), at a height."""
    return float(np.interp(height, side[:, 1], side[:, 0]))


def _mug_side(draw: Draw, radius: float, height: float) -> Array:
    style = draw.pick(('straight', 'belly', 'tapered', 'flared'))
    if style == 'belly':
        bulge = [(0.7 * radius, 0), (1.05 * radius, 0.3 * height), (radius, 0.7 * height), (0.9 * radius, height)]
        return smooth(bulge, 10)
    foot = {'straight': 0.98, 'tapered': 1.12, 'flared': draw.size(0.6, 0.8)}[style]
    return np.array([(0.92 * foot * radius, 0), (foot * radius, 0.06 * height), (radius, height)])


@kind('mug', 'cup', 'coffee mug', 'tea cup', weight=4.0)
def mug(draw: Draw, paint: Paint) -> list[Piece]:
    """A mug with an ear."""
    radius, height = draw.size(0.033, 0.048), draw.size(0.07, 0.12)
    side = _mug_side(draw, radius, height)
    low, high = draw.size(0.14, 0.3) * height, draw.size(0.68, 0.9) * height
    reach = 0.97 * min(radius_at(side, low), radius_at(side, high))
    handle = ear(reach, low, high, draw.size(0.022, 0.038), draw.size(0.004, 0.007), draw.size(0.8, 1.7))
    return [Piece(vessel(side, 0.003), paint), Piece(handle, draw.trim() if draw.chance(0.1) else paint, 'handle0')]


def banded(side: Array, low: float, high: float) -> Mesh:
    """A label wrapped round a turned side between two heights."""
    heights = np.linspace(low, high, 4)
    rim = [(radius_at(side, z) + 0.0006, z) for z in heights]
    return lathe([(rim[0][0] - 0.002, low), *rim, (rim[-1][0] - 0.002, high)])


def _label(draw: Draw, paint: Paint) -> Paint:
    ground = paint.rgb if draw.chance(0.4) else surfaces.jittered('white', draw.rng)
    image = surfaces.label(draw.rng, ground, surfaces.jittered(draw.colour(), draw.rng))
    return Paint((), np.ones(3), image, shine=0.3, repeat=(2.0, 1.0))


@kind('bottle', 'water bottle', 'flask', weight=4.0)
def bottle(draw: Draw, paint: Paint) -> list[Piece]:
    """A bottle with a shoulder, a neck and a cap."""
    radius, height = draw.size(0.027, 0.045), draw.size(0.17, 0.3)
    neck = draw.size(0.28, 0.5) * radius
    shoulder, throat = draw.size(0.45, 0.72) * height, draw.size(0.78, 0.88) * height
    waist = draw.size(0.86, 1.0) * radius
    foot = [(0.9 * radius, 0), (radius, 0.03 * height), (waist, 0.5 * shoulder), (radius, shoulder)]
    side = np.concatenate(
        [foot, smooth([(radius, shoulder + 1e-4), (0.75 * radius, (shoulder + throat) / 2), (neck, throat)], 8)]
    )
    side = np.concatenate([side, [(neck, 0.96 * height)]])
    body = lathe([(1e-5, 0), *side, (1e-5, 0.96 * height)])
    cap = draw.size(1.08, 1.4) * neck
    top = lathe([(1e-5, 0.93 * height), (cap, 0.93 * height), (cap, height), (1e-5, height)])
    pieces = [Piece(body, paint), Piece(top, draw.trim(), 'cap0')]
    if draw.chance(0.45):
        pieces.append(
            Piece(banded(side, draw.size(0.15, 0.3) * shoulder, draw.size(0.6, 0.9) * shoulder), _label(draw, paint))
        )
    return pieces


@kind(
    'wine bottle',
    'bottle',
    'glass bottle',
    colours=('green', 'black', 'red', 'brown', 'white'),
    weight=1.0,
    dress='plain',
)
def wine_bottle(draw: Draw, paint: Paint) -> list[Piece]:
    """A tall bottle with a long neck and a label."""
    radius, height, neck = draw.size(0.033, 0.043), draw.size(0.27, 0.33), draw.size(0.012, 0.016)
    shoulder = draw.size(0.5, 0.62) * height
    slope = smooth([(radius, shoulder), (0.8 * radius, shoulder + 0.07 * height), (neck, shoulder + 0.16 * height)], 7)
    side = np.concatenate([[(0.95 * radius, 0), (radius, 0.01)], slope, [(neck, height)]])
    cork = lathe(
        [(1e-5, 0.84 * height), (neck + 0.0012, 0.84 * height), (neck + 0.0012, 1.004 * height), (1e-5, 1.004 * height)]
    )
    band = banded(side, 0.2 * shoulder, draw.size(0.6, 0.9) * shoulder)
    return [
        Piece(lathe([(1e-5, 0), *side, (1e-5, height)]), paint),
        Piece(cork, draw.trim(), 'cap0'),
        Piece(band, _label(draw, paint)),
    ]


@kind('bowl', 'soup bowl', 'cereal bowl', weight=3.0)
def bowl(draw: Draw, paint: Paint) -> list[Piece]:
    """A round bowl."""
    radius, height = draw.size(0.055, 0.12), draw.size(0.04, 0.085)
    foot = draw.size(0.35, 0.6) * radius
    curve = smooth([(foot, 0.004), (0.78 * radius, draw.size(0.25, 0.5) * height), (radius, height)], 9)
    return [Piece(vessel(np.concatenate([[(foot, 0)], curve]), 0.0035, 36), paint)]


@kind('plate', 'dish', 'dinner plate', weight=2.0)
def plate(draw: Draw, paint: Paint) -> list[Piece]:
    """A shallow plate."""
    radius, height = draw.size(0.08, 0.145), draw.size(0.012, 0.025)
    well = draw.size(0.6, 0.75) * radius
    side = np.array([(0.8 * well, 0), (well, 0.2 * height), (0.85 * radius, 0.7 * height), (radius, height)])
    return [Piece(vessel(side, 0.004, 40), paint)]


@kind(
    'glass',
    'drinking glass',
    'tumbler',
    colours=('white', 'cyan', 'green', 'blue', 'gray', 'pink'),
    dress='plain',
    weight=1.5,
)
def glass(draw: Draw, paint: Paint) -> list[Piece]:
    """A see-through tumbler, tinted."""
    radius, height = draw.size(0.028, 0.042), draw.size(0.08, 0.15)
    side = np.array([(draw.size(0.65, 0.95) * radius, 0), (radius, height)])
    clear = Paint(paint.colours if paint.colours[0] not in ('white', 'gray') else (), paint.rgb, shine=1.0, alpha=0.45)
    return [Piece(vessel(side, 0.003, 24), clear)]


@kind('wine glass', 'glass', 'goblet', colours=('white',), dress='plain', weight=0.8)
def wine_glass(draw: Draw, paint: Paint) -> list[Piece]:
    """A goblet on a stem."""
    radius, height = draw.size(0.03, 0.045), draw.size(0.15, 0.22)
    stem, foot = draw.size(0.35, 0.5) * height, draw.size(0.75, 0.95) * radius
    cup = smooth([(0.004, stem), (radius, stem + 0.35 * (height - stem)), (0.8 * radius, height)], 9)
    inside = cup[::-1][:-2] - [0.003, 0.0]
    profile = [(1e-5, 0), (foot, 0), (foot, 0.003), (0.004, 0.008), *cup, *inside, (1e-5, inside[-1, 1])]
    return [Piece(lathe(profile), Paint((), paint.rgb, shine=1.0, alpha=0.5))]


@kind('pot', 'cooking pot', 'saucepan', 'casserole', dress='metal', weight=2.0)
def pot(draw: Draw, paint: Paint) -> list[Piece]:
    """A pot with two ears, mostly with a lid and its knob."""
    radius, height = draw.size(0.075, 0.125), draw.size(0.07, 0.15)
    side = np.array([(0.95 * radius, 0), (radius, 0.08 * height), (radius, height), (radius * 1.02, height)])
    trim = draw.trim() if draw.chance(0.6) else paint
    pieces = [Piece(vessel(side, 0.004, 36), paint)]
    ear_wide, at = draw.size(0.02, 0.035), draw.size(0.65, 0.88) * height
    loop = ear(0.0, -0.4 * radius, 0.4 * radius, ear_wide, draw.size(0.004, 0.008), draw.size(0.7, 1.3)).turned(
        rotation('x', np.pi / 2)
    )
    for i, turn in enumerate((0.0, np.pi)):
        pieces.append(Piece(loop.moved([0.96 * radius, 0, at]).turned(rotation('z', turn)), trim, f'handle{i}'))
    return pieces + (lid(draw, 1.01 * radius, height, paint, trim) if draw.chance(0.75) else [])


def lid(draw: Draw, radius: float, height: float, paint: Paint, trim: Paint) -> list[Piece]:
    """A domed lid at a height, and its knob."""
    dome, grip = draw.size(0.12, 0.35) * radius, draw.size(0.1, 0.2) * radius
    curve = smooth([(radius, height + 0.004), (0.7 * radius, height + 0.75 * dome), (0.02, height + dome)], 8)
    cover = lathe([(1e-5, height), (radius, height), *curve, (1e-5, height + dome)], 32)
    stalk = [
        (1e-5, -0.003),
        (0.5 * grip, -0.003),
        (0.5 * grip, 0.5 * grip),
        (grip, grip),
        (0.9 * grip, 1.6 * grip),
        (1e-5, 1.8 * grip),
    ]
    return [Piece(cover, paint, 'lid0'), Piece(lathe(stalk, 16).moved([0, 0, height + dome]), trim, 'lid0/knob0')]


def long_handle(draw: Draw, start: float, height: float, length: float, rise: float) -> Mesh:
    """A pan's handle along +x."""
    thick = draw.size(0.007, 0.012)
    path = [(start, 0, height), (start + 0.5 * length, 0, height + 0.7 * rise), (start + length, 0, height + rise)]
    return sweep(smooth(path, 10), disc(thick, 10, draw.size(1.2, 1.9)), np.linspace(0.75, 1.1, 10))


@kind(
    'pan',
    'frying pan',
    'skillet',
    colours=('black', 'gray', 'red', 'blue', 'green', 'orange', 'white'),
    dress='metal',
    weight=2.0,
)
def pan(draw: Draw, paint: Paint) -> list[Piece]:
    """A frying pan."""
    radius, height = draw.size(0.085, 0.14), draw.size(0.03, 0.055)
    side = np.array([(draw.size(0.72, 0.9) * radius, 0), (radius, height)])
    grip = long_handle(draw, 0.95 * radius, 0.8 * height, draw.size(0.12, 0.2), draw.size(0.005, 0.045))
    return [Piece(vessel(side, 0.004, 36), paint), Piece(grip, draw.trim() if draw.chance(0.6) else paint, 'handle0')]


@kind('kettle', 'tea kettle', 'water kettle', dress='metal', weight=2.0)
def kettle(draw: Draw, paint: Paint) -> list[Piece]:
    """A kettle with a bow handle over its lid and a spout."""
    radius, height = draw.size(0.07, 0.1), draw.size(0.1, 0.17)
    top = draw.size(0.45, 0.7) * radius
    body = smooth([(0.9 * radius, 0), (radius, 0.25 * height), (0.9 * radius, 0.7 * height), (top, height)], 12)
    trim = draw.trim()
    spout = [
        (0.85 * radius, 0, 0.35 * height),
        (1.3 * radius, 0, 0.6 * height),
        (1.55 * radius, 0, draw.size(0.85, 1.05) * height),
    ]
    nose = sweep(smooth(spout, 9), disc(0.24 * radius, 12), np.linspace(1, 0.5, 9))
    bow = draw.size(0.45, 0.75) * height
    arch = [
        (-top, 0, 0.9 * height),
        (-1.05 * top, 0, height + 0.7 * bow),
        (0, 0, height + bow),
        (1.05 * top, 0, height + 0.7 * bow),
        (top, 0, 0.9 * height),
    ]
    pieces = [Piece(lathe([(1e-5, 0), *body, (1e-5, height)], 32), paint), Piece(nose, paint)]
    pieces.append(Piece(tube(arch, draw.size(0.006, 0.01), 1.3, 20), trim, 'handle0'))
    return pieces + lid(draw, 0.85 * top, height - 0.004, paint, trim)


@kind('teapot', 'tea pot', 'pot', weight=1.5)
def teapot(draw: Draw, paint: Paint) -> list[Piece]:
    """A round teapot with an ear."""
    radius = draw.size(0.055, 0.085)
    height = draw.size(1.2, 1.7) * radius
    body = smooth(
        [(0.6 * radius, 0), (radius, 0.45 * height), (0.75 * radius, 0.85 * height), (0.42 * radius, height)], 12
    )
    spout = [
        (0.8 * radius, 0, 0.3 * height),
        (1.3 * radius, 0, 0.45 * height),
        (1.7 * radius, 0, draw.size(0.85, 1.05) * height),
    ]
    nose = sweep(smooth(spout, 10), disc(0.22 * radius, 12), np.linspace(1, 0.42, 10))
    handle = ear(0.88 * radius, 0.25 * height, 0.8 * height, draw.size(0.5, 0.75) * radius, 0.09 * radius).turned(
        rotation('z', np.pi)
    )
    pieces = [
        Piece(lathe([(1e-5, 0), *body, (1e-5, height)], 32), paint),
        Piece(nose, paint),
        Piece(handle, paint, 'handle0'),
    ]
    return pieces + lid(draw, 0.42 * radius, height - 0.003, paint, paint)


@kind('jug', 'pitcher', 'carafe', weight=1.0)
def jug(draw: Draw, paint: Paint) -> list[Piece]:
    """A jug with a lip and an ear."""
    radius, height = draw.size(0.045, 0.07), draw.size(0.15, 0.24)
    side = smooth(
        [
            (0.75 * radius, 0),
            (radius, 0.3 * height),
            (draw.size(0.5, 0.7) * radius, 0.78 * height),
            (0.75 * radius, height),
        ],
        12,
    )
    grip = ear(0.62 * radius, 0.3 * height, 0.88 * height, draw.size(0.6, 0.9) * radius, 0.007, 1.4)
    return [Piece(vessel(side, 0.004), paint), Piece(grip, paint, 'handle0')]


def _cutlery_paint(draw: Draw, paint: Paint) -> Paint:
    return surfaces.metal(draw.rng) if paint.colours == ('gray',) else paint


CUTLERY = ('gray', 'gray', 'gray', 'brown', 'red', 'blue', 'black', 'green', 'white')


@kind('spoon', 'tablespoon', 'ladle', colours=CUTLERY, dress='plain', weight=1.2)
def spoon(draw: Draw, paint: Paint) -> list[Piece]:
    """A spoon lying on its back."""
    length, wide = draw.size(0.13, 0.24), draw.size(0.02, 0.033)
    scoop = ball(wide, (1.45, 1.0, 0.3)).moved([0.6 * length, 0, 0.3 * wide])
    path = smooth([(0.6 * length - wide, 0, 0.3 * wide), (0, 0, 0.02), (-0.4 * length, 0, 0.008)], 10)
    stem = sweep(path, disc(0.005, 8, 0.55), np.linspace(0.8, 1.6, 10))
    paint = _cutlery_paint(draw, paint)
    return [Piece(scoop, paint), Piece(stem, paint, 'handle0')]


@kind(
    'knife',
    'kitchen knife',
    'table knife',
    colours=('black', 'brown', 'red', 'blue', 'white', 'gray', 'green'),
    dress='plain',
    weight=1.2,
)
def knife(draw: Draw, paint: Paint) -> list[Piece]:
    """A knife lying flat; its grip has the named colour."""
    length, wide, grip = draw.size(0.1, 0.2), draw.size(0.022, 0.045), draw.size(0.09, 0.13)
    xs = np.linspace(0, 1, 9)
    edge = np.column_stack([xs * length, -wide * np.sqrt(np.clip(1 - xs**2.5, 0, 1))])
    flat = np.concatenate([edge, [(length, 0.0), (0, 0.0)]])
    blade = stack([(flat, 0.008), (flat, 0.0105)])
    handle = block(grip, wide * 0.75, 0.018, 0.007).moved([-grip / 2, -wide * 0.42, 0])
    return [Piece(blade, surfaces.metal(draw.rng)), Piece(handle, paint, 'handle0')]


@kind('fork', 'table fork', colours=CUTLERY, dress='plain', weight=0.8)
def fork(draw: Draw, paint: Paint) -> list[Piece]:
    """A fork lying on its back."""
    length, wide = draw.size(0.14, 0.21), draw.size(0.02, 0.03)
    paint = _cutlery_paint(draw, paint)
    palm = block(0.14 * length, wide, 0.004, 0.0015).moved([0.32 * length, 0, 0.006])
    tines = [
        block(0.26 * length, wide / 7, 0.003, 0.001).moved([0.5 * length, (i - 1.5) * wide / 3.5, 0.007])
        for i in range(4)
    ]
    stem = sweep(
        smooth([(0.27 * length, 0, 0.008), (0, 0, 0.015), (-0.5 * length, 0, 0.005)], 9),
        disc(0.005, 8, 0.5),
        np.linspace(0.8, 1.6, 9),
    )
    return [Piece(palm, paint), *(Piece(t, paint) for t in tines), Piece(stem, paint, 'handle0')]


@kind('tray', 'serving tray', dress='wood', weight=1.5)
def tray(draw: Draw, paint: Paint) -> list[Piece]:
    """A flat tray with a rim."""
    wide, deep = draw.size(0.24, 0.4), draw.size(0.17, 0.28)
    return [Piece(tub(wide, deep, draw.size(0.02, 0.05), 0.006, draw.size(0.01, 0.06), draw.size(1.0, 1.15)), paint)]


@kind('jar', 'storage jar', 'canister', weight=1.5)
def jar(draw: Draw, paint: Paint) -> list[Piece]:
    """A jar with a screw lid; the jar has the named colour."""
    radius, height = draw.size(0.035, 0.06), draw.size(0.08, 0.16)
    side = np.array(
        [(0.92 * radius, 0), (radius, 0.05 * height), (radius, 0.88 * height), (0.85 * radius, 0.95 * height)]
    )
    cap = lathe(
        [(1e-5, 0.92 * height), (0.93 * radius, 0.92 * height), (0.93 * radius, 1.1 * height), (1e-5, 1.1 * height)]
    )
    pieces = [Piece(lathe([(1e-5, 0), *side, (1e-5, 0.95 * height)]), paint), Piece(cap, draw.trim(), 'lid0')]
    return pieces + (
        [Piece(banded(side, 0.25 * height, 0.7 * height), _label(draw, paint))] if draw.chance(0.5) else []
    )


@kind(
    'cutting board',
    'chopping board',
    'board',
    colours=('brown', 'brown', 'white', 'green', 'black'),
    dress='wood',
    weight=1.0,
)
def cutting_board(draw: Draw, paint: Paint) -> list[Piece]:
    """A board, lying."""
    return [Piece(block(draw.size(0.25, 0.4), draw.size(0.16, 0.26), draw.size(0.012, 0.025), 0.005), paint)]
