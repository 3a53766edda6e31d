# SPDX-License-Identifier: Apache-2.0
"""Counts of what was recognised, and of every veto and refusal by reason: "nothing was merged" must explain itself."""

from __future__ import annotations

from collections import Counter

# Words of srv/Reidentify.srv: why a remembered object was ruled out, and why no decision was safe.
VETOES = ('other_model', 'other_map', 'seen_together', 'too_fast')
REFUSALS = ('below_threshold', 'small_margin')

_MEANING = {
    'same': 'tracks recognised as a remembered object',
    'new': 'tracks remembered as a new object',
    'moved': 'objects recognised away from their last place',
    'other_model': 'pairs ruled out: views of another model',
    'other_map': 'pairs ruled out: of another map',
    'seen_together': 'pairs ruled out: seen at the same time in one camera',
    'too_fast': 'pairs ruled out: too far apart for the time between them',
    'below_threshold': 'refusals: somewhat similar, not enough to decide',
    'small_margin': 'refusals: several look the same',
    'held': 'waits: the similar object still has a live track in this camera',
    'duplicate': 'tracks that were a second box on something',
    'slipped': 'tracks that went on to another thing and lost their object',
    'person': 'tracks of people, not identified',
    'undecided': 'tracks that ended without an object',
    'flood': 'new objects not remembered: too many at once, see flood_rate',
    'full': 'new objects not remembered: everything is pinned, see max_objects',
    'dropped': 'objects dropped, unseen for longest',
    'gone': 'objects believed gone: their place was seen empty',
    'looks': 'looks through an empty place',
    'no pose': 'frames without camera pose or depth: presence, and moved or new, cannot be decided in them',
    'restarts': 'new runs, because the clock jumped back or tracking started anew',
    'repeated stamps': 'frames with a stamp that was already taken',
    'bad pose': 'camera poses that were not finite rigid transforms',
    'store': 'times that the store refused; what was to be written is tried again',
}


class Report:
    """What happened since the start.

    A veto is counted once for every pair of a track and an object, a refusal once for every time a track's verdict
    changes to it, so that trying again does not count again.

    Attributes:
        counts: by reason.
        failure: what the store refused last; '' after it took something again.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.failure = ''

    def refused(self, error: Exception) -> None:
        """Note that the store refused something."""
        self.counts['store'] += 1
        self.failure = str(error)

    def sentences(self) -> list[str]:
        """One line for everything that happened, in a fixed order, for /diagnostics and logs."""
        return [f'{self.counts[name]} {meaning}' for name, meaning in _MEANING.items() if self.counts[name]]
