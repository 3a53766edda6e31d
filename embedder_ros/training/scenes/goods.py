# SPDX-License-Identifier: Apache-2.0
"""Recipes for fruit, packages, tools and the things that lie about in homes and offices."""

from __future__ import annotations

import numpy as np

from embedder_ros.training.scenes import surfaces
from embedder_ros.training.scenes.kinds import Draw, Piece, kind
from embedder_ros.training.scenes.meshes import (
    Mesh,
    ball,
    block,
    disc,
    lathe,
    outline,
    rotation,
    smooth,
    stack,
    sweep,
    tub,
    tube,
    vessel,
)
from embedder_ros.training.scenes.surfaces import Paint


def printed(draw: Draw, paint: Paint, share: float = 0.8) -> Paint:
    """The paint as a package's print in `share` of the draws."""
    if paint.texture is not None or not draw.chance(share):
        return paint
    ink = surfaces.jittered(draw.colour(), draw.rng)
    return Paint(paint.colours, np.ones(3), surfaces.label(draw.rng, paint.rgb, ink), shine=0.35, repeat=(2.0, 1.0))


def box_mesh(width: float, depth: float, height: float) -> Mesh:
    """A sharp-edged box whose sides carry one unrolled texture."""
    return stack([(outline(width, depth, 0.0015, 2), 0.0), (outline(width, depth, 0.0015, 2), height)])


@kind('can', 'tin can', 'soda can', 'tin', weight=2.5)
def can(draw: Draw, paint: Paint) -> list[Piece]:
    """A tin with steel ends."""
    radius, height = draw.size(0.027, 0.045), draw.size(0.07, 0.14)
    side = lathe([(1e-5, 0.004), (radius, 0.004), (radius, height - 0.004), (1e-5, height - 0.004)])
    rim = 0.94 * radius
    ends = lathe(
        [
            (1e-5, 0),
            (rim, 0),
            (rim, 0.003),
            (rim, height - 0.003),
            (rim, height),
            (rim - 0.003, height - 0.003),
            (1e-5, height - 0.003),
        ]
    )
    return [Piece(side, printed(draw, paint)), Piece(ends, surfaces.metal(draw.rng))]


@kind('carton', 'milk carton', 'juice carton', weight=1.5)
def carton(draw: Draw, paint: Paint) -> list[Piece]:
    """A drink carton with a gable top."""
    wide, height = draw.size(0.06, 0.095), draw.size(0.14, 0.24)
    ridge = height + draw.size(0.3, 0.5) * wide
    foot = outline(wide, wide, 0.002, 2)
    thin = outline(wide, 0.005, 0.001, 2)
    body = stack([(foot, 0), (foot, height), (thin, ridge), (thin, ridge + 0.018)])
    pieces = [Piece(body, printed(draw, paint))]
    if draw.chance(0.5):
        cap = lathe([(1e-5, 0), (0.013, 0), (0.013, 0.014), (1e-5, 0.014)], 14).turned(rotation('x', 0.9))
        pieces.append(Piece(cap.moved([0, -0.27 * wide, height + 0.5 * (ridge - height)]), draw.trim(), 'cap0'))
    return pieces


@kind('box', 'cardboard box', 'package', 'cereal box', weight=2.5)
def box(draw: Draw, paint: Paint) -> list[Piece]:
    """A closed package."""
    mesh = box_mesh(draw.size(0.06, 0.2), draw.size(0.04, 0.12), draw.size(0.05, 0.26))
    return [Piece(mesh, printed(draw, paint, 0.6))]


@kind('book', 'hardcover book', 'notebook', weight=2.5, dress='plain')
def book(draw: Draw, paint: Paint) -> list[Piece]:
    """A closed book, lying or upright."""
    wide, long, thick = draw.size(0.11, 0.19), draw.size(0.16, 0.26), draw.size(0.012, 0.05)
    cover = printed(draw, paint, 0.5)
    pages = block(wide - 0.006, long - 0.01, thick - 0.005, 0.001).moved([0.004, 0, 0.0025])
    boards = [block(wide, long, 0.003, 0.001), block(wide, long, 0.003, 0.001).moved([0, 0, thick - 0.003])]
    spine = block(0.004, long, thick, 0.0015).moved([-wide / 2, 0, 0])
    meshes = [*boards, spine, pages]
    if draw.chance(0.3):
        meshes = [
            m.turned(rotation('y', -np.pi / 2)).turned(rotation('x', np.pi / 2)).turned(rotation('z', np.pi / 2))
            for m in meshes
        ]
        low = min(float(m.vertices[:, 2].min()) for m in meshes)
        meshes = [m.moved([0, 0, -low]) for m in meshes]
    paper = Paint((), np.array([0.9, 0.88, 0.8]), shine=0.0)
    return [Piece(m, paper if m is meshes[-1] else cover) for m in meshes]


