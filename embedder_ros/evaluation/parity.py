# SPDX-License-Identifier: Apache-2.0
"""Do our networks give the numbers that somebody else's gave?

A folder holds a checkpoint, inputs and the outputs expected of them, as safetensors: the authors' implementation on
small random weights (test/data), or a user's own numbers on released weights. Everything runs in float32 on the CPU.
What a folder does not hold is not compared, and what it holds beyond that is listed as not compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedder_ros.types import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from embedder_ros.models.objembed.config import SpecialTokens
    from embedder_ros.models.objembed.network import ObjEmbed, Output

TOLERANCE = 1e-4  # two float32 implementations that add in another order differ by a hundredth of it
FIXTURE_TOKENS = 7, 8, 9, 10  # <object>, <global>, <local_text>, <global_text> where there is no tokenizer to ask


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one output is from what was expected.

    Attributes:
        output: its name in the folder's files.
        largest: largest difference of any number in it; NaN or infinite when they cannot be compared.
        tolerance: what it may be.
        relative: whether it is a share of the expected number.
        note: what is unusual, such as another shape.
    """

    output: str
    largest: float
    tolerance: float = TOLERANCE
    relative: bool = False
    note: str = ''

    @property
    def agrees(self) -> bool:
        """Whether it is within the tolerance."""
        return self.largest <= self.tolerance


@dataclass(frozen=True, slots=True)
class Report:
    """What was compared, and names of what was not."""

    differences: list[Difference]
    left_out: list[str]


def check(folder: str | Path, *, salt: str = 'a') -> Report:
    """Compare a folder laid out like test/data/objembed_tiny or the WeDetect-Uni fixture.

    Args:
        folder: with config.json (ObjEmbed) or checkpoint_shapes.json (WeDetect-Uni), and expected.safetensors.
        salt: what the names of WeDetect's tensors are salted with when its weights are made by rule.

    Raises:
        UserError: the folder is neither, or cannot be read.
    """
    folder = Path(folder)
    if (folder / 'checkpoint_shapes.json').is_file():
        from embedder_ros.evaluation.parity_wedetect import check_wedetect

        return Report(check_wedetect(folder, salt), [])
    if (folder / 'config.json').is_file():
        return check_objembed(folder)
    raise UserError(
        f'{folder} holds neither config.json nor checkpoint_shapes.json; give a folder with a checkpoint, its inputs '
        'and what is expected of them'
    )


def check_objembed(folder: Path) -> Report:
    """Compare an ObjEmbed folder: embeddings, scores, losses and preprocessing. Raises UserError."""
    import torch

    from embedder_ros.models.objembed.checkpoint import load_objembed

    network = load_objembed(folder, tokens=_tokens(folder), dtype=torch.float32)
    inputs, expected = _tensors(folder / 'inputs.safetensors'), _tensors(folder / 'expected.safetensors')
    try:
        with torch.inference_mode():
            given = dict(_outputs(network, inputs, expected))
        differences = [_compare(name, given[name], value) for name, value in expected.items() if name in given]
        if (folder / 'losses.safetensors').is_file():
            differences += _losses(network, inputs, _tensors(folder / 'losses.safetensors'))
    except (KeyError, AttributeError, IndexError, RuntimeError) as error:
        why = f'{type(error).__name__}: {error}'.splitlines()[0]
        message = f'{folder}: its inputs, losses and weights do not fit together ({why})'
        raise UserError(f'{message}; see test/data/objembed_tiny for what each file holds') from error
    if (folder / 'preprocess.safetensors').is_file():
        differences += _preprocessing(network, _tensors(folder / 'preprocess.safetensors'))
    if not differences:
        raise UserError(f'{folder} expects no output of this model; see test/data/objembed_tiny for their names')
    return Report(differences, sorted(expected.keys() - given.keys()))


def _tokens(folder: Path) -> SpecialTokens:
    from embedder_ros.models.objembed.config import SpecialTokens
    from embedder_ros.models.objembed.prompts import PromptTokenizer

    return PromptTokenizer(folder).special if (folder / 'tokenizer.json').exists() else SpecialTokens(*FIXTURE_TOKENS)


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise UserError(f'{path} is missing; the folder needs a checkpoint, its inputs and what is expected') from None
    except (OSError, SafetensorError) as error:
        raise UserError(f'{path} cannot be read ({error}); fetch it again') from error


