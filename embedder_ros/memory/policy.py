# SPDX-License-Identifier: Apache-2.0
"""How boldly things are recognised and how much is kept: every number of the memory, each with what raising it costs.

Probabilities are those of the model's own calibration (`Calibration.same`), so that they mean the same for every model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from embedder_ros.memory.reid import Limits
from embedder_ros.types import NANOSECONDS, Calibration, UserError

# Odds by which the first must beat the second. Little, because a lead says little: on the rendered validation rooms the
# wrong ones are look-alikes of which only the original is known, so that 4 instead of 1.25 left out three in ten of
# the right ones at the same precision. Raising it leaves things undecided that were remembered twice or have a
# look-alike, lowering it to 1 swaps equal twins.
MARGIN_ODDS = 1.25
# Odds by which a look-alike at the remembered place beats one elsewhere. Raising it lets the place overrule appearance.
PLACE_ODDS = 8.0
PERSON_WORDS = 'a person'  # whose embedding tells people from things


@dataclass(frozen=True, slots=True)
class Settings:
    """All thresholds of the memory.

    Attributes:
        same: probability of showing one individual that binds a track to an object. Raising it splits objects into
            several, lowering it merges look-alikes.
        similar: probability from which an object may be the one that is seen, or be another object, remembered twice.
            Raising it remembers twins of what is seen from a new side, and asks back then; lowering it leaves more
            tracks without an object, and takes look-alikes of two rooms for one when memory is asked.
        margin: lead in cosine over the second object and over the second track. Raising it leaves look-alikes
            undecided, lowering it swaps them. Negative: the model's own, from its identity scale.
        place_radius: metres around its remembered place within which an object is expected: it wins over an equal
            look-alike from elsewhere. Raising it takes a look-alike put near the old place for the old thing.
        max_speed: metres a second that a thing can be moved. Raising it lets look-alikes far away be merged.
        position_slack: metres by which a position may be wrong. Raising it weakens the speed veto.
        duplicate_iou: overlap from which two boxes of a frame are one thing. Raising it remembers second boxes as
            things of their own, lowering it ignores a thing close behind another.
        min_iou: predicted iou of a box from which its look counts. Raising it ignores things that are hard to box,
            lowering it remembers boxes that fit nothing.
        min_weight: best view's weight that a track needs to be compared, see views.weights. Raising it ignores small
            and cut things, lowering it remembers blurs.
        settle: seconds a track is seen before it may become a new object. Raising it forgets what passes quickly.
        patience: seconds of being seen after which a track that is too little like anything becomes a new object;
            twice that for one that is between two objects which are not alike themselves. Raising it leaves more
            without one, lowering it remembers a thing twice when its first view is poor.
        retry: seconds until a refused track is compared again; doubles up to 16 times this while nothing better is
            seen. Raising it recognises later, lowering it costs time per frame.
        searches: tracks compared per frame; the others wait. Raising it costs time per frame.
        neighbours: objects that a track is compared with. Raising it costs time per compared track.
        max_views: views kept per object. Raising it knows more sides and costs memory and time in every search.
        diverse: cosine above which two views are the same view. Raising it fills the views with near copies.
        max_sightings: sightings kept per object. Raising it costs memory.
        max_objects: objects kept; beyond, the one unseen for longest that is not pinned is dropped. Raising it costs
            memory and time in every search.
        flood_burst: new objects accepted at once. Raising it lets one bad minute fill the memory.
        flood_rate: new objects accepted per minute after that; same cost.
        write_interval: seconds after which a refreshed object is written. Raising it loses more last-seen times in a
            crash, lowering it costs time per frame. New objects are always written at once.
        writes: refreshed objects written per frame. Raising it costs time per frame.
        absent: factor on presence for every look through an object's empty place. Raising it believes longer.
        gone: presence below which an object is no longer told as being there. Raising it gives up on things sooner.
        look_interval: seconds between two looks for absent objects. Lowering it counts one missed detection twice.
        behind: metres that a thing must lie behind an object's place to show that the place is empty; at least a
            tenth of the distance. Raising it misses things gone from in front of a wall.
        moved: metres from its old place at which a recognised object counts as moved.
        frame_interval: seconds between remembered frames of one camera. Lowering it costs disk.
        keep_frames: seconds that frames are remembered. Raising it costs disk and time in SearchFrames.
        person: probability of matching the text for a person from which a track is a person. Raising it lets people
            be identified. Negative: the model's own `found`.
    """

    same: float = 0.8
    similar: float = 0.3
    margin: float = -1.0
    place_radius: float = 0.3
    max_speed: float = 3.0
    position_slack: float = 0.5
    duplicate_iou: float = 0.3
    min_iou: float = 0.45
    min_weight: float = 0.05
    settle: float = 0.5
    patience: float = 1.5
    retry: float = 0.4
    searches: int = 16
    neighbours: int = 8
    max_views: int = 5
    diverse: float = 0.9
    max_sightings: int = 16
    max_objects: int = 100_000
    flood_burst: int = 300
    flood_rate: float = 120.0
    write_interval: float = 5.0
    writes: int = 4
    absent: float = 0.6
    gone: float = 0.3
    look_interval: float = 0.5
    behind: float = 0.2
    moved: float = 0.5
    frame_interval: float = 2.0
    keep_frames: float = 3600.0
    person: float = -1.0

    def __post_init__(self) -> None:
        """Raises UserError for thresholds that contradict each other."""
        if self.similar > self.same:
            raise UserError(
                f'similar ({self.similar}) is above same ({self.same}): what is enough to be the same object must be '
                'enough to be similar; lower similar or raise same'
            )


def cosine_of(probability: float, calibration: Calibration) -> float:
    """The identity cosine at which `Calibration.same` gives this probability; out of reach for 0 and 1."""
    probability = min(max(probability, 1e-9), 1 - 1e-9)
    logit = math.log(probability / (1 - probability))
    return (logit - calibration.identity_bias) / calibration.identity_scale


def lead_of(odds: float, calibration: Calibration) -> float:
    """The lead in identity cosine of what is so much likelier."""
    return math.log(odds) / calibration.identity_scale


def margin_of(settings: Settings, calibration: Calibration) -> float:
    """The lead in cosine that a decision needs."""
    return settings.margin if settings.margin >= 0 else lead_of(MARGIN_ODDS, calibration)


def limits_of(settings: Settings, calibration: Calibration) -> Limits:
    """The settings as identity cosines of a model."""
    return Limits(
        same=cosine_of(settings.same, calibration),
        similar=cosine_of(settings.similar, calibration),
        margin=margin_of(settings, calibration),
        near=lead_of(PLACE_ODDS, calibration),
    )


class Flood:
    """Bounds how fast new objects come, whatever a broken proposal source sends: a bucket that refills with time.

    Args:
        burst: new objects accepted at once.
        rate: objects a minute by which the bucket refills.
    """

    def __init__(self, burst: int, rate: float) -> None:
        self._burst, self._rate = float(burst), rate
        self._left = float(burst)
        self._now: int | None = None

    def take(self, now: int) -> bool:
        """Whether one more object may be remembered at `now` nanoseconds."""
        if self._now is not None and now > self._now:
            self._left = min(self._burst, self._left + (now - self._now) / NANOSECONDS * self._rate / 60)
        self._now = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