@kind('ball', 'toy ball', 'sphere', weight=2.5)
def toy_ball(draw: Draw, paint: Paint) -> list[Piece]:
    """A ball."""
    radius = draw.size(0.025, 0.08)
    return [Piece(ball(radius, points=28).moved([0, 0, radius]), paint)]


def _stem(height: float, length: float) -> Piece:
    path = [(0, 0, height - 0.006), (0.002, 0, height + 0.5 * length), (0.006, 0, height + length)]
    return Piece(tube(path, 0.0018, 1.0, 6, 6), Paint((), np.array([0.25, 0.16, 0.08]), shine=0.1))


@kind('apple', 'fruit', colours=('red', 'red', 'green', 'yellow'), dress='plain', weight=1.5)
def apple(draw: Draw, paint: Paint) -> list[Piece]:
    """An apple with a dimple and a stem."""
    r = draw.size(0.032, 0.044)
    h = draw.size(1.65, 2.0) * r
    side = [
        (0.15 * r, 0.07 * h),
        (0.5 * r, 0),
        (0.9 * r, 0.28 * h),
        (r, 0.58 * h),
        (0.82 * r, 0.88 * h),
        (0.42 * r, h),
        (0.05 * r, 0.86 * h),
    ]
    return [Piece(lathe([(1e-5, 0.08 * h), *smooth(side, 18), (1e-5, 0.85 * h)]), paint), _stem(0.88 * h, 0.35 * r)]


@kind('orange', 'fruit', 'tangerine', colours=('orange',), dress='plain', weight=1.2)
def orange(draw: Draw, paint: Paint) -> list[Piece]:
    """An orange."""
    r, squash = draw.size(0.03, 0.045), draw.size(0.88, 1.0)
    return [Piece(ball(r, (1, 1, squash)).moved([0, 0, r * squash]), paint)]


@kind('lemon', 'fruit', colours=('yellow', 'yellow', 'green'), dress='plain', weight=1.2)
def lemon(draw: Draw, paint: Paint) -> list[Piece]:
    """A lemon on its side."""
    r, long = draw.size(0.022, 0.03), draw.size(0.034, 0.048)
    side = smooth(
        [
            (0.2 * r, -long),
            (0.3 * r, -0.88 * long),
            (0.85 * r, -0.45 * long),
            (r, 0),
            (0.85 * r, 0.45 * long),
            (0.3 * r, 0.88 * long),
            (0.2 * r, long),
        ],
        16,
    )
    mesh = lathe([(1e-5, side[0, 1]), *side, (1e-5, side[-1, 1])], 20)
    return [Piece(mesh.turned(rotation('y', np.pi / 2)).moved([0, 0, r]), paint)]


@kind('pear', 'fruit', colours=('green', 'yellow'), dress='plain', weight=0.8)
def pear(draw: Draw, paint: Paint) -> list[Piece]:
    """A pear, standing."""
    r, h = draw.size(0.03, 0.04), draw.size(0.085, 0.115)
    side = smooth([(0.3 * r, 0), (0.95 * r, 0.2 * h), (0.9 * r, 0.45 * h), (0.45 * r, 0.78 * h), (0.2 * r, h)], 14)
    return [Piece(lathe([(1e-5, 0), *side, (1e-5, h)]), paint), _stem(h, 0.015)]


@kind('banana', 'fruit', colours=('yellow', 'yellow', 'yellow', 'green'), dress='plain', weight=1.2)
def banana(draw: Draw, paint: Paint) -> list[Piece]:
    """A banana lying on its side."""
    length, bend, thick = draw.size(0.15, 0.21), draw.size(0.03, 0.055), draw.size(0.015, 0.02)
    x = np.linspace(-0.5, 0.5, 16)
    path = np.column_stack([x * length, 4 * bend * (0.25 - x**2), np.full(16, thick)])
    width = np.clip(1.25 * (1 - np.abs(2 * x) ** 3.5), 0.22, 1.0)
    tip = Paint((), np.array([0.2, 0.14, 0.07]), shine=0.1)
    fruit = sweep(path, disc(thick, 6), width)
    return [
        Piece(fruit, paint),
        Piece(ball(0.3 * thick).moved(path[-1]), tip),
        Piece(ball(0.3 * thick).moved(path[0]), tip),
    ]


