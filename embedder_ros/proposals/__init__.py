# SPDX-License-Identifier: Apache-2.0
"""Where boxes come from that no model brings itself."""

from __future__ import annotations

from pathlib import Path

from embedder_ros.models.base import Proposer


def load_proposer(source: str, *, device: str = 'auto', threads: int = 0) -> Proposer:
    """A source of boxes for any embedder.

    Args:
        source: 'nano', or the path of a wedetect_*_uni.pth.
        device: 'auto', 'cpu' or 'cuda'.
        threads: CPU threads of nano's networks; 0 lets the runtime choose.

    Raises:
        UserError: a file or device that is not there, or a damaged file.
    """
    if source == 'nano':
        from embedder_ros.proposals.nano import NanoProposals

        return NanoProposals(device=device, threads=threads)
    from embedder_ros.proposals.wedetect import WeDetectProposals

    return WeDetectProposals(Path(source).expanduser(), device=device)
