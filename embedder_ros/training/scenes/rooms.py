# SPDX-License-Identifier: Apache-2.0
"""Recipes for what lies about in offices, living rooms and children's rooms."""

from __future__ import annotations

import numpy as np

from embedder_ros.training.scenes import surfaces
from embedder_ros.training.scenes.kinds import Draw, Piece, kind
from embedder_ros.training.scenes.meshes import Mesh, ball, block, lathe, outline, rotation, smooth, stack, tube
from embedder_ros.training.scenes.surfaces import Paint

DARK = Paint((), np.full(3, 0.05), shine=0.4)


@kind(
    'teddy bear',
    'teddy',
    'toy bear',
    'stuffed animal',
    colours=('brown', 'brown', 'white', 'pink', 'yellow', 'blue', 'gray'),
    dress='plain',
    weight=1.5,
)
def teddy(draw: Draw, paint: Paint) -> list[Piece]:
    """A sitting bear with a light snout."""
    r, head = draw.size(0.045, 0.075), draw.size(0.65, 0.9)
    fur = Paint(
        paint.colours,
        np.ones(3),
        surfaces.speckle(draw.rng, paint.rgb * 0.8, np.clip(paint.rgb * 1.15, 0, 1)),
        shine=0,
        repeat=(3, 3),
    )
    light = Paint((), np.clip(paint.rgb * 0.4 + 0.55, 0, 1), shine=0)
    top = 1.55 * r + 0.75 * head * r
    soft = [ball(r, (0.95, 0.85, 1.05)).moved([0, 0, r]), ball(head * r).moved([0, -0.1 * r, top])]
    for s in (-1, 1):
        soft.append(ball(draw.size(0.24, 0.36) * r, (1, 0.5, 1)).moved([s * 0.62 * head * r, 0, top + 0.8 * head * r]))
        soft.append(
            ball(0.36 * r, (1, 1, 1.6)).turned(rotation('y', -s * 0.9)).moved([s * 1.0 * r, -0.25 * r, 1.25 * r])
        )
        soft.append(
            ball(0.4 * r, (1, 1.7, 1)).turned(rotation('z', s * 0.45)).moved([s * 0.62 * r, -0.95 * r, 0.4 * r])
        )
    nose = -0.1 * r - 0.93 * head * r
    eyes = [ball(0.09 * r).moved([s * 0.3 * head * r, nose + 0.04 * r, top + 0.3 * head * r]) for s in (-1, 1)]
    black = [*eyes, ball(0.11 * r).moved([0, nose - 0.22 * r, top - 0.05 * r])]
    snout = ball(0.38 * head * r, (1.1, 0.9, 0.85)).moved([0, nose + 0.08 * r, top - 0.15 * r])
    return [*(Piece(m, fur) for m in soft), Piece(snout, light), *(Piece(m, DARK) for m in black)]


@kind('toy car', 'car', 'toy', dress='plain', weight=1.2)
def toy_car(draw: Draw, paint: Paint) -> list[Piece]:
    """A car with four wheels, standing."""
    long, wide, r = draw.size(0.09, 0.16), draw.size(0.045, 0.065), draw.size(0.013, 0.019)
    low, high, roof = 0.7 * r, draw.size(0.024, 0.034), draw.size(0.022, 0.034)
    body = block(long, wide, high, 0.007).moved([0, 0, low])
    start, end = outline(0.62 * long, 0.94 * wide, 0.005), outline(draw.size(0.3, 0.5) * long, 0.8 * wide, 0.005)
    cabin = stack([(start, low + high - 0.002), (end, low + high + 0.9 * roof), (end * 0.9, low + high + roof)])
    panes = stack([(start * [1.0, 1.02], low + high + 0.004), (end * 1.03, low + high + 0.75 * roof)])
    wheel = lathe([(1e-5, -0.006), (r, -0.006), (r, 0.006), (1e-5, 0.006)], 18).turned(rotation('x', np.pi / 2))
    spots = [(x * 0.31 * long, y * 0.5 * wide, r) for x in (-1, 1) for y in (-1, 1)]
    return [Piece(body, paint), Piece(cabin, paint), Piece(panes, DARK), *(Piece(wheel.moved(s), DARK) for s in spots)]