@kind('vase', 'flower vase', weight=1.5)
def vase(draw: Draw, paint: Paint) -> list[Piece]:
    """A curved vase."""
    r, h = draw.size(0.04, 0.07), draw.size(0.14, 0.28)
    neck, at = draw.size(0.3, 0.6) * r, draw.size(0.25, 0.45) * h
    side = smooth([(0.55 * r, 0), (r, at), (neck, 0.8 * h), (draw.size(0.45, 0.9) * r, h)], 16)
    return [Piece(vessel(side, 0.003), paint)]


@kind('bin', 'trash can', 'waste bin', 'bucket', weight=1.0, dress='plain')
def bin_(draw: Draw, paint: Paint) -> list[Piece]:
    """An open container, round or square, desk-sized."""
    if draw.chance(0.5):
        side = np.array([(draw.size(0.05, 0.07), 0), (draw.size(0.07, 0.1), draw.size(0.13, 0.22))])
        return [Piece(vessel(side, 0.003), paint)]
    return [
        Piece(
            tub(draw.size(0.12, 0.2), draw.size(0.1, 0.16), draw.size(0.1, 0.2), 0.004, 0.02, draw.size(1.0, 1.25)),
            paint,
        )
    ]


@kind('basket', 'storage basket', 'crate', weight=1.0, dress='wood')
def basket(draw: Draw, paint: Paint) -> list[Piece]:
    """A basket of slats."""
    wide, deep, height = draw.size(0.18, 0.28), draw.size(0.13, 0.2), draw.size(0.08, 0.14)
    rows = 3
    pieces = [Piece(tub(wide, deep, 0.02, 0.006, 0.01), paint)]
    for row in range(1, rows + 1):
        ring = outline(wide, deep, 0.012)
        inner = outline(wide - 0.012, deep - 0.012, 0.006)
        z, thick = height * row / (rows + 0.3), 0.13 * height
        slat = stack([(inner, z), (ring, z), (ring, z + thick), (inner, z + thick), (inner, z)])
        pieces.append(Piece(slat, paint))
    posts = [
        block(0.012, 0.012, height, 0.002).moved([x * (wide / 2 - 0.004), y * (deep / 2 - 0.004), 0])
        for x in (-1, 1)
        for y in (-1, 1)
    ]
    return pieces + [Piece(post, paint) for post in posts]


@kind(
    'sponge', 'dish sponge', colours=('yellow', 'green', 'blue', 'pink', 'orange', 'purple'), dress='plain', weight=1.0
)
def sponge(draw: Draw, paint: Paint) -> list[Piece]:
    """A sponge with a scouring side."""
    wide, deep, height = draw.size(0.08, 0.12), draw.size(0.05, 0.075), draw.size(0.018, 0.03)
    foam = Paint(
        paint.colours, np.ones(3), surfaces.speckle(draw.rng, paint.rgb * 0.8, np.clip(paint.rgb * 1.1, 0, 1)), shine=0
    )
    scour = block(wide, deep, 0.007, 0.002).moved([0, 0, height])
    return [
        Piece(block(wide, deep, height, 0.005), foam),
        Piece(scour, draw.paint(draw.pick(('green', 'black', 'gray')))),
    ]


@kind(
    'phone',
    'smartphone',
    'mobile phone',
    colours=('black', 'black', 'white', 'gray', 'blue', 'red', 'pink'),
    dress='plain',
    weight=1.0,
)
def phone(draw: Draw, paint: Paint) -> list[Piece]:
    """A phone, its screen up."""
    wide, long = draw.size(0.066, 0.08), draw.size(0.135, 0.165)
    screen = block(wide - 0.006, long - 0.01, 0.0012, 0.0005).moved([0, 0, 0.0082])
    return [Piece(block(wide, long, 0.009, 0.004), paint), Piece(screen, _screen(draw))]


def _screen(draw: Draw) -> Paint:
    dark = np.full(3, 0.03)
    if draw.chance(0.4):
        return Paint((), dark, shine=1.0)
    image = surfaces.label(draw.rng, surfaces.jittered(draw.colour(), draw.rng), surfaces.jittered('white', draw.rng))
    return Paint((), np.ones(3), image, shine=0.9)


