# SPDX-License-Identifier: Apache-2.0
"""nano.json: which weight files belong together, their hashes, and the fitted numbers. Damaged files stop here."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedder_ros.inference.session import REMEDY, read_weights
from embedder_ros.models.nano import MANIFEST
from embedder_ros.types import Calibration, UserError

FORMAT = 3
FILES = (
    'backbone.onnx', 'detector.onnx', 'regions.onnx', 'proposals.onnx', 'refiner.onnx', 'head.onnx', 'text.npz',
    'vocab.txt',
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked model folder.

    Attributes:
        folder: where the files are.
        model_id: 'nano-' and 8 hex digits over every weight file, the text tower and the prompt version.
        calibration: how cosines are read.
        text_sha256: hash of the MiniLM file the weights were fitted with.
    """

    folder: Path
    model_id: str
    calibration: Calibration
    text_sha256: str


def read_manifest(folder: Path) -> Manifest:
    """Read and check a model folder. Raises UserError naming the file and the remedy."""
    path = folder / MANIFEST
    described = _parse(path)
    if described.get('format') != FORMAT:
        raise UserError(
            f'{path} has format {described.get("format")!r} but this embedder_ros reads {FORMAT}; '
            'use weights of this release, or the release these weights came with'
        )
    try:
        hashes, text = dict(described['files']), str(described['text_sha256'])
        calibration = Calibration(**described['calibration'])
        prompt = int(described['prompt_version'])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f'{path} lacks or garbles {error}; {REMEDY}') from error
    for name in FILES:
        _check(folder / name, hashes.get(name, ''))
    return Manifest(folder, f'nano-{_digest(hashes, text, prompt)}', calibration, text)


def write_manifest(folder: Path, *, calibration: dict[str, float], text_sha256: str, prompt_version: int) -> None:
    """Describe the weight files that lie in `folder`; training's export stage calls it."""
    hashes = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES}
    described = {'format': FORMAT, 'prompt_version': prompt_version, 'text_sha256': text_sha256}
    content = json.dumps(described | {'calibration': calibration, 'files': hashes}, indent=2)
    (folder / MANIFEST).write_text(content + '\n')


def _parse(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(read_weights(path))
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'{path} is not JSON ({error}); {REMEDY}') from error
    if not isinstance(described, dict):
        raise UserError(f'{path} is not a JSON object; {REMEDY}')
    return described


def _check(path: Path, expected: str) -> None:
    if hashlib.sha256(read_weights(path)).hexdigest() != expected:
        raise UserError(f'{path} is damaged or of another version: its hash is not the one in {MANIFEST}; {REMEDY}')


def _digest(hashes: dict[str, str], text: str, prompt: int) -> str:
    joined = ' '.join([f'{name}:{hashes[name]}' for name in FILES] + [text, str(prompt)])
    return hashlib.sha256(joined.encode()).hexdigest()[:8]
