# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros evaluate KIND`: measure a model on labelled data of your own. One module per kind."""

from __future__ import annotations

import argparse

from embedder_ros.commands import (
    evaluate_benchmarks,
    evaluate_grounding,
    evaluate_memory,
    evaluate_reid,
    evaluate_splits,
)


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand with its kinds."""
    command = commands.add_parser('evaluate', help='measure a model on labelled data of your own')
    kinds = command.add_subparsers(required=True, metavar='KIND')
    for kind in (evaluate_grounding, evaluate_splits, evaluate_benchmarks, evaluate_reid, evaluate_memory):
        kind.add(kinds)
