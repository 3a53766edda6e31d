# SPDX-License-Identifier: Apache-2.0
"""Recipes for furniture: fronts that open, each with a handle or knob in a colour of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from embedder_ros.training.scenes import surfaces
from embedder_ros.training.scenes.kinds import Draw, Piece, kind
from embedder_ros.training.scenes.meshes import (
    Mesh,
    block,
    disc,
    lathe,
    merge,
    outline,
    rotation,
    smooth,
    stack,
    sweep,
    tube,
    vessel,
)
from embedder_ros.training.scenes.surfaces import Paint

STYLES = ('bar', 'bow', 'plate', 'knob')


@dataclass(frozen=True, slots=True)
class Fitting:
    """How the fronts of one piece of furniture are opened.

    Attributes:
        mesh: at the origin of a front that faces -y, lying along x.
        part: 'handle' or 'knob'.
    """

    mesh: Mesh
    part: str


def fitting(draw: Draw, style: str, length: float) -> Fitting:
    """A handle of full `length` metres in one of `STYLES`, or a knob of about a quarter of it."""
    half, thick, out = length / 2, draw.size(0.006, 0.011), draw.size(0.025, 0.04)
    if style == 'bar':
        rod = tube([(-half, -out, 0), (0, -out, 0), (half, -out, 0)], thick, draw.size(0.7, 1.4), 4)
        posts = [tube([(s * 0.75 * half, 0.002, 0), (s * 0.75 * half, -out, 0)], 0.7 * thick, 1, 3, 8) for s in (-1, 1)]
        return Fitting(merge([rod, *posts]), 'handle')
    if style == 'bow':
        arch = [
            (-half, 0.003, 0),
            (-0.8 * half, -0.8 * out, 0),
            (0, -out, 0),
            (0.8 * half, -0.8 * out, 0),
            (half, 0.003, 0),
        ]
        return Fitting(tube(arch, thick, draw.size(0.8, 1.8), 18), 'handle')
    if style == 'plate':
        wide = draw.size(0.02, 0.035)
        return Fitting(block(length, 0.6 * out, wide, 0.004).moved([0, -0.3 * out, -wide / 2]), 'handle')
    r = np.clip(length * draw.size(0.12, 0.2), 0.013, 0.026)
    side = [
        (1e-5, -0.002),
        (0.5 * r, -0.002),
        (0.45 * r, 0.7 * r),
        (r, 1.1 * r),
        (0.95 * r, 1.5 * r),
        (0.5 * r, 1.8 * r),
        (1e-5, 1.85 * r),
    ]
    return Fitting(lathe(side, 18).turned(rotation('x', np.pi / 2)), 'knob')


def front(wide: float, high: float, framed: bool) -> Mesh:
    """A front 18 mm thick, its outside on y = 0, centred; `framed` recesses its middle."""
    board = block(wide, high, 0.018, 0.003)
    if framed and min(wide, high) > 0.12:
        rim, inner = outline(wide, high, 0.003), outline(wide - 0.09, high - 0.09, 0.003)
        board = stack([(rim, 0), (rim, 0.018), (inner, 0.018), (inner - 0.004 * np.sign(inner), 0.011)])
    return board.turned(rotation('x', np.pi / 2)).moved([0, 0.018, 0])


def fitting_paint(draw: Draw, body: Paint) -> Paint:
    """A paint for a handle: a colour of its own, steel at times, rarely the front's."""
    if draw.chance(0.12):
        return surfaces.metal(draw.rng)
    colour = draw.colour()
    return draw.paint(draw.colour() if colour in body.colours else colour)


def _fitting_paints(draw: Draw, body: Paint, count: int) -> list[Paint]:
    first = fitting_paint(draw, body)
    return [first] * count if draw.chance(0.5) else [fitting_paint(draw, body) for _ in range(count)]


def _front_paint(draw: Draw, body: Paint) -> Paint:
    return draw.paint(draw.colour()) if draw.chance(0.25) else body


@dataclass(frozen=True, slots=True)
class Fronts:
    """What the drawers or doors of one piece of furniture look like.

    Attributes:
        face: paint of the fronts.
        framed: whether their middle is recessed.
        pull: how they are opened; for a door already turned as it hangs.
        paints: of the pulls, one per front.
    """

    face: Paint
    framed: bool
    pull: Fitting
    paints: tuple[Paint, ...]


