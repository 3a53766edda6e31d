# SPDX-License-Identifier: Apache-2.0
"""Which image of a gallery shows it: SORCE-, REIRCOCO- and ILIAS-style sets, and captions both ways (MODELS.md 1.9).

Retrieval: {"gallery": [file, ...], "queries": [{"text" or "image", "positives": [file, ...]}, ...]}. R@k counts queries
with a positive among the first k; mAP@50 is normalised by the number of positives. Captions: a list of
{"image", "captions": [...]}.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedder_ros.evaluation.images import load, observe, read_json, take
from embedder_ros.grounding.retrieve import SHORT, by_objects
from embedder_ros.models.base import TextKind
from embedder_ros.pipeline import Pipeline
from embedder_ros.types import FloatArray, Observation, UserError

TOPS = (1, 5, 10)
DEPTH = 50  # of mAP


@dataclass(frozen=True, slots=True)
class Query:
    """A text or an example image, and the places in the gallery that are right."""

    text: str
    image: str
    positives: frozenset[int]


def read_retrieval(path: Path) -> tuple[list[str], list[Query]]:
    """Gallery and queries. Raises UserError that names entry and field."""
    gallery, entries = take(path, read_json(path), 'top', 'gallery', 'queries')
    place = {name: i for i, name in enumerate(dict.fromkeys(map(str, gallery)))}  # a file listed twice is one place
    queries = []
    for i, entry in enumerate(entries):
        (positives,) = take(path, entry, f'queries[{i}]', 'positives')
        text, image = entry.get('text', ''), entry.get('image', '')
        if bool(text) == bool(image):
            raise UserError(f"{path}: queries[{i}] needs either 'text' or 'image'")
        if unknown := [name for name in positives if name not in place]:
            raise UserError(f'{path}: queries[{i}] names {unknown[0]}, which is not in the gallery')
        queries.append(Query(str(text), str(image), frozenset(place[name] for name in positives)))
    return list(place), queries


def retrieve(
    pipeline: Pipeline,
    gallery: Sequence[str],
    queries: Sequence[Query],
    folder: Path,
    *,
    image_wording: bool = False,
    quiet: bool = True,
) -> dict[str, float]:
    """R@1, R@5, R@10 and mAP@50 in 0..1, ranking by each image's best object, without iou.

    Args:
        pipeline: whose boxes and embeddings.
        gallery: file names.
        queries: texts or examples.
        folder: what file names are relative to.
        image_wording: read object texts from the wording for images, as the authors do for REIRCOCO and ILIAS.
        quiet: no progress bar.

    Raises:
        UserError: an image is missing, or the model has no other wording.
    """
    calibration = pipeline.embedder.info.calibration
    seen = [observation for _, observation in observe(pipeline, folder, gallery, quiet=quiet)]
    rankings = []
    for query in queries:
        # By plain cosine for examples, too: what counts as right may be of the same kind only.
        matches = by_objects(_vector(pipeline, query, folder, image_wording), seen, calibration)
        rankings.append([match.frame in query.positives for match in matches])
    return measured(rankings, [len(q.positives) for q in queries])


def _vector(pipeline: Pipeline, query: Query, folder: Path, image_wording: bool) -> FloatArray:
    if query.text and image_wording:
        return _worded_for_images(pipeline, query.text)
    if query.text:
        return pipeline.embedder.embed_text([query.text])[0]
    return pipeline.embedder.embed_exemplar([load(folder, query.image)])[0]


def _worded_for_images(pipeline: Pipeline, text: str) -> FloatArray:
    if 'template' not in inspect.signature(pipeline.embedder.embed_text).parameters:
        raise UserError(f'model {pipeline.embedder.info.model_id} has one wording only; leave --wording out')
    from embedder_ros.models.objembed.prompts import IMAGE_WORDED_OBJECT_TEXT

    embed: Any = pipeline.embedder.embed_text
    vector: FloatArray = embed([text], template=IMAGE_WORDED_OBJECT_TEXT)[0]
    return vector


def measured(rankings: Sequence[Sequence[bool]], positives: Sequence[int]) -> dict[str, float]:
    """R@k and mAP@50 of rankings that say which places are right."""
    out = {f'R@{n}': _mean([any(ranking[:n]) for ranking in rankings]) for n in TOPS}
    precisions = []
    for ranking, count in zip(rankings, positives, strict=True):
        right = np.asarray(ranking[:DEPTH], bool)
        at = np.cumsum(right) / (np.arange(len(right)) + 1)
        precisions.append(float(at[right].sum()) / min(count, DEPTH) if count else 0.0)
    return out | {'mAP@50': _mean(precisions)}


def read_captions(path: Path) -> list[tuple[str, list[str]]]:
    """Images with their captions. Raises UserError that names entry and field."""
    content = read_json(path)
    if not isinstance(content, list) or not content:
        raise UserError(f'{path} is no list of images with captions')
    entries: list[Any] = [take(path, entry, i, 'image', 'captions') for i, entry in enumerate(content)]
    return [(str(image), [str(c) for c in captions]) for image, captions in entries]


def captions(
    pipeline: Pipeline, entries: Sequence[tuple[str, list[str]]], folder: Path, *, row: int = SHORT, quiet: bool = True
) -> dict[str, float]:
    """R@1 from image to text and from text to image, in 0..1; the paper reads the coarse embedding for all sets."""
    seen: list[Observation] = [o for _, o in observe(pipeline, folder, [name for name, _ in entries], quiet=quiet)]
    if any(len(o.frame_embeddings) <= row for o in seen):
        raise UserError(f'model {pipeline.embedder.info.model_id} embeds no whole frames')
    images = np.stack([o.frame_embeddings[row] for o in seen])
    owner = np.repeat(np.arange(len(entries)), [len(texts) for _, texts in entries])
    every = [text for _, texts in entries for text in texts]
    embedder: Any = pipeline.embedder
    if hasattr(embedder, 'max_characters'):  # a robot's guard; a benchmark's long captions go in whole
        embedder.max_characters = max(embedder.max_characters, *map(len, every))
    words = embedder.embed_text(every, TextKind.IMAGE)
    cosine = images @ words.T  # (images, texts)
    return {
        'image to text': _mean(owner[cosine.argmax(axis=1)] == np.arange(len(entries))),
        'text to image': _mean(cosine.argmax(axis=0) == owner),
    }


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else 0.0
