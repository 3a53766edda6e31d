# SPDX-License-Identifier: Apache-2.0
"""nano's boxes for another embedder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from embedder_ros.models import nano
from embedder_ros.types import Boxes, Frame


class NanoProposals:
    """Runs nano's own encoder, since another embedder's encoding is of no use to it. Arguments as nano.load."""

    def __init__(self, *, device: str = 'auto', precision: str = 'auto', threads: int = 0) -> None:
        self.embedder, self.proposer = nano.load(nano.WEIGHTS, device=device, precision=precision, threads=threads)

    def propose(self, frames: Sequence[Frame], encoded: Sequence[Any], max_objects: int) -> list[Boxes]:
        """See Proposer; `encoded` is not looked at."""
        return self.proposer.propose(frames, self.embedder.encode(frames), max_objects)
