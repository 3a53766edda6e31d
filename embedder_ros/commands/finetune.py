# SPDX-License-Identifier: Apache-2.0
"""`embedder-ros finetune`: an ObjEmbed checkpoint learns from the user's own labelled frames."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from embedder_ros.commands.options import positive
from embedder_ros.types import UserError

if TYPE_CHECKING:
    from embedder_ros.training.objembed.batch import DataSet
    from embedder_ros.types import FloatArray

PROPOSALS = 'proposals.json'  # in the output folder: boxes are made once
TASKS = ('rec', 'det', 'humanref', 'none')


def add(commands: argparse._SubParsersAction) -> None:
    """Add the subcommand."""
    command = commands.add_parser('finetune', help='train an ObjEmbed checkpoint on your own labelled frames')
    command.add_argument('checkpoint', metavar='CHECKPOINT', type=Path, help='folder of ObjEmbed')
    command.add_argument('data', metavar='DATA.json', type=Path, nargs='+', help='labelled frames, .json or .jsonl')
    command.add_argument('--images', metavar='DIR', type=Path, required=True, help='folder of the images')
    command.add_argument('--output', metavar='OUT', type=Path, required=True, help='folder to make: a checkpoint')
    command.add_argument(
        '--proposals', metavar='FILE|nano|PTH', default='nano',
        help="boxes to train on: JSON, 'nano', or a wedetect_*_uni.pth; take what the robot will use; default nano",
    )  # fmt: skip
    command.add_argument('--task', choices=TASKS, default='rec', help='what the labels are; default rec')
    command.add_argument('--vocabulary', metavar='FILE', type=Path, help='names to draw wrong answers from')
    command.add_argument('--federated', action='store_true', help='draw names by the root of how many images show them')
    command.add_argument('--device', default='auto', choices=('auto', 'cpu', 'cuda'), help='default auto')
    command.add_argument('--max-objects', type=positive, default=100, help='most boxes per frame; default 100')
    command.add_argument('--resume', action='store_true', help='continue a run that was stopped')
    _add_training(command)
    command.set_defaults(run=finetune)


def _add_training(command: argparse.ArgumentParser) -> None:
    command.add_argument('--steps', type=positive, default=0, help='default: two epochs')
    command.add_argument('--batch-size', type=positive, default=2, help='images at once; default 2')
    command.add_argument('--accumulate', type=positive, default=4, help='batches per step; default 4')
    command.add_argument('--lr', type=float, default=0.0, help='default 1e-4 with LoRA, else 2e-5')
    command.add_argument(
        '--lora-rank', type=int, default=8, help='0 trains all weights of the language model; default 8'
    )
    command.add_argument('--added', action='store_true', help="also train ObjEmbed's own modules and calibration")
    command.add_argument('--precision', choices=('auto', 'fp32', 'bf16'), default='auto', help='default auto')
    command.add_argument('--checkpointing', action='store_true', help='less memory, a third slower')
    command.add_argument('--save-every', metavar='STEPS', type=positive, default=100, help='default 100')
    command.add_argument('--min-tokens', type=positive, default=900, help='fewest image tokens; default 900')
    command.add_argument('--max-tokens', type=positive, default=1200, help='most image tokens; default 1200')
    command.add_argument('--seed', type=int, default=0)


def finetune(options: argparse.Namespace) -> None:
    """Train, merge, and tell the three losses."""
    if options.lora_rank < 0 or options.lr < 0 or options.seed < 0:
        raise UserError('--lora-rank, --lr and --seed cannot be negative')
    try:
        import peft  # noqa: F401

        from embedder_ros.training.objembed import processes
        from embedder_ros.training.objembed.finetune import Run, Settings, check_output
    except ImportError as error:
        raise UserError(
            f'fine-tuning needs torch, transformers and peft ({error}); run: pip install "embedder_ros[objembed]"'
        ) from error
    from dataclasses import fields

    from embedder_ros.models.objembed.runtime import check_options

    check_options('none', options.min_tokens, options.max_tokens)
    check_output(options.checkpoint, options.output, resume=options.resume)
    settings = Settings(**{f.name: getattr(options, f.name) for f in fields(Settings)})
    processes.join(options.device)
    try:
        if processes.count() > 1 and Path(options.proposals).suffix != '.json':
            raise UserError('with several processes, give --proposals as a .json file; one process makes it')
        sets = _data_sets(options)
        run = Run(options.checkpoint, sets, options.output, settings, device=options.device, resume=options.resume)
        run.train()
        run.finish()
        if not processes.rank():
            print(f'{run.settings.steps} steps: {run.summary()}\nmerged into {options.output}')
    finally:
        processes.leave()


def _data_sets(options: argparse.Namespace) -> list[DataSet]:
    from embedder_ros.training.objembed.batch import DataSet, Task
    from embedder_ros.training.objembed.data import Vocabulary, read_records, read_vocabulary

    data = [read_records(path) for path in options.data]
    if not any(r.labels for records in data for r in records):
        raise UserError(f'{options.data[0]} labels no object; add objects with label and bbox')
    missing = [r for records in data for r in records if not (options.images / r.image).is_file()]
    if missing:
        raise UserError(
            f'{missing[0].where}: {options.images / missing[0].image} is missing; correct the record, or --images'
        )
    proposals = _proposals(options, sorted({r.image for records in data for r in records}))
    given = read_vocabulary(options.vocabulary) if options.vocabulary else None
    sets = [
        DataSet(
            records, options.images, proposals, given or Vocabulary.of(records, federated=options.federated),
            Task[options.task.upper()], options.max_objects,
        )
        for records in data
    ]  # fmt: skip
    for one in sets:
        one.check()
    return sets


def _proposals(options: argparse.Namespace, names: list[str]) -> dict[str, FloatArray]:
    """From a file, or made by a network and kept in the output folder."""
    from embedder_ros.training.objembed.data import read_proposals

    kept, source = options.output / PROPOSALS, options.proposals
    if Path(source).suffix == '.json':
        return read_proposals(Path(source))
    if options.resume and kept.is_file():
        return read_proposals(kept)
    boxes = _proposed(options, names)
    options.output.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(boxes))
    return read_proposals(kept)


def _proposed(options: argparse.Namespace, names: list[str]) -> dict[str, list[list[float]]]:
    from tqdm import tqdm

    from embedder_ros.bags.source import read_photo
    from embedder_ros.proposals import load_proposer
    from embedder_ros.types import Frame

    proposer = load_proposer(options.proposals, device=options.device)
    out = {}
    for name in tqdm(names, desc='proposals', unit=' images', leave=False, disable=None):
        frame = Frame(read_photo(options.images / name), 0, name)
        out[name] = proposer.propose([frame], [None], options.max_objects)[0].xyxy.tolist()
    return out
