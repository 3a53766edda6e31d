# SPDX-License-Identifier: Apache-2.0
"""Where each part of nano's embedding lies. Training writes it, the query encoder and the identity view read it."""

from __future__ import annotations

from embedder_ros.models.nano.colour import COLOURS, HISTOGRAM

MEANING_DIM = 256  # learned, against MiniLM
CLASSES_DIM = 256  # mixture over the classes of the frozen networks
INDIVIDUAL_DIM = 48  # learned from what the box and its surroundings mean
PIXELS_DIM = 48  # learned from the box's pixels

MEANING = slice(0, MEANING_DIM)
CLASSES = slice(MEANING.stop, MEANING.stop + CLASSES_DIM)
COLOUR = slice(CLASSES.stop, CLASSES.stop + len(COLOURS))
ONE = slice(COLOUR.stop, COLOUR.stop + 1)  # constant on objects: lets a query carry its own offset
FRAME = slice(ONE.stop, ONE.stop + 1)  # constant in queries: lets a frame carry its own offset
IDENTITY = slice(FRAME.stop, FRAME.stop + INDIVIDUAL_DIM + PIXELS_DIM + HISTOGRAM)
OBJECT_REST = slice(IDENTITY.stop, IDENTITY.stop + 1)  # fills an object vector up to length 1; 0 in queries
QUERY_REST = slice(OBJECT_REST.stop, OBJECT_REST.stop + 1)  # the same for queries
DIM = QUERY_REST.stop
