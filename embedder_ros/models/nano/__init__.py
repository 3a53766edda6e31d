# SPDX-License-Identifier: Apache-2.0
"""nano: the small default model. Needs no download and no GPU; docs/nano.md is its model card."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedder_ros.types import UserError

if TYPE_CHECKING:
    from embedder_ros.models.nano.embedder import NanoEmbedder
    from embedder_ros.models.nano.proposer import NanoProposer

MANIFEST = 'nano.json'
WEIGHTS = Path(__file__).parent / 'weights'


def load(
    folder: Path, *, device: str = 'auto', precision: str = 'auto', threads: int = 0
) -> tuple[NanoEmbedder, NanoProposer]:
    """Load the model in `folder`.

    Args:
        folder: holds nano.json and the files it lists.
        device: 'auto', 'cpu' or 'cuda'.
        precision: 'auto' or 'fp32'; nano's weights are stored in half precision and always computed in single.
        threads: CPU threads of one frame or text; 0 takes as many as there are processors.

    Raises:
        UserError: a file is missing, damaged, or of another version; the text tower's package is missing; no such
            device or precision.
    """
    from embedder_ros.models.nano.embedder import NanoEmbedder
    from embedder_ros.models.nano.manifest import read_manifest
    from embedder_ros.models.nano.proposer import NanoProposer

    if precision not in ('auto', 'fp32'):
        raise UserError(f"nano computes in fp32, not {precision}; set parameter 'precision' to 'auto' or 'fp32'")
    manifest = read_manifest(folder)
    embedder = NanoEmbedder(manifest, device=device, threads=threads)
    return embedder, NanoProposer(folder, device=device, threads=threads)
