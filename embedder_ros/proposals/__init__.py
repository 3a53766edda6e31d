# SPDX-License-Identifier: Apache-2.0
"""Where boxes come from that no model brings itself."""

from __future__ import annotations

from pathlib import Path

from embedder_ros.models.base import Proposer


def load_proposer(source: str, *, device: str = 'auto', precision: str = 'auto', threads: int = 0) -> Proposer:
    """A source of boxes for any embedder.

    Args:
        source: 'nano', or the path of a wedetect_*_uni.pth.
        device: 'auto', 'cpu' or 'cuda'.
        precision: 'auto' or 'fp32'; WeDetect-Uni also runs in 'bf16' and, on a GPU, 'fp16'.
        threads: CPU threads; 0 lets the runtime choose. For WeDetect-Uni, of the whole process.

    Raises:
        UserError: a file, device or precision that is not there, or a damaged file.
    """
    if source == 'nano':
        from embedder_ros.proposals.nano import NanoProposals

        return NanoProposals(device=device, precision=precision, threads=threads)
    from embedder_ros.proposals.wedetect import WeDetectProposals

    return WeDetectProposals(Path(source).expanduser(), device=device, precision=precision, threads=threads)