@kind('chair', 'kitchen chair', 'seat', dress='wood', where='floor', weight=1.5)
def chair(draw: Draw, paint: Paint) -> list[Piece]:
    """A chair with four legs and a back."""
    wide, seat, back = draw.size(0.36, 0.46), draw.size(0.4, 0.48), draw.size(0.38, 0.52)
    legs = paint if draw.chance(0.6) else draw.trim()
    pieces = [Piece(block(wide, wide, 0.035, 0.012).moved([0, 0, seat - 0.035]), paint)]
    for x in (-1, 1):
        for y in (-1, 1):
            at = np.array([x * (wide / 2 - 0.03), y * (wide / 2 - 0.03), 0])
            high = seat - 0.02 if y < 0 else seat + back
            pieces.append(
                Piece(tube([at, at + [0, 0, 0.5 * high], at + [0, 0, high]], draw.size(0.013, 0.02), 1, 4), legs)
            )
    count = draw.count(1, 3)
    for i in range(count):
        board = block(wide - 0.05, 0.018, back / (2.2 * count), 0.006)
        pieces.append(Piece(board.moved([0, wide / 2 - 0.03, seat + back * (1 - (i + 0.6) / (count + 0.3))]), paint))
    return pieces


def _keys(wide: float, deep: float, rows: int, columns: int, top: float) -> list[Mesh]:
    cell_w, cell_d = wide / columns, deep / rows
    key = block(0.82 * cell_w, 0.82 * cell_d, 0.005, 0.001)
    places = [(i % columns, i // columns) for i in range(rows * columns)]
    return [key.moved([(c + 0.5) * cell_w - wide / 2, (r + 0.5) * cell_d - deep / 2, top]) for c, r in places]


@kind('keyboard', 'computer keyboard', colours=('black', 'white', 'gray', 'pink'), dress='plain', weight=0.8)
def keyboard(draw: Draw, paint: Paint) -> list[Piece]:
    """A keyboard, lying."""
    wide, deep = draw.size(0.28, 0.44), draw.size(0.11, 0.16)
    cap = draw.paint(draw.pick(('black', 'white', 'gray'))) if draw.chance(0.5) else Paint((), paint.rgb * 0.85 + 0.03)
    keys = _keys(wide - 0.02, deep - 0.02, 5, draw.count(12, 17), 0.015)
    return [Piece(block(wide, deep, 0.018, 0.004), paint), *(Piece(k, cap) for k in keys)]


@kind('computer mouse', 'mouse', colours=('black', 'white', 'gray', 'red', 'blue'), dress='plain', weight=0.8)
def computer_mouse(draw: Draw, paint: Paint) -> list[Piece]:
    """A mouse with a wheel."""
    wide, long, high = draw.size(0.052, 0.066), draw.size(0.09, 0.12), draw.size(0.026, 0.038)
    layers = [
        (outline(wide * s, long * s, 0.45 * wide * s), high * z)
        for s, z in ((0.9, 0), (1, 0.15), (0.97, 0.45), (0.82, 0.75), (0.55, 0.94), (0.2, 1))
    ]
    wheel = ball(0.009, (0.5, 1, 1), 14).moved([0, -0.26 * long, 0.84 * high])
    return [Piece(stack(layers), paint), Piece(wheel, DARK)]


@kind('remote control', 'remote', 'tv remote', colours=('black', 'black', 'gray', 'white'), dress='plain', weight=1.0)
def remote(draw: Draw, paint: Paint) -> list[Piece]:
    """A remote control with rows of buttons."""
    wide, long = draw.size(0.04, 0.055), draw.size(0.14, 0.21)
    keys = _keys(0.75 * wide, 0.7 * long, draw.count(5, 9), 3, 0.016)
    pale = Paint((), np.full(3, 0.75 if paint.rgb.mean() < 0.4 else 0.25), shine=0.2)
    button = ball(0.006, (1, 1, 0.4), 10).moved([0.3 * wide, 0.43 * long, 0.019])
    return [
        Piece(block(wide, long, 0.019, 0.006), paint),
        *(Piece(k, pale) for k in keys),
        Piece(button, draw.paint('red')),
    ]


@kind(
    'pen',
    'ballpoint pen',
    'marker',
    colours=('blue', 'red', 'black', 'green', 'orange', 'yellow'),
    dress='plain',
    weight=0.8,
)
def pen(draw: Draw, paint: Paint) -> list[Piece]:
    """A pen lying; its barrel has the named colour."""
    r, long, cap = draw.size(0.004, 0.009), draw.size(0.12, 0.16), draw.size(0.03, 0.05)
    lay = rotation('y', np.pi / 2)
    barrel = lathe([(1e-5, 0), (r, 0), (r, long - cap - 0.02), (0.25 * r, long - cap), (1e-5, long - cap)], 14)
    back = lathe([(1e-5, -cap), (1.12 * r, -cap), (1.12 * r, 0.002), (1e-5, 0.002)], 14)
    meshes = [m.turned(lay).moved([0, 0, 1.12 * r]) for m in (barrel, back)]
    return [Piece(meshes[0], paint), Piece(meshes[1], paint if draw.chance(0.5) else draw.trim(), 'cap0')]


@kind(
    'paper roll',
    'kitchen roll',
    'paper towel',
    'toilet paper',
    colours=('white', 'white', 'white', 'brown'),
    dress='plain',
    weight=0.8,
)
def paper_roll(draw: Draw, paint: Paint) -> list[Piece]:
    """A standing roll of paper with its tube."""
    r, core, high = draw.size(0.045, 0.065), draw.size(0.018, 0.024), draw.size(0.09, 0.25)
    side = [(core, 0), (r, 0), (r, high), (core, high), (core, 0.02)]
    card = Paint((), np.array([0.6, 0.47, 0.33]), shine=0.0)
    inner = lathe(
        [
            (1e-5, 0.015),
            (core, 0.015),
            (core, high - 0.001),
            (core - 0.002, high - 0.001),
            (core - 0.002, 0.018),
            (1e-5, 0.018),
        ]
    )
    return [Piece(lathe([*side, (core, 0.0)]), Paint(paint.colours, paint.rgb, shine=0.0)), Piece(inner, card)]


@kind(
    'scissors',
    'pair of scissors',
    colours=('red', 'blue', 'black', 'orange', 'green', 'yellow'),
    dress='plain',
    weight=1.0,
)
def scissors(draw: Draw, paint: Paint) -> list[Piece]:
    """Open scissors lying; their grips have the named colour."""
    blade, ring, spread = draw.size(0.08, 0.13), draw.size(0.016, 0.024), draw.size(0.12, 0.4)
    angle = np.linspace(0, 2 * np.pi, 13)
    loop = np.column_stack([-0.075 - ring * 1.35 * np.cos(angle), 0.012 + ring * np.sin(angle), np.full(13, 0.007)])
    shank = smooth([(0, 0, 0.007), (-0.03, 0.004, 0.007), (-0.062, 0.012, 0.007)], 6)
    edge = stack(
        [(np.array([(-0.01, -0.006), (blade, -0.0005), (blade, 0.0005), (-0.01, 0.006)]), z) for z in (0.005, 0.0075)]
    )
    steel, pieces = surfaces.metal(draw.rng), []
    for i, s in enumerate((-1, 1)):
        flip = rotation('x', np.pi) if s < 0 else np.eye(3)
        turn = rotation('z', s * spread)
        lift = [0, 0, 0.014 if s < 0 else 0.0]
        pieces.append(Piece(edge.turned(flip).turned(turn).moved(lift), steel))
        for path in (loop, shank):
            pieces.append(
                Piece(tube(path, 0.0045, 1, 20, 8).turned(flip).turned(turn).moved(lift), paint, f'handle{i}')
            )
    return pieces
