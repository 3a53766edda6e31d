# SPDX-License-Identifier: Apache-2.0
"""Options that several subcommands share, and what they stand for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from embedder_ros.types import Frame

if TYPE_CHECKING:
    from embedder_ros.bags.source import Source
    from embedder_ros.pipeline import Pipeline


def add_source(command: argparse.ArgumentParser) -> None:
    """Which topics of a bag."""
    command.add_argument('--topic', action='append', help='image topic of a bag; may be repeated; else all of them')


def add_output(command: argparse.ArgumentParser) -> None:
    """From an input to a bag."""
    command.add_argument('input', metavar='IN', help='photo, folder of photos, video or bag')
    command.add_argument('output', metavar='OUT', help='rosbag2 folder to make')
    command.add_argument('--storage', default='mcap', choices=('mcap', 'sqlite3'))
    add_source(command)


def add_model(command: argparse.ArgumentParser) -> None:
    """Which model, where, how many objects."""
    command.add_argument('--model', default='nano', help="registered name or folder; default 'nano'")
    command.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'), help='default auto')
    command.add_argument('--max-objects', type=positive, default=64, help='most objects per frame; default 64')


def positive(text: str) -> int:
    """A number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError('give at least 1')
    return number


def pipeline(options: argparse.Namespace) -> Pipeline:
    """The pipeline that the options of `add_model` ask for."""
    from embedder_ros.models.registry import load_model
    from embedder_ros.pipeline import Pipeline

    model = load_model(options.model, device=options.device)
    return Pipeline(model.embedder, model.proposer, max_objects=options.max_objects)


def progress(source: Source) -> Iterator[Frame]:
    """A source's frames with a progress bar on a terminal."""
    from tqdm import tqdm

    yield from tqdm(source.frames(), unit=' frames', leave=False, disable=not sys.stderr.isatty())