def drawer_unit(body: Paint, fronts: Fronts, size: tuple[float, float, float], columns: int = 1) -> list[Piece]:
    """A carcass full of drawers, (width, depth, height) metres, standing on z = 0; its lowest drawer comes first."""
    wide, deep, high = size
    count = len(fronts.paints)
    cell_w, cell_h = wide / columns, high * columns / count
    pieces = [Piece(block(wide, deep, high, 0.004).moved([0, 0.01, 0]), body)]
    for i in range(count):
        x, z = (i % columns - (columns - 1) / 2) * cell_w, (i // columns + 0.5) * cell_h
        at = np.array([x, -deep / 2 - 0.01, z])
        board = front(cell_w - 0.008, cell_h - 0.008, fronts.framed)
        pieces.append(Piece(board.moved(at), fronts.face, f'drawer{i}'))
        pieces.append(Piece(fronts.pull.mesh.moved(at), fronts.paints[i], f'drawer{i}/{fronts.pull.part}0'))
    return pieces


def door_unit(
    body: Paint, fronts: Fronts, size: tuple[float, float, float], *, lift: float = 0.22, left: bool = False
) -> list[Piece]:
    """A carcass with hinged doors, (width, depth, height) metres.

    Args:
        body: paint of the carcass.
        fronts: the doors.
        size: of the carcass.
        lift: height of the pulls above the middle, as a share of the height.
        left: a single door opens from its left side.
    """
    wide, deep, high = size
    count = len(fronts.paints)
    cell = wide / count
    pieces = [Piece(block(wide, deep, high, 0.004).moved([0, 0.01, 0]), body)]
    for i in range(count):
        at = np.array([(i - (count - 1) / 2) * cell, -deep / 2 - 0.01, high / 2])
        side = -1 if i % 2 or (count == 1 and left) else 1
        hold = at + [side * 0.36 * cell, 0, lift * high]
        pieces.append(Piece(front(cell - 0.008, high - 0.01, fronts.framed).moved(at), fronts.face, f'door{i}'))
        pieces.append(Piece(fronts.pull.mesh.moved(hold), fronts.paints[i], f'door{i}/{fronts.pull.part}0'))
    return pieces


def drawers(draw: Draw, body: Paint, size: tuple[float, float, float], rows: int, columns: int = 1) -> list[Piece]:
    """A unit of drawers with fronts and pulls of its own."""
    pull = fitting(draw, draw.pick(STYLES), draw.size(0.25, 0.6) * size[0] / columns)
    paints = tuple(_fitting_paints(draw, body, rows * columns))
    return drawer_unit(body, Fronts(_front_paint(draw, body), draw.chance(0.4), pull, paints), size, columns)


def doors(draw: Draw, body: Paint, size: tuple[float, float, float], count: int, at_top: bool = True) -> list[Piece]:
    """A unit of doors with fronts and pulls of its own; the pulls sit high (`at_top`) or low."""
    pull = fitting(draw, draw.pick(STYLES), draw.size(0.2, 0.4) * min(size[2], 0.5))
    hung = pull.mesh.turned(rotation('y', np.pi / 2)) if draw.chance(0.8) else pull.mesh.scaled([0.6, 1, 1])
    paints = tuple(_fitting_paints(draw, body, count))
    fronts = Fronts(_front_paint(draw, body), draw.chance(0.5), Fitting(hung, pull.part), paints)
    return door_unit(body, fronts, size, lift=0.22 if at_top else -0.22, left=draw.chance(0.5))


@kind('cabinet', 'drawer unit', 'chest of drawers', dress='wood', weight=3.0, where='desk')
def cabinet(draw: Draw, paint: Paint) -> list[Piece]:
    """A desk-sized unit of drawers."""
    rows, columns = draw.count(1, 4), 2 if draw.chance(0.2) else 1
    high = rows * draw.size(0.08, 0.13)
    wide = draw.size(0.22, 0.34) * (1.4 if columns > 1 else 1)
    return drawers(draw, paint, (wide, draw.size(0.16, 0.26), high), rows, columns)


@kind('cupboard', 'cabinet', 'small cupboard', dress='wood', weight=2.0, where='desk')
def cupboard(draw: Draw, paint: Paint) -> list[Piece]:
    """A desk-sized cupboard with doors."""
    count = draw.count(1, 2)
    wide = draw.size(0.18, 0.26) * (1 + 0.5 * (count - 1))
    return doors(draw, paint, (wide, draw.size(0.14, 0.24), draw.size(0.24, 0.4)), count)


@kind('base cabinet', 'cabinet', 'kitchen cabinet', 'drawer unit', dress='wood', where='built', weight=3.0)
def base_cabinet(draw: Draw, paint: Paint) -> list[Piece]:
    """A kitchen module with drawers, 0.8 m high."""
    return drawers(draw, paint, (draw.size(0.4, 0.65), 0.56, 0.78), draw.count(2, 4))


@kind('kitchen cupboard', 'cupboard', 'cabinet', dress='wood', where='built', weight=2.5)
def base_cupboard(draw: Draw, paint: Paint) -> list[Piece]:
    """A kitchen module with one or two doors, 0.8 m high."""
    count = draw.count(1, 2)
    return doors(draw, paint, (draw.size(0.4, 0.5) * (1 + 0.6 * (count - 1)), 0.56, 0.78), count)


@kind('wall cupboard', 'cupboard', 'wall cabinet', dress='wood', where='wall', weight=1.0)
def wall_cupboard(draw: Draw, paint: Paint) -> list[Piece]:
    """A cupboard that hangs on the wall, its handles low."""
    count = draw.count(1, 3)
    wide = draw.size(0.35, 0.45) * (1 + 0.7 * (count - 1))
    return doors(draw, paint, (wide, 0.3, draw.size(0.5, 0.7)), count, at_top=False)


@kind('oven', 'stove', 'cooker', colours=('gray', 'black', 'white', 'red'), dress='metal', where='built', weight=1.2)
def oven(draw: Draw, paint: Paint) -> list[Piece]:
    """An oven with a glass door, a bar handle and knobs."""
    wide, high = 0.58, 0.78
    pieces = [Piece(block(wide, 0.56, high, 0.004).moved([0, 0.01, 0]), paint)]
    at = np.array([0, -0.29, 0.34])
    pane = Paint((), np.full(3, 0.04), shine=1.0)
    pieces.append(Piece(front(wide - 0.01, 0.56, False).moved(at), paint, 'door0'))
    pieces.append(Piece(block(0.74 * wide, 0.006, 0.3, 0.002).moved(at + [0, -0.002, -0.17]), pane, 'door0'))
    pull = fitting(draw, draw.pick(('bar', 'bow')), draw.size(0.32, 0.5))
    pieces.append(Piece(pull.mesh.moved(at + [0, 0, 0.21]), fitting_paint(draw, paint), 'door0/handle0'))
    trim, count = fitting_paint(draw, paint), draw.count(3, 5)
    for i in range(count):
        dial = fitting(draw, 'knob', 0.13).mesh.moved([(i - (count - 1) / 2) * 0.11, -0.28, 0.7])
        pieces.append(Piece(dial, trim, f'knob{i}'))
    return pieces


@kind(
    'fridge',
    'refrigerator',
    'freezer',
    colours=('white', 'gray', 'red', 'black', 'blue', 'green', 'cyan'),
    dress='metal',
    where='tall',
    weight=1.0,
)
def fridge(draw: Draw, paint: Paint) -> list[Piece]:
    """A tall fridge with two doors."""
    wide, high, split = draw.size(0.55, 0.68), draw.size(1.5, 1.85), draw.size(0.32, 0.62)
    pieces = [Piece(block(wide, 0.58, high, 0.01).moved([0, 0.01, 0]), paint)]
    pull = fitting(draw, draw.pick(('bar', 'bow')), draw.size(0.25, 0.45)).mesh.turned(rotation('y', np.pi / 2))
    trim, side = fitting_paint(draw, paint), draw.pick((-1, 1))
    for i, (low, top) in enumerate(((0.02, split * high), (split * high + 0.01, high))):
        at = np.array([0, -0.3, (low + top) / 2])
        pieces.append(Piece(front(wide - 0.006, top - low - 0.006, False).moved(at), paint, f'door{i}'))
        shift = np.array([side * 0.4 * wide, 0, 0.12 * (top - low) * (1 if i == 0 else -1)])
        pieces.append(Piece(pull.moved(at + shift), trim, f'door{i}/handle0'))
    return pieces


@kind('microwave', 'microwave oven', colours=('black', 'white', 'gray', 'red'), dress='metal', where='desk', weight=1.0)
def microwave(draw: Draw, paint: Paint) -> list[Piece]:
    """A microwave with a glass door and a handle."""
    wide, deep, high = draw.size(0.4, 0.5), draw.size(0.28, 0.36), draw.size(0.23, 0.3)
    at = np.array([-0.11 * wide, -deep / 2 - 0.01, high / 2])
    pieces = [Piece(block(wide, deep, high, 0.008).moved([0, 0.01, 0]), paint)]
    pieces.append(Piece(front(0.74 * wide, 0.92 * high, False).moved(at), paint, 'door0'))
    pane = Paint((), np.full(3, 0.04), shine=1.0)
    pieces.append(
        Piece(
            block(0.54 * wide, 0.006, 0.62 * high, 0.002).moved(at + [-0.05 * wide, -0.002, -0.31 * high]),
            pane,
            'door0',
        )
    )
    pull = fitting(draw, draw.pick(('bar', 'plate', 'bow')), 0.7 * high).mesh.turned(rotation('y', np.pi / 2))
    pieces.append(Piece(pull.moved(at + [0.31 * wide, 0, 0]), fitting_paint(draw, paint), 'door0/handle0'))
    dial = fitting(draw, 'knob', 0.14).mesh
    trim = draw.trim()
    for i, z in enumerate((0.3, 0.7)):
        pieces.append(Piece(dial.moved([0.39 * wide, -deep / 2 + 0.008, z * high]), trim, f'knob{i}'))
    return pieces


@kind('toaster', colours=('gray', 'red', 'black', 'white', 'blue', 'cyan', 'yellow', 'pink'), dress='metal', weight=1.0)
def toaster(draw: Draw, paint: Paint) -> list[Piece]:
    """A toaster with two slots and a lever."""
    wide, deep, high = draw.size(0.24, 0.32), draw.size(0.14, 0.19), draw.size(0.16, 0.21)
    dark = Paint((), np.full(3, 0.03))
    slots = [block(0.75 * wide, 0.022, 0.004, 0.001).moved([0, s * 0.22 * deep, high - 0.002]) for s in (-1, 1)]
    lever = block(0.03, 0.03, 0.014, 0.004).moved([wide / 2 + 0.012, 0, 0.6 * high])
    shell = block(wide, deep, high, draw.size(0.02, 0.05))
    return [Piece(shell, paint), *(Piece(s, dark) for s in slots), Piece(lever, draw.trim(), 'lever0')]


@kind('stool', 'bar stool', 'seat', dress='wood', where='floor', weight=1.0)
def stool(draw: Draw, paint: Paint) -> list[Piece]:
    """A round stool on four legs; its seat has the named colour."""
    r, h, splay = draw.size(0.14, 0.2), draw.size(0.42, 0.7), draw.size(1.0, 1.4)
    legs = paint if draw.chance(0.4) else draw.trim()
    seat = lathe([(1e-5, h - 0.04), (0.95 * r, h - 0.04), (r, h - 0.02), (0.95 * r, h), (1e-5, h)], 32)
    pieces = [Piece(seat, paint)]
    for i in range(4):
        d = np.array([np.cos(i * np.pi / 2 + 0.785), np.sin(i * np.pi / 2 + 0.785), 0])
        pieces.append(Piece(tube([0.65 * r * d + [0, 0, h - 0.03], 0.65 * splay * r * d], 0.014, 1, 3, 10), legs))
    ring = np.arange(17) * 2 * np.pi / 16
    path = np.column_stack([0.68 * r * np.cos(ring), 0.68 * r * np.sin(ring), np.full(17, 0.4 * h)])
    return [*pieces, Piece(sweep(path, disc(0.008, 6)), legs)]


@kind('bucket', 'pail', 'bin', where='floor', weight=1.0, dress='plain')
def bucket(draw: Draw, paint: Paint) -> list[Piece]:
    """A floor bucket with a bow handle."""
    r, h = draw.size(0.12, 0.18), draw.size(0.22, 0.36)
    side = np.array([(draw.size(0.65, 0.85) * r, 0), (r, h)])
    arch = smooth(
        [
            (-r, 0, 0.95 * h),
            (-0.75 * r, 0.3 * r, 1.3 * h),
            (0, 0.35 * r, 1.45 * h),
            (0.75 * r, 0.3 * r, 1.3 * h),
            (r, 0, 0.95 * h),
        ],
        16,
    )
    return [Piece(vessel(side, 0.004), paint), Piece(sweep(arch, disc(0.006, 8)), draw.trim(), 'handle0')]
