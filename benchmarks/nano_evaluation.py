# SPDX-License-Identifier: Apache-2.0
"""How good nano is, on named splits: `python benchmarks/nano_evaluation.py [SPLIT ...] [--model FOLDER] [--threads 2]`.

Without a split it is the sample bag alone; docs/nano.md says where the others come from. Private photos are given by
path and leave only a hash. What is measured, and how its intervals are found: embedder_ros/evaluation/measures.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from report import ROOT, write_result

from embedder_ros.commands import options as build
from embedder_ros.commands.evaluate_splits import splits
from embedder_ros.evaluation.report import lines, measure, plain
from embedder_ros.evaluation.splits import FRAMES, SPLITS
from embedder_ros.models import nano
from embedder_ros.models.registry import load_model
from embedder_ros.pipeline import Pipeline

SAMPLE = ROOT / 'test' / 'sample' / 'kitchen'


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(
        description=f'{__doc__}\nSplits:\n{SPLITS}', formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('split', metavar='SPLIT', nargs='*', default=[f'bag:{SAMPLE}'])
    parser.add_argument('--photos', type=Path)
    parser.add_argument('--classes', type=Path)
    parser.add_argument('--frames', type=build.positive, default=FRAMES)
    parser.add_argument('--model', default='nano')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--name', default='nano_evaluation', help='of the result, to compare weights')
    options = parser.parse_args()
    found = splits(options)
    model = load_model(options.model, threads=options.threads)
    pipeline = Pipeline(model.embedder, model.proposer)
    report = measure(pipeline, found, threads=options.threads, quiet=not sys.stderr.isatty())
    print('\n'.join(lines(report)))
    folder = nano.WEIGHTS if options.model == 'nano' else Path(options.model)
    print('written to', write_result(options.name, plain(report), sorted(p for p in folder.iterdir() if p.is_file())))


if __name__ == '__main__':
    main()
