# SPDX-License-Identifier: Apache-2.0
"""Options that several subcommands share, and what they stand for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from embedder_ros.types import FloatArray, Frame, UserError

if TYPE_CHECKING:
    from embedder_ros.bags.source import Source
    from embedder_ros.images import Pixels
    from embedder_ros.models.base import Embedder
    from embedder_ros.models.registry import Model
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
    """Which model, where, how exact, what it is told to look for, how many objects."""
    command.add_argument(
        '--model', default='nano', help="'nano', or the folder of an ObjEmbed checkpoint; default nano"
    )
    command.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'), help='default auto')
    command.add_argument('--precision', default='auto', choices=('auto', 'fp32', 'bf16', 'fp16'), help='default auto')
    command.add_argument(
        '--prompt',
        default='rec',
        choices=('rec', 'det', 'none'),
        help='what ObjEmbed is told to look for: rec, single things by description; det, all things of a class',
    )
    command.add_argument(
        '--proposals',
        default='auto',
        help='nano, or the path of a wedetect_*_uni.pth; default is what lies with the model',
    )
    command.add_argument(
        '--min-tokens', type=positive, default=900, help='fewest image tokens of ObjEmbed; default 900'
    )
    command.add_argument(
        '--max-tokens', type=positive, default=1200, help='most image tokens of ObjEmbed; default 1200'
    )
    command.add_argument('--max-objects', type=positive, default=64, help='most objects per frame; default 64')


def positive(text: str) -> int:
    """A number of at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError('give at least 1')
    return number


def model(options: argparse.Namespace) -> Model:
    """The model that the options of `add_model` ask for."""
    from embedder_ros.models.registry import load_model

    return load_model(
        options.model, device=options.device, precision=options.precision, prompt=options.prompt,
        proposals=options.proposals, min_tokens=options.min_tokens, max_tokens=options.max_tokens,
    )  # fmt: skip


def pipeline(options: argparse.Namespace) -> Pipeline:
    """The pipeline that the options of `add_model` ask for."""
    from embedder_ros.pipeline import Pipeline

    loaded = model(options)
    return Pipeline(loaded.embedder, loaded.proposer, max_objects=options.max_objects)


def progress(source: Source) -> Iterator[Frame]:
    """A source's frames with a progress bar on a terminal."""
    from tqdm import tqdm

    yield from tqdm(source.frames(), unit=' frames', leave=False, disable=not sys.stderr.isatty())


def embedder(options: argparse.Namespace) -> Embedder:
    """The embedder alone, for what needs no proposals."""
    if options.proposals == 'auto':
        options.proposals = 'nano'  # is always there
    return model(options).embedder


def check_picture(path: Path) -> None:
    """Raise UserError, before any work, for a picture that cannot be written."""
    import cv2

    if not cv2.haveImageWriter(str(path)):
        raise UserError(f'{path} names no picture that can be written; end it in .png or .jpg')
    _check_folder(path)


def write_picture(path: Path, picture: Pixels) -> None:
    """Write (H, W, 3) uint8 RGB. Raises UserError when it cannot be written."""
    import cv2

    if not cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)):
        raise UserError(f'{path} cannot be written; give another place')


def check_array(path: Path) -> None:
    """Raise UserError, before any work, for an array file that cannot be written."""
    if path.suffix != '.npy':  # numpy would append it, and write beside what was named
        raise UserError(f'{path} names no array file; end it in .npy')
    _check_folder(path)


def write_array(path: Path, rows: FloatArray) -> None:
    """Write an array as .npy. Raises UserError when it cannot be written."""
    try:
        np.save(path, rows)
    except OSError as error:
        raise UserError(f'{path} cannot be written ({error.strerror}); give another place') from error


def _check_folder(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise UserError(f'{path.parent} is no folder; make it first')
