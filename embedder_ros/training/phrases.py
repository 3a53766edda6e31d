# SPDX-License-Identifier: Apache-2.0
"""What is asked during training: phrases of a colour and a noun, as vectors, and which objects they are true of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedder_ros.models.nano.query import colour_vector
from embedder_ros.models.nano.text import ClassMixture, MiniLM
from embedder_ros.types import FloatArray

GENERIC = ('object', 'thing')
NEAR_SYNONYM = 0.72  # MiniLM cosine above which an unlisted name is not counted as wrong


@dataclass(frozen=True, slots=True)
class Asked:
    """One phrase: '' or a colour, and a noun; `owned` when that names a part with what it belongs to ('mug handle')."""

    colour: str
    noun: str
    owned: bool = False

    @property
    def text(self) -> str:
        """The phrase as the text tower reads it."""
        return f'{self.colour} {self.noun}'.strip()


class Bank:
    """Text vectors and class mixtures, computed once.

    Args:
        vocabulary: BERT word list.
        classes: names of every class row (ImageNet, then COCO).
        cache: .npz that keeps the vectors between runs; written by `save`.
    """

    def __init__(self, vocabulary: Path, classes: list[tuple[str, ...]], cache: Path) -> None:
        self._language = MiniLM(vocabulary, sha256='')
        self._cache = cache
        self._vectors: dict[str, FloatArray] = {}
        if cache.exists():
            with np.load(cache) as stored:
                self._vectors = dict(zip(stored['texts'].tolist(), stored['vectors'], strict=True))
        flat = [(n.lower(), row) for row, names in enumerate(classes) for n in names]
        self.class_names = np.stack([self.vector(name) for name, _ in flat])
        self.class_rows = np.array([row for _, row in flat])
        self.class_mixture = ClassMixture(self.class_names, self.class_rows)
        self._near: dict[tuple[str, tuple[str, ...]], bool] = {}
        self._mixtures: dict[str, tuple[FloatArray, float]] = {}

    def save(self) -> None:
        """Keep the vectors for the next run."""
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        np.savez(self._cache, texts=np.array(list(self._vectors)), vectors=np.stack(list(self._vectors.values())))

    def vector(self, text: str) -> FloatArray:
        """(384,) unit MiniLM vector."""
        if text not in self._vectors:
            self._vectors[text] = self._language(text)
        return self._vectors[text]

    def mixture(self, noun: str) -> tuple[FloatArray, float]:
        """Class shares of a noun and the similarity of the nearest class name."""
        if noun not in self._mixtures:
            self._mixtures[noun] = self.class_mixture(self.vector(noun))
        return self._mixtures[noun]

    def batch(self, asked: list[Asked]) -> dict[str, FloatArray]:
        """Arrays for the text side: full (P, 384), classes (P, C), colours (P, 12), hints (P, 4)."""
        mixtures = [self.mixture(a.noun) for a in asked]
        hints = [[1.0, nearest, bool(a.colour), 1.0] for a, (_, nearest) in zip(asked, mixtures, strict=True)]
        return {
            'full': np.stack([self.vector(a.text) for a in asked]),
            'classes': np.stack([shares for shares, _ in mixtures]),
            'colours': np.stack([colour_vector((a.colour,) if a.colour else ()) for a in asked]),
            'hints': np.array(hints, np.float32),
        }

    def synonyms(self, noun: str, names: tuple[str, ...]) -> bool:
        """Whether a noun is so close to one of the names that calling it wrong would be unfair."""
        key = noun, names
        if key not in self._near:
            self._near[key] = max(float(self.vector(noun) @ self.vector(n)) for n in names) > NEAR_SYNONYM
        return self._near[key]


def truth(asked: list[Asked], thing: dict[str, Any], bank: Bank) -> tuple[FloatArray, FloatArray]:
    """For one labelled object: (P,) 1 where the phrase is true of it, and (P,) how much that label is worth."""
    owned = set(thing['owned'])
    names, colours = {*thing['names'], *owned}, set(thing['colours'])
    right, worth = np.zeros(len(asked), np.float32), np.ones(len(asked), np.float32)
    for index, phrase in enumerate(asked):
        named = phrase.noun in names or phrase.noun in GENERIC
        told_apart = phrase.owned and owned  # a 'drawer handle' is close to a mug's handle, and is not it
        near = named or (not told_apart and bank.synonyms(phrase.noun, tuple(thing['names'])))
        if near and phrase.colour and not colours:
            worth[index] = 0.0  # its colour is not labelled
        elif phrase.colour and phrase.colour not in colours:
            continue
        elif named:
            right[index] = 1.0
        elif near:
            worth[index] = 0.0
    return right, worth


def ask(
    things: list[dict[str, Any]], vocabulary: list[str], colours: list[str], rng: np.random.Generator
) -> list[Asked]:
    """Phrases for one batch: names and colours of what is in it, the same names in wrong colours, and other nouns."""
    phrases: dict[Asked, None] = {}
    for row in rng.permutation(len(things))[:60]:
        thing = things[row]
        noun = str(rng.choice(thing['names']))
        phrases[Asked('', noun)] = None
        if thing['colours']:
            colour = str(rng.choice(thing['colours']))
            wrong = str(rng.choice(colours))
            phrases |= dict.fromkeys([Asked(colour, noun), Asked(wrong, noun), Asked(colour, 'object')])
        if thing['owned']:
            phrases[Asked('', str(rng.choice(thing['owned'])), owned=True)] = None
    for noun in rng.choice(vocabulary, 30):
        phrases[Asked('', str(noun))] = None
    return list(phrases)
