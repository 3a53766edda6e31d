# SPDX-License-Identifier: Apache-2.0
"""What a labelled frame is asked: its things and parts by noun, colour and owner, and as much that is not there.

Each text knows every labelled thing that it is true of, so that any of them is a right answer. Not asked: relations
("left of"), counts, captions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from embedder_ros.training.photos import Sample, owners

ABSENT = (
    'banana', 'teddy bear', 'cat', 'bicycle', 'guitar', 'umbrella', 'shoe', 'clock', 'elephant', 'pizza', 'car',
    'dog', 'hammer', 'tie', 'keyboard', 'flower', 'backpack', 'ladder', 'airplane', 'violin',
)  # fmt: skip
# Of these, what a photo may show without a label, or under a narrower one; not asked where labels are incomplete.
UNSURE = ('banana', 'shoe', 'clock', 'pizza', 'flower', 'backpack', 'car', 'airplane', 'bicycle')
_SURE = tuple(word for word in ABSENT if word not in UNSURE)
# Harder to refuse: things that could well be there. Asked where everything in view is labelled.
HOUSEHOLD = (
    'mug', 'bottle', 'bowl', 'plate', 'kettle', 'frying pan', 'book', 'can', 'drawer', 'microwave', 'toaster', 'knife',
    'spoon', 'sponge', 'lamp', 'vase', 'apple', 'chair', 'scissors', 'phone',
)  # fmt: skip
PAINTS = ('red', 'green', 'blue', 'yellow', 'purple')


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to a frame.

    Attributes:
        text: the phrase.
        kind: noun, colour noun, part, colour part, owned part ("the drawer handle"), given (as a file has it),
            absent, or absent colour (there, but in another colour).
        meant: rows of the frame's things that it is true of; none for absent ones.
        word: the thing's plain name, an owned part's with its owner's; '' for absent ones.
    """

    text: str
    kind: str
    meant: tuple[int, ...] = ()
    word: str = ''


def questions(sample: Sample) -> list[Asked]:
    """Everything a frame is asked; as many absent things as half of the present ones, and as many household things."""
    out = {asked.text: asked for asked in _present(sample)}
    random = np.random.default_rng(len(sample.key) + sum(sample.key.encode()))
    names = ' | '.join(n for t in sample.things for n in t.names)  # a 'table lamp' is a lamp
    count = max(1, len(out) // 2)
    wild = ABSENT if sample.complete else _SURE
    absent = [word for word in random.permutation(wild) if word not in names][:count]
    if sample.complete:
        absent += [word for word in random.permutation(HOUSEHOLD) if word not in names][:count]
    return [*out.values(), *(Asked(f'the {word}', 'absent') for word in absent), *_wrong_colours(sample, random)]


def as_given(sample: Sample) -> list[Asked]:
    """Each text of a file as it stands, and one absent thing for each."""
    texts = list(dict.fromkeys(name for thing in sample.things for name in thing.names))
    random = np.random.default_rng(len(sample.key) + sum(sample.key.encode()))
    sure = [word for word in random.permutation(_SURE) if not any(word in text.lower() for text in texts)]
    meant = [tuple(i for i, thing in enumerate(sample.things) if text in thing.names) for text in texts]
    present = [Asked(text, 'given', rows) for text, rows in zip(texts, meant, strict=True)]
    return present + [Asked(f'the {word}', 'absent') for word in sure[: len(texts)]]


def _present(sample: Sample) -> Iterator[Asked]:
    named = {thing.instance: thing.names for thing in sample.things}
    owned = [owners(thing.instance, named) for thing in sample.things]
    for thing, owner in zip(sample.things, owned, strict=True):
        word, part = thing.names[0], 'part' if thing.part else 'noun'
        called = [word in t.names for t in sample.things]
        yield Asked(f'the {word}', part, _rows(called), word)
        if len(thing.colours) == 1:
            colour = thing.colours[0]
            painted = [ok and colour in t.colours for ok, t in zip(called, sample.things, strict=True)]
            yield Asked(f'the {colour} {word}', f'colour {part}', _rows(painted), word)
        if owner:
            its = [ok and owner[0] in names for ok, names in zip(called, owned, strict=True)]
            yield Asked(f'the {owner[0]} {word}', 'owned part', _rows(its), f'{owner[0]} {word}')


def _rows(true: list[bool]) -> tuple[int, ...]:
    return tuple(i for i, ok in enumerate(true) if ok)


def _wrong_colours(sample: Sample, random: np.random.Generator) -> list[Asked]:
    """At most two things that are there, each in a colour that none of its kind has."""
    out = []
    for name in dict.fromkeys(t.names[0] for t in sample.things if t.colours):
        have = {c for t in sample.things for c in t.colours if name in t.names}
        if free := [c for c in PAINTS if c not in have]:
            out.append(Asked(f'the {random.choice(free)} {name}', 'absent colour'))
    return out[:2]
