# SPDX-License-Identifier: Apache-2.0
"""One threshold for all words and all frames.

Some words are a little like everything and others like nothing; in some frames everything is a little like every word,
in others, dim or strange ones, nothing is. Speaker verification mends both with a cohort of others (z-norm and t-norm;
Auckenthaler et al. 2000). Ours are training boxes for the words, and many words for the frames.
"""

from __future__ import annotations

import numpy as np

from embedder_ros.models.nano.layout import COLOUR, FRAME, OBJECT_REST, ONE
from embedder_ros.types import FloatArray, unit_rows

# How far queries are made alike in how boxes of all kinds compare with them: 0 leaves them as they are, 1 gives all the
# same mean and spread. Measured: halfway tells best what is not there.
EVENED, CENTRED = 0.5, 0.5
SPREAD = 0.08  # standard deviation of an ordinary query's cosine with boxes of all kinds
ROOM = 0.75  # length that queries keep, so that none is longer than 1 when it was evened
# How far frames are made alike in how their boxes compare with a typical query. Raising it finds more in frames unlike
# the training's, and then more of what is not there.
LEVELLED = 2.0
FEW = 8  # boxes of the usual kind that are counted with those of a frame, since few boxes say little about it
CARRIED = 0.35  # what every query has in FRAME
MOST = 0.25  # most that an object has there


def evened_query(query: FloatArray, usual: FloatArray, spread: FloatArray) -> FloatArray:
    """Scale and move a query so that boxes of all kinds are about as like it as they are like other queries.

    A colour is not moved: that most boxes lack it is what it is asked for.

    Args:
        query: (D,) without its rest.
        usual: (D,) mean of the boxes' vectors.
        spread: (K, D) whose square is their covariance.
    """
    scale = (SPREAD / max(float(np.linalg.norm(np.einsum('ij,j', spread, query))), SPREAD / 16)) ** EVENED
    out = scale * query
    colourless = np.delete(usual * query, COLOUR).sum()
    out[ONE] -= CENTRED * scale * colourless / usual[ONE]
    length = ROOM * float(np.linalg.norm(out))
    out *= ROOM / max(1.0, length / np.sqrt(1 - CARRIED**2))
    out[FRAME] = CARRIED
    return out


def evened_frame(objects: FloatArray, usual: FloatArray, typical: FloatArray) -> FloatArray:
    """Move all boxes of a frame so that a typical query is about as like them as it is like boxes of all kinds.

    Args:
        objects: (N, D) unit rows of one frame.
        usual: (D,) mean of many boxes' vectors.
        typical: (D,) mean of many queries.
    """
    unlike = (len(objects) * usual - objects.sum(axis=0)) @ typical
    out = objects.copy()
    out[:, FRAME] = np.clip(LEVELLED * unlike / (len(objects) + FEW) / CARRIED, -MOST, MOST)
    out[:, OBJECT_REST] = np.sqrt(np.maximum(out[:, OBJECT_REST] ** 2 - out[:, FRAME] ** 2, 0))
    return unit_rows(out)
