# SPDX-License-Identifier: Apache-2.0
"""Text to query vector: the text side of every part of nano's embedding, with its fitted share.

Products are np.einsum's: BLAS takes threads for them, which go on spinning where the networks want to run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from embedder_ros.inference.beside import Beside
from embedder_ros.models.nano.colour import COLOURS
from embedder_ros.models.nano.evening import evened_query
from embedder_ros.models.nano.layout import CLASSES, COLOUR, DIM, MEANING, ONE, QUERY_REST
from embedder_ros.models.nano.manifest import Manifest
from embedder_ros.models.nano.text import ClassMixture, MiniLM, parse
from embedder_ros.types import FloatArray, unit_rows

HINTS = 4  # familiarity, nearest class, has a colour, 1
ARRAYS = ('names', 'rows', 'known', 'classes', 'meaning', 'offset', 'shares', 'usual', 'spread', 'typical')


class QueryEncoder:
    """MiniLM and the fitted maps that turn a phrase into a query vector.

    Args:
        manifest: the checked model folder; `text.npz` holds `names` (M, 384) class names and their classes `rows`
            (M,), `known` (V, 384) the nouns the head was trained on, the maps `classes` (C, 256) and `meaning`
            (384, 256), `offset` (4,) weights of HINTS, and `shares` (4,): meaning, classes, colours, offset; of boxes
            of all kinds the mean vector `usual` (D,) and `spread` (K, D), whose square is their covariance; and the
            mean `typical` (D,) of many queries.
        threads: CPU threads of one query.
    """

    def __init__(self, manifest: Manifest, *, threads: int = 0) -> None:
        # So short a text is as quick in one thread.
        self.language = MiniLM(manifest.folder / 'vocab.txt', sha256=manifest.text_sha256, threads=1)
        self._both = Beside(threads)
        with np.load(manifest.folder / 'text.npz') as stored:
            arrays = {name: stored[name] for name in ARRAYS}
        self.maps = {name: value.astype(np.float32) for name, value in arrays.items() if name != 'rows'}
        self._mixture = ClassMixture(self.maps['names'], arrays['rows'])

    def encode(self, text: str) -> FloatArray:
        """(D,) float32 unit query vector."""
        phrase = parse(text)
        if phrase.full == phrase.noun:
            full = noun = self.language(phrase.noun)
        else:
            full, noun = self._both(lambda: self.language(phrase.full), lambda: self.language(phrase.noun))
        return composed(full, noun, phrase.colours, self.maps, self._mixture)


def composed(
    full: FloatArray, noun: FloatArray, colours: tuple[str, ...], maps: Mapping[str, FloatArray], mixture: ClassMixture
) -> FloatArray:
    """(D,) float32 unit query vector of a phrase and its noun, both (384,) by MiniLM, and the colours it names."""
    classes, nearest = mixture(noun)
    familiar = float(np.einsum('ij,j', maps['known'], noun).max())
    hints = np.array([familiar, nearest, bool(colours), 1.0], np.float32)
    meaning, kinds, colour, offset = maps['shares']
    query = np.zeros(DIM, np.float32)
    query[MEANING] = meaning * gate(familiar) * unit_rows(np.einsum('i,ij', full, maps['meaning']))
    query[CLASSES] = kinds * bounded(np.einsum('i,ij', classes, maps['classes']))
    query[COLOUR] = colour * colour_vector(colours)
    query[ONE] = offset * np.tanh(hints @ maps['offset'])
    query = evened_query(query, maps['usual'], maps['spread'])
    query[QUERY_REST] = np.sqrt(max(0.0, 1.0 - float(query @ query)))
    return query


def gate(familiar: float) -> float:
    """How much the learned meaning counts: fully for trained nouns and their synonyms, little for unknown words."""
    return float(np.clip((familiar - 0.45) / 0.4, 0.15, 1.0))


def bounded(vector: FloatArray) -> FloatArray:
    """Shorten a vector to below length 1 and keep short ones almost as they are."""
    return vector / np.sqrt(1.0 + vector @ vector)


def colour_vector(colours: tuple[str, ...]) -> FloatArray:
    """(12,) float32: 1 spread over the named colours, zeros for none."""
    out = np.zeros(len(COLOURS), np.float32)
    for colour in colours:
        out[COLOURS.index(colour)] = 1 / np.sqrt(len(colours))
    return out
