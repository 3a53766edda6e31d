# SPDX-License-Identifier: Apache-2.0
"""Text to query vector: the text side of every part of nano's embedding, with its fitted share."""

from __future__ import annotations

import numpy as np

from embedder_ros.models.nano.colour import COLOURS
from embedder_ros.models.nano.layout import CLASSES, COLOUR, DIM, MEANING, ONE, QUERY_REST
from embedder_ros.models.nano.manifest import Manifest
from embedder_ros.models.nano.text import ClassMixture, MiniLM, parse
from embedder_ros.types import FloatArray, unit_rows

HINTS = 4  # familiarity, nearest class, has a colour, 1
ARRAYS = ('names', 'rows', 'known', 'classes', 'meaning', 'offset', 'shares', 'usual', 'spread')
# How far queries are made alike in how boxes of all kinds compare with them: 0 leaves them as they are, 1 gives all the
# same mean and spread. Measured: halfway tells best what is not there.
EVENED, CENTRED = 0.5, 0.5
SPREAD = 0.08  # standard deviation of an ordinary query's cosine with boxes of all kinds
ROOM = 0.75  # length that queries keep, so that none is longer than 1 when it was evened


class QueryEncoder:
    """MiniLM and the fitted maps that turn a phrase into a query vector.

    Args:
        manifest: the checked model folder; `text.npz` holds `names` (M, 384) class names and their classes `rows`
            (M,), `known` (V, 384) the nouns the head was trained on, the maps `classes` (C, 256) and `meaning`
            (384, 256), `offset` (4,) weights of HINTS, and `shares` (4,): meaning, classes, colours, offset; of boxes
            of all kinds the mean vector `usual` (D,) and `spread` (K, D), whose square is their covariance.
        threads: CPU threads of one network call.
    """

    def __init__(self, manifest: Manifest, *, threads: int = 0) -> None:
        self.language = MiniLM(manifest.folder / 'vocab.txt', sha256=manifest.text_sha256, threads=threads)
        with np.load(manifest.folder / 'text.npz') as stored:
            arrays = {name: stored[name] for name in ARRAYS}
        self._maps = {name: value.astype(np.float32) for name, value in arrays.items() if name != 'rows'}
        self._mixture = ClassMixture(self._maps['names'], arrays['rows'])

    def encode(self, text: str) -> FloatArray:
        """(D,) float32 unit query vector."""
        phrase = parse(text)
        full, noun = self.language(phrase.full), self.language(phrase.noun)
        classes, nearest = self._mixture(noun)
        familiar = float((self._maps['known'] @ noun).max())
        hints = np.array([familiar, nearest, bool(phrase.colours), 1.0], np.float32)
        meaning, kinds, colours, offset = self._maps['shares']
        query = np.zeros(DIM, np.float32)
        query[MEANING] = meaning * gate(familiar) * unit_rows(full @ self._maps['meaning'])
        query[CLASSES] = kinds * bounded(classes @ self._maps['classes'])
        query[COLOUR] = colours * colour_vector(phrase.colours)
        query[ONE] = offset * np.tanh(hints @ self._maps['offset'])
        query = evened(query, self._maps['usual'], self._maps['spread'])
        query[QUERY_REST] = np.sqrt(max(0.0, 1.0 - float(query @ query)))
        return query


def evened(query: FloatArray, usual: FloatArray, spread: FloatArray) -> FloatArray:
    """Scale and move a query so that boxes of all kinds are about as like it as they are like other queries.

    Some words are a little like everything and others like nothing, and one threshold is read for all of them. Speaker
    verification mends that with a cohort of other speakers (z-norm; Auckenthaler et al. 2000); ours are training boxes.
    A colour is not moved: that most boxes lack it is what it is asked for.

    Args:
        query: (D,) without its rest.
        usual: (D,) mean of the boxes' vectors.
        spread: (K, D) whose square is their covariance.
    """
    scale = (SPREAD / max(float(np.linalg.norm(spread @ query)), SPREAD / 16)) ** EVENED
    out = scale * query
    colourless = np.delete(usual * query, COLOUR).sum()
    out[ONE] -= CENTRED * scale * colourless / usual[ONE]
    return ROOM * out / max(1.0, ROOM * float(np.linalg.norm(out)))


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
