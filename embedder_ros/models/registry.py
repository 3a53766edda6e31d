# SPDX-License-Identifier: Apache-2.0
"""Load a model by registered name or by folder, and the source of boxes that goes with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from embedder_ros.models.base import Embedder, Proposer
from embedder_ros.types import UserError

WEDETECT = 'wedetect_*_uni.pth'  # as released


@dataclass(frozen=True, slots=True)
class Model:
    """An embedder and the proposer that goes with it."""

    embedder: Embedder
    proposer: Proposer


def load_model(
    name: str,
    *,
    device: str = 'auto',
    precision: str = 'auto',
    threads: int = 0,
    prompt: str = 'rec',
    proposals: str = 'auto',
    min_tokens: int = 900,
    max_tokens: int = 1200,
) -> Model:
    """Load `name`: 'nano', or a folder that holds a model; an ObjEmbed checkpoint is known by its config.json.

    Args:
        name: a registered name or a path.
        device: 'auto', 'cpu' or 'cuda'. Asking for a GPU that is not there is an error, never a silent CPU.
        precision: 'auto', 'fp32', 'bf16' or 'fp16'; a precision the model cannot run in is an error.
        threads: CPU threads of the inference session; 0 lets the runtime choose.
        prompt: ObjEmbed's task prompt, 'rec', 'det' or 'none'; part of its model id. nano has none.
        proposals: 'nano', or the path of a wedetect_*_uni.pth. 'auto' is nano's own for nano, and for ObjEmbed such a
            file in its folder or the one above.
        min_tokens: fewest image tokens of ObjEmbed.
        max_tokens: most image tokens of ObjEmbed. Lowering it saves time and loses small things.

    Raises:
        UserError: unknown name, missing or damaged files, or a device that is not there; the message says what to do.
    """
    from embedder_ros.models import nano

    folder = nano.WEIGHTS if name == 'nano' else Path(name).expanduser()
    if (folder / nano.MANIFEST).is_file():
        model = Model(*nano.load(folder, device=device, precision=precision, threads=threads))
        if proposals in ('auto', 'nano'):
            return model
        return Model(model.embedder, _proposer(proposals, device, threads))
    if not (folder / 'config.json').is_file():
        raise UserError(_unknown(name, folder, nano.MANIFEST))
    from embedder_ros.models import objembed

    source = _found(folder) if proposals == 'auto' else proposals  # before minutes of loading
    embedder = objembed.load(
        folder, device=device, precision=precision, threads=threads,
        prompt=prompt, min_tokens=min_tokens, max_tokens=max_tokens,
    )  # fmt: skip
    return Model(embedder, _proposer(source, device, threads))


def _proposer(source: str, device: str, threads: int) -> Proposer:
    from embedder_ros.proposals import load_proposer

    # A GPU was asked for the model; nano's small networks beside it take what onnxruntime has.
    return load_proposer(source, device='auto' if source == 'nano' else device, threads=threads)


def _found(folder: Path) -> str:
    """The proposal network that lies with a checkpoint; of several, the first by name."""
    for place in (folder, folder.resolve().parent):
        if found := sorted(place.glob(WEDETECT)):
            return str(found[0])
    raise UserError(
        f"no {WEDETECT} in {folder} or the folder above: put one there, or set parameter 'proposals' to its path, or "
        "to 'nano' for nano's boxes"
    )


def _unknown(name: str, folder: Path, manifest: str) -> str:
    what = f"holds neither {manifest} nor ObjEmbed's config.json" if folder.is_dir() else 'is no folder'
    return (
        f"model '{name}' {what}; set parameter 'model' to 'nano', or to the folder that holds config.json and "
        'model.safetensors of ObjEmbed'
    )
