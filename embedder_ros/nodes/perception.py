# SPDX-License-Identifier: Apache-2.0
"""Embedder and grounder in one process with one model in memory. This is what the launch file starts."""

from __future__ import annotations

from collections.abc import Sequence

from embedder_ros.nodes import lifecycle
from embedder_ros.nodes.embedder import Embedder
from embedder_ros.nodes.embedding import LocalEmbedder
from embedder_ros.nodes.grounder import Grounder


def make_nodes() -> list[Embedder | Grounder]:
    """The two nodes, unconfigured."""
    embedder = Embedder()
    return [embedder, Grounder(LocalEmbedder(embedder))]


def main(args: Sequence[str] | None = None) -> None:
    """Run both."""
    lifecycle.run(make_nodes, args)


if __name__ == '__main__':
    main()