@kind(
    'laptop',
    'notebook computer',
    'computer',
    colours=('gray', 'black', 'white', 'pink', 'blue'),
    dress='plain',
    weight=1.2,
)
def laptop(draw: Draw, paint: Paint) -> list[Piece]:
    """An open laptop."""
    wide, deep, tilt = draw.size(0.28, 0.36), draw.size(0.2, 0.25), draw.size(0.1, 0.5)
    base = block(wide, deep, 0.014, 0.005)
    keys = block(0.86 * wide, 0.45 * deep, 0.002, 0.0008).moved([0, 0.15 * deep, 0.013])
    pad = block(0.3 * wide, 0.25 * deep, 0.0014, 0.0006).moved([0, -0.3 * deep, 0.013])
    turn = rotation('x', -tilt)
    shell = block(wide, 0.008, deep, 0.003).turned(turn).moved([0, deep / 2 - 0.004, 0.01])
    view = (
        block(0.94 * wide, 0.002, 0.88 * deep, 0.0008)
        .moved([0, -0.0045, 0.06 * deep])
        .turned(turn)
        .moved([0, deep / 2 - 0.004, 0.01])
    )
    dark = Paint((), np.full(3, 0.06), shine=0.2)
    return [
        Piece(base, paint),
        Piece(keys, dark),
        Piece(pad, Paint((), paint.rgb * 0.8)),
        Piece(shell, paint),
        Piece(view, _screen(draw)),
    ]


@kind('clock', 'alarm clock', 'table clock', weight=1.0, dress='plain')
def clock(draw: Draw, paint: Paint) -> list[Piece]:
    """A round clock on two feet."""
    r, thick = draw.size(0.04, 0.09), draw.size(0.025, 0.05)
    turn = rotation('x', np.pi / 2)
    drum = lathe(
        [
            (1e-5, 0),
            (0.96 * r, 0),
            (r, 0.15 * thick),
            (r, thick),
            (0.88 * r, thick),
            (0.86 * r, 0.9 * thick),
            (1e-5, 0.9 * thick),
        ],
        32,
    )
    face = lathe([(1e-5, 0.9 * thick), (0.85 * r, 0.9 * thick), (0.85 * r, 0.92 * thick), (1e-5, 0.92 * thick)], 32)
    dark = Paint((), np.full(3, 0.04))
    lift = [0, 0, 1.12 * r]
    pieces = [
        Piece(drum.turned(turn).moved(lift), paint),
        Piece(face.turned(turn).moved(lift), Paint((), np.full(3, 0.92), shine=0.2)),
    ]
    marks = [(0.72, 0.09, a) for a in np.arange(12) * np.pi / 6] + [
        (0.25, 0.5, float(draw.rng.uniform(0, 6.3))),
        (0.32, 0.66, float(draw.rng.uniform(0, 6.3))),
    ]
    for centre, long, angle in marks:
        bar = block(0.035 * r, 0.003, long * r, 0.001).moved([0, -0.935 * thick, (centre - long / 2) * r])
        pieces.append(Piece(bar.turned(rotation('y', angle)).moved(lift), dark))
    feet = [
        tube([(s * 0.5 * r, -0.5 * thick, 0.4 * r), (s * 0.8 * r, -0.5 * thick, 0)], 0.006, 1, 4, 8) for s in (-1, 1)
    ]
    return pieces + [Piece(foot, paint) for foot in feet]


@kind('lamp', 'desk lamp', 'table lamp', weight=1.2, dress='plain')
def lamp(draw: Draw, paint: Paint) -> list[Piece]:
    """A table lamp with a shade; the shade has the named colour."""
    r, h = draw.size(0.07, 0.11), draw.size(0.26, 0.42)
    shade, top = draw.size(0.32, 0.5) * h, draw.size(0.45, 0.95) * r
    stand = draw.trim()
    foot = lathe([(1e-5, 0), (0.7 * r, 0), (0.65 * r, 0.018), (0.01, 0.025), (0.008, 0.8 * h), (1e-5, 0.8 * h)], 24)
    cover = vessel(np.array([(r, h - shade), (top, h)]), 0.002)
    return [Piece(foot, stand), Piece(cover, paint)]