def _outputs(
    network: ObjEmbed, inputs: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Everything the folder may expect, by name."""
    texts = {}
    for kind in ('local', 'global'):
        if f'{kind}_text_ids' in inputs:
            texts[kind] = _texts(network, inputs[f'{kind}_text_ids'])
            yield f'{kind}_text_embeddings', texts[kind]
    count = len(inputs['input_ids'])
    for name, frames in [*((f'image{i}', [i]) for i in range(count)), ('batch', list(range(count)))]:
        out = _forward(network, inputs, frames)
        yield f'{name}.object_embeddings', out.object_embeddings
        yield f'{name}.iou_logits', out.iou_logits
        yield f'{name}.global_embeddings', out.global_embeddings
        for score, value in _scores(network, out, texts):
            # a folder may keep the scores of its first texts only
            yield f'{name}.{score}', value[: len(expected.get(f'{name}.{score}', value))]


def _forward(network: ObjEmbed, inputs: Mapping[str, Tensor], frames: list[int]) -> Output:
    import torch

    lengths = inputs['lengths'] if 'lengths' in inputs else inputs['attention_mask'].sum(1)
    length = int(lengths[frames].max())
    return network(
        inputs['input_ids'][frames, :length],
        (torch.arange(length) < lengths[frames, None]).long(),
        torch.cat([inputs[f'pixel_values{i}'] for i in frames]),
        inputs['image_grid_thw'][frames],
        [inputs[f'boxes{i}'] for i in frames],
        inputs['image_sizes_wh'][frames],
    )


def _texts(network: ObjEmbed, ids: Tensor) -> Tensor:
    import torch

    # the network is causal: what pads a text after its reading token changes nothing
    return network.embed_text(ids, torch.ones_like(ids))


def _scores(network: ObjEmbed, out: Output, texts: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Texts against objects, texts against frames (MODELS.md 1.8)."""
    from torch.nn.functional import normalize

    scale, bias, image_scale, image_bias = network.calibration()
    if 'local' in texts:
        cosines = normalize(texts['local'], dim=-1) @ normalize(out.object_embeddings, dim=-1).T
        yield 'scores', (cosines * scale + bias).sigmoid() * out.iou_logits.sigmoid().T
    if 'global' in texts and image_scale is not None and image_bias is not None and out.global_embeddings.shape[1]:
        cosines = normalize(texts['global'], dim=-1) @ normalize(out.global_embeddings[:, 0], dim=-1).T
        yield 'global_scores', (cosines * image_scale + image_bias).sigmoid()


def _losses(network: ObjEmbed, inputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[Difference]:
    """Losses of the whole batch in training mode, and gradients of the total (MODELS.md 1.10)."""
    import torch

    network.train()
    out = _forward(network, inputs, list(range(len(inputs['input_ids']))))
    given = _training_losses(network, out, _texts(network, wanted['text_ids']), wanted)
    given['total_loss'].backward()
    for name in wanted:
        if name.startswith('grad_norm.'):
            gradient = network.get_parameter(name.removeprefix('grad_norm.')).grad
            given[name] = torch.tensor(0.0) if gradient is None else gradient.norm()
    return [
        _compare(name, value.detach(), wanted[name], relative=True) for name, value in given.items() if name in wanted
    ]


def _training_losses(network: ObjEmbed, out: Output, texts: Tensor, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    import torch
    from torch.nn.functional import one_hot

    from embedder_ros.training.objembed import losses

    frames = range(len(out.global_embeddings))
    labels, masks, iou = (torch.cat([wanted[f'{n}{i}'] for i in frames]) for n in ('labels', 'masks', 'iou_targets'))
    local = (wanted['text_ids'] == network.text_token_ids[0]).any(1)
    names, captions = texts[local], texts[~local]
    targets = one_hot(labels.clamp(min=0), len(names)).float() * (labels >= 0)[:, None]
    objects = losses.Calibration(network.logit_log_scale, network.logit_bias)
    mask = masks.float()[:, None].expand_as(targets)
    region = losses.region_loss(out.object_embeddings, names, targets, mask, objects)
    image, weight = region.new_zeros(()), 0.0
    if len(captions) and network.config.use_global_caption:
        kinds = captions.unflatten(0, (len(frames), -1)).transpose(0, 1)  # short and long of each frame in turn
        calibration = losses.Calibration(network.logit_image_log_scale, network.logit_image_bias)
        image = losses.image_loss(losses.image_blocks(out.global_embeddings, [list(k) for k in kinds]), calibration)
        weight = losses.image_weight(network.config.use_two_tokens, len(kinds) == 2)
    total = losses.combine(region, image, losses.iou_loss(out.iou_logits, iou), weight)
    return {f'{name}_loss': value for name, value in total._asdict().items()}


def _preprocessing(network: ObjEmbed, expected: Mapping[str, Tensor]) -> list[Difference]:
    import torch

    from embedder_ros.models.objembed.image import patches, resize, resized_size

    out = []
    if 'resize_table_w_h_to_w_h' in expected:
        table = expected['resize_table_w_h_to_w_h']
        sizes = torch.tensor([resized_size(w, h) for w, h in table[:, :2].tolist()])
        out.append(_compare('resize_table_w_h_to_w_h', sizes, table[:, 2:], tolerance=0.0))
    if 'image_rgb' in expected:
        image, vision = expected['image_rgb'], network.config.qwen.vision_config
        width, height = resized_size(image.shape[1], image.shape[0])
        pixels = patches(resize(image, width, height))
        grid = torch.tensor([[1, height // vision.patch_size, width // vision.patch_size]])
        rows = pixels[expected['row_index']] if 'row_index' in expected else pixels
        given = {'image_grid_thw': grid, 'pixel_rows': rows, 'row_mean': pixels.mean(1)}
        out += [_compare(name, value, expected[name]) for name, value in given.items() if name in expected]
    return out


def _compare(
    name: str, given: Tensor, expected: Tensor, *, tolerance: float = TOLERANCE, relative: bool = False
) -> Difference:
    if [n for n in given.shape if n != 1] == [n for n in expected.shape if n != 1]:
        given = given.reshape(expected.shape)  # one reading per frame, say, may stand without an axis of its own
    if given.shape != expected.shape:
        note = f'shape {tuple(given.shape)}, expected {tuple(expected.shape)}'
        return Difference(name, float('inf'), tolerance, relative, note)
    if not expected.numel():
        return Difference(name, 0.0, tolerance, relative, 'nothing in it')
    given, expected = given.double(), expected.double()
    difference = (given - expected).abs()
    if relative:
        difference = difference / expected.abs().where(expected != 0, 1.0)
    return Difference(name, float(difference.max()), tolerance, relative)
