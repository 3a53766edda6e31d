# SPDX-License-Identifier: Apache-2.0
"""Fit how a model's identity cosines are read, on recordings with truth that are never reported.

    python -m embedder_ros.evaluation.reid_fit --model WEIGHTS BAG TRUTH [BAG TRUTH ...]

The chance that two looks show one thing is a logistic curve of the memory's own similarity, between what is newly in
view and everything known that is not. The curve is then moved until the memory itself, run on the same recordings,
merges no more than `ALLOWED`: its thresholds are probabilities of this curve (`memory.policy.Settings`), so moving the
curve moves the threshold and the margin with the model and leaves the settings alone.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from embedder_ros.bags.write import read_observations
from embedder_ros.evaluation import reid
from embedder_ros.evaluation.reid_clips import Clip, drop, joined, labelled
from embedder_ros.evaluation.reid_methods import Remembering, track
from embedder_ros.evaluation.reid_score import spells
from embedder_ros.memory.policy import Settings
from embedder_ros.memory.views import Gallery, observation_weights, similarities, view_of
from embedder_ros.models.registry import load_model
from embedder_ros.training.calibrate import logistic, store
from embedder_ros.types import NANOSECONDS, Calibration, FloatArray, ModelInfo

LOOK = 1.0  # seconds of a spell from which a thing has to be recognised
DROPPED = 0.2  # share of the frames left out, so that tracks end as they do on a slow computer
# Times that other frames are left out. On one alone the precision is off by up to 0.03: a wrong merge comes back with
# every visit of its thing. Raising it costs time.
TIMES = 3
# Share of wrong among the memory's own namings (what a sliding track does, no threshold can mend). Raising it merges
# look-alikes, lowering it splits. nano's looks do not reach the goal's 0.02 within the shifts below.
ALLOWED = 0.05
# How far the curve may be moved, in cosine, and how much flatter or steeper it may be made. Pairs count one by one,
# but the memory takes the best of them: it can do with less likeness, or needs more.
SHIFTS = (0.0, 0.02, 0.04)
STEEPER = (0.85, 1.0)


def pairs(
    clip: Clip, model: ModelInfo, settings: Settings | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Similarity of every spell's beginning to each thing known before it, and whether it is that thing.

    Things in view of the same camera at that time are left out, as the memory rules them out.
    """
    settings = settings or Settings()
    looks = [model.identity(s.observation.embeddings) for s in clip.shown]
    known: defaultdict[str, Gallery] = defaultdict(lambda: _gallery(settings))
    found = spells(clip, [[''] * len(s.labels) for s in clip.shown])
    waiting, cosine, same = list[int](), list[float](), list[bool]()
    for n, spell in enumerate(found):
        ended = [w for w in waiting if found[w].last < spell.first]
        for w in ended:
            _offer(known[found[w].label], clip, looks, found[w].rows)
        waiting = [w for w in waiting if w not in ended] + [n]
        start = [(f, r) for f, r in spell.rows if _seconds(clip, f, spell.first) <= LOOK]
        beside = {name for f, _ in start for name in clip.shown[f].labels} - {spell.label}
        now = _gallery(settings)
        _offer(now, clip, looks, start)
        others = [name for name in known if name not in beside]
        cosine.extend(similarities([now], [known[name] for name in others]).ravel())
        same.extend(name == spell.label for name in others)
    return np.array(cosine, np.float32), np.array(same, bool)


def _gallery(settings: Settings) -> Gallery:
    return Gallery(settings.max_views, settings.diverse)


def _seconds(clip: Clip, frame: int, since: int) -> float:
    return (clip.shown[frame].observation.stamp - since) / NANOSECONDS


def _offer(gallery: Gallery, clip: Clip, looks: Sequence[FloatArray], rows: Sequence[tuple[int, int]]) -> None:
    for frame, row in rows:
        o = clip.shown[frame].observation
        weight, look = float(observation_weights(o)[row]), looks[frame][row]
        if (place := gallery.place_for(look, weight)) is not None:
            gallery.put(place, view_of(o, row), look, weight)


def fit(clips: Sequence[Clip], model: ModelInfo) -> Calibration:
    """The model's calibration with the identity part fitted.

    Args:
        clips: validation recordings with truth, with other frames left out in each.
        model: that made their embeddings.
    """
    cosine, same = pairs(clips[0], model)
    scale, bias = logistic(cosine, same)
    print(f'{same.sum()} pairs of one thing, {(~same).sum()} of two; logistic scale {scale:.2f} bias {bias:.2f}')
    candidates = [
        replace(model.calibration, identity_scale=scale * steep, identity_bias=steep * (bias - scale * shift))
        for steep in STEEPER
        for shift in SHIFTS
    ]
    return max(candidates, key=lambda c: _worth(clips, replace(model, calibration=c)))


def _worth(clips: Sequence[Clip], model: ModelInfo) -> tuple[float, float]:
    """Recall if few enough things are merged; else less than any recall, better with fewer merges."""
    total = Counter[str]()
    for clip in clips:
        with tempfile.TemporaryDirectory(prefix='reid') as folder:
            got = reid.headline(clip, track(clip, model), Remembering(model, Path(folder) / 'fit.db', person=None))
        total.update({name: got[name] for name in ('returns', 'right', 'wrong', 'slid', 'covisible')})
    own = total['right'] / max(1, total['right'] + total['wrong'] - total['slid'])
    recall, c = total['right'] / max(1, total['returns']), model.calibration
    print(f'{c.identity_scale:6.2f} {c.identity_bias:7.2f} precision {own:.4f} recall {recall:.4f} {total}', flush=True)
    fine = own >= 1 - ALLOWED and not total['covisible']
    return (1.0, recall) if fine else (0.0, own)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', type=Path, required=True, help='folder whose nano.json is rewritten')
    parser.add_argument(
        'recordings', type=Path, nargs='+', help='bags with /objects (embedder-ros annotate) and truths'
    )
    given = parser.parse_args()
    model = load_model(str(given.model), device='cpu').embedder.info
    both = zip(given.recordings[::2], given.recordings[1::2], strict=True)
    clip = joined([labelled(read_observations(bag), truth) for bag, truth in both])
    store(given.model, fit([drop(clip, DROPPED, seed) for seed in range(TIMES)], model))


if __name__ == '__main__':
    main()
