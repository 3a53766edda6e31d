# SPDX-License-Identifier: Apache-2.0
"""What a checkpoint's config.json says about the network, checked before anything is built.

ObjEmbed's own flags stand in the same file as Qwen3-VL's sizes. A flag that is absent has the released value; whether
the weights agree is found when they are loaded (checkpoint.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedder_ros.models.inputs import check_pointer
from embedder_ros.types import UserError

POOL_LIMIT = 4000  # wider networks average a region's cells before the projector, narrower ones keep all of them
DEEPSTACKS = 3


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids that the checkpoint's tokenizer gives to ObjEmbed's four special tokens."""

    object_token_id: int
    global_token_id: int
    local_text_token_id: int
    global_text_token_id: int


@dataclass(frozen=True, slots=True)
class ObjEmbedConfig:
    """Sizes and flags of one checkpoint.

    Attributes:
        qwen: transformers' Qwen3VLConfig.
        use_two_tokens: 0, 1 or 2; which prompt the network was trained with (MODELS.md 1.7). Released: 2.
        use_global_caption: whether `<global>` tokens are read and an image calibration exists. Released: True.
        dtype: name of the weights' type, '' when the file does not say.
    """

    qwen: Any
    use_two_tokens: int = 2
    use_global_caption: bool = True
    dtype: str = ''

    @property
    def hidden(self) -> int:
        """Width H of the language model and length of an embedding."""
        return int(self.qwen.text_config.hidden_size)

    @property
    def pools_cells(self) -> bool:
        """Whether a region's 49 cells are averaged before the projector."""
        return self.hidden > POOL_LIMIT

    @classmethod
    def from_folder(cls, folder: str | Path) -> ObjEmbedConfig:
        """Read `folder`/config.json. Raises UserError when there is none or it is not ObjEmbed's."""
        path = Path(folder) / 'config.json'
        try:
            check_pointer(path)
            values = json.loads(path.read_text(encoding='utf-8'))
        except FileNotFoundError:
            raise UserError(f'{folder} holds no config.json; give the folder of an ObjEmbed checkpoint') from None
        except UserError:
            raise
        except (OSError, ValueError) as error:
            raise UserError(f'{path} cannot be read ({error}); fetch the checkpoint again') from error
        return cls.from_dict(values, source=str(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, source: str = 'config.json') -> ObjEmbedConfig:
        """Check the content of a config.json; `source` names it in errors. Raises UserError."""
        kind = values.get('model_type') if isinstance(values, Mapping) else None
        if kind != 'qwen3_vl':
            raise UserError(
                f"{source}: model_type is {kind!r}, not 'qwen3_vl'; give the folder of an ObjEmbed checkpoint"
            )
        tokens = values.get('use_two_tokens', 2)
        if tokens not in (0, 1, 2):
            raise UserError(f'{source}: use_two_tokens is {tokens!r}; it must be 0, 1 or 2')
        dtype = values.get('dtype') or values.get('torch_dtype') or ''
        config = cls(_qwen(values, source), int(tokens), bool(values.get('use_global_caption', True)), str(dtype))
        _check(config, source)
        return config


def _qwen(values: Mapping[str, Any], source: str) -> Any:
    from transformers import Qwen3VLConfig

    if missing := [name for name in ('text_config', 'vision_config') if not isinstance(values.get(name), dict)]:
        raise UserError(f'{source}: {missing[0]} is missing; fetch the checkpoint again')
    try:
        # a copy: transformers rewrites what it is given
        return Qwen3VLConfig.from_dict(json.loads(json.dumps(dict(values))))
    except Exception as error:  # transformers raises its own validation errors, of several kinds
        raise UserError(f'{source}: transformers refuses it ({error}); fetch the checkpoint again') from error


def _check(config: ObjEmbedConfig, source: str) -> None:
    vision, hidden = config.qwen.vision_config, config.hidden
    if hidden % 8:
        raise UserError(f'{source}: hidden_size {hidden} is no multiple of 8')
    if vision.out_hidden_size != hidden:
        raise UserError(
            f'{source}: out_hidden_size {vision.out_hidden_size} of the vision part is not hidden_size {hidden}'
        )
    if len(vision.deepstack_visual_indexes) != DEEPSTACKS:
        raise UserError(f'{source}: deepstack_visual_indexes must name {DEEPSTACKS} layers')