@kind(
    'hammer',
    'tool',
    'claw hammer',
    colours=('red', 'brown', 'black', 'blue', 'yellow', 'orange', 'green'),
    dress='wood',
    weight=1.2,
)
def hammer(draw: Draw, paint: Paint) -> list[Piece]:
    """A hammer lying on its side; its grip has the named colour."""
    length, head = draw.size(0.2, 0.32), draw.size(0.08, 0.13)
    thick = draw.size(0.011, 0.016)
    grip = sweep(
        smooth([(0, 0, thick), (0.5 * length, 0, thick), (length, 0, thick)], 8),
        disc(thick, 10, 0.7),
        np.linspace(1.1, 0.7, 8),
    )
    face = lathe([(1e-5, 0), (0.016, 0), (0.016, 0.02), (0.011, 0.03), (0.012, 0.6 * head), (1e-5, 0.6 * head)], 16)
    claw = sweep(
        smooth([(length, 0.0, thick), (length, 0.3 * head, thick), (length - 0.02, 0.55 * head, thick)], 8),
        disc(0.012, 8, 0.6),
        np.linspace(1, 0.3, 8),
    )
    steel = surfaces.metal(draw.rng)
    nose = face.turned(rotation('x', -np.pi / 2)).moved([length, -0.6 * head, thick])
    return [Piece(grip, paint, 'handle0'), Piece(nose, steel), Piece(claw, steel)]


@kind('screwdriver', 'tool', colours=('red', 'yellow', 'blue', 'green', 'orange', 'black'), dress='plain', weight=0.8)
def screwdriver(draw: Draw, paint: Paint) -> list[Piece]:
    """A screwdriver lying; its grip has the named colour."""
    grip, shaft, r = draw.size(0.08, 0.11), draw.size(0.07, 0.14), draw.size(0.012, 0.017)
    side = smooth([(0.7 * r, 0), (r, 0.2 * grip), (0.85 * r, 0.6 * grip), (r, 0.8 * grip), (0.6 * r, grip)], 12)
    lay = rotation('y', np.pi / 2)
    handle = lathe([(1e-5, 0), *side, (1e-5, grip)], 14).turned(lay).moved([0, 0, r])
    rod = (
        lathe([(1e-5, grip), (0.0035, grip), (0.003, grip + shaft), (1e-5, grip + shaft)], 10)
        .turned(lay)
        .moved([0, 0, r])
    )
    return [Piece(handle, paint, 'handle0'), Piece(rod, surfaces.metal(draw.rng))]


@kind('block', 'cube', 'toy block', weight=1.5)
def cube(draw: Draw, paint: Paint) -> list[Piece]:
    """A toy block."""
    edge = draw.size(0.03, 0.07)
    return [Piece(block(edge, edge, edge, draw.size(0.001, 0.008)), paint)]


@kind('candle', 'wax candle', dress='plain', weight=0.7)
def candle(draw: Draw, paint: Paint) -> list[Piece]:
    """A candle with a wick."""
    r, h = draw.size(0.02, 0.04), draw.size(0.06, 0.18)
    return [Piece(lathe([(1e-5, 0), (r, 0), (r, h), (0.8 * r, 0.98 * h), (1e-5, 0.97 * h)]), paint), _stem(h, 0.012)]


@kind('plant', 'potted plant', 'flower pot', colours=('green',), dress='plain', weight=1.0)
def plant(draw: Draw, paint: Paint) -> list[Piece]:
    """A potted plant; its leaves are what is green."""
    r, h = draw.size(0.04, 0.065), draw.size(0.06, 0.11)
    pot = Paint((), surfaces.jittered(draw.pick(('brown', 'white', 'orange', 'gray', 'blue')), draw.rng), shine=0.2)
    soil = lathe([(1e-5, 0.7 * h), (0.9 * r, 0.7 * h), (0.9 * r, 0.85 * h), (1e-5, 0.85 * h)])
    pieces = [
        Piece(vessel(np.array([(0.7 * r, 0), (r, h)]), 0.004), pot),
        Piece(soil, Paint((), np.array([0.15, 0.1, 0.06]), shine=0.0)),
    ]
    long = draw.size(0.09, 0.18)
    for i in range(draw.count(9, 16)):
        turn, lean, size = i * 2.4, float(draw.rng.uniform(0.2, 1.1)), float(draw.rng.uniform(0.7, 1.1)) * long
        out = np.array([np.cos(turn), np.sin(turn), 0])
        path = smooth(
            [
                [0, 0, 0.8 * h],
                0.45 * size * np.sin(lean) * out + [0, 0, 0.85 * h + 0.6 * size],
                size * np.sin(lean) * out + [0, 0, 0.85 * h + size * np.cos(lean)],
            ],
            8,
        )
        pieces.append(Piece(sweep(path, disc(0.016, 6, 0.15), [0.2, 0.4, 0.7, 1.0, 1.1, 0.9, 0.5, 0.1]), paint))
    return pieces
