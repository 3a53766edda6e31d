# SPDX-License-Identifier: Apache-2.0
"""ObjEmbed's network: keys, places, regions as torchvision cuts them, causality, batches, misuse."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from safetensors.torch import load_file  # noqa: E402

from embedder_ros.models.objembed import config as configs  # noqa: E402
from embedder_ros.models.objembed.checkpoint import load_objembed  # noqa: E402
from embedder_ros.models.objembed.config import ObjEmbedConfig, SpecialTokens  # noqa: E402
from embedder_ros.models.objembed.network import ObjEmbed, Output, _raster  # noqa: E402
from embedder_ros.models.objembed.places import position_ids_of  # noqa: E402
from embedder_ros.models.objembed.roi_align import roi_align  # noqa: E402
from embedder_ros.models.objembed.sine import cells, centred, sine  # noqa: E402
from embedder_ros.types import UserError  # noqa: E402

torch.set_num_threads(1)

DATA = Path(__file__).parent / 'data'
FIXTURE = DATA / 'objembed_tiny'
TOKENS = SpecialTokens(7, 8, 9, 10)
START, IMAGE, OBJECT, GLOBAL = 3, 5, 7, 8


def tiny(**flags: Any) -> dict[str, Any]:
    """The fixture's config.json with other flags, or other sizes of its two parts."""
    import json

    values = json.loads((FIXTURE / 'config.json').read_text())
    for part in ('text_config', 'vision_config'):
        values[part] |= flags.pop(part, {})
    return values | flags


def random_network(seed: int = 0, **flags: Any) -> ObjEmbed:
    """Every weight random, also those that start at zero."""
    network = ObjEmbed(ObjEmbedConfig.from_dict(tiny(**flags)), **asdict(TOKENS)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            if value.ndim > 1:
                value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
            elif name.endswith('bias') and 'logit' not in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return network


class Batch:
    """Random frames with the tokens of the released prompt's order: image, coarse, boxes, detailed."""

    def __init__(
        self, counts: Sequence[int], grids: Sequence[tuple[int, int]], seed: int = 0, last: bool = True
    ) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.rows = [self._row(n, h * w // 4, last) for n, (h, w) in zip(counts, grids, strict=True)]
        self.grids = torch.tensor([[1, h, w] for h, w in grids])
        self.pixels = [torch.randn(h * w, 1536, generator=draw) for h, w in grids]
        self.sizes = torch.tensor([[w * 20, h * 23] for h, w in grids])
        corner = [torch.rand(n, 2, 2, generator=draw).sort(1).values for n in counts]
        self.boxes = [c.flatten(1) * s.repeat(2) for c, s in zip(corner, self.sizes, strict=True)]

    @staticmethod
    def _row(count: int, tokens: int, last: bool) -> list[int]:
        objects = [t for j in range(count) for t in (50, 60 + j, OBJECT, OBJECT, 52)]
        return [
            1,
            START,
            *[IMAGE] * tokens,
            4,
            30,
            31,
            40,
            GLOBAL,
            41,
            *objects,
            42,
            *([GLOBAL] if last else []),
            43,
            2,
        ]

    def padded(self, rows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        longest = max(len(self.rows[r]) for r in rows)
        ids = torch.tensor([self.rows[r] + [0] * (longest - len(self.rows[r])) for r in rows])
        return ids, (torch.arange(longest) < torch.tensor([[len(self.rows[r])] for r in rows])).long()

    def through(self, network: ObjEmbed, rows: Sequence[int] | None = None, **more: Any) -> Output:
        rows = list(range(len(self.rows))) if rows is None else list(rows)
        with torch.inference_mode():
            return network(
                *self.padded(rows),
                torch.cat([self.pixels[r] for r in rows]),
                self.grids[rows],
                [self.boxes[r] for r in rows],
                self.sizes[rows],
                **more,
            )


def assert_equal(ours: Output, theirs: Output, atol: float = 1e-5) -> None:
    for name in ('object_embeddings', 'iou_logits', 'global_embeddings'):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=atol, msg=name)


@pytest.fixture(scope='module')
def network() -> ObjEmbed:
    return load_objembed(FIXTURE, tokens=TOKENS)


@pytest.fixture
def batch() -> Batch:
    return Batch([5, 0, 3], [(6, 8), (4, 4), (10, 4)])


# Keys and sizes: conformance item 1.


def expected_shapes(hidden: int, *, pooled: bool = False, captions: bool = True) -> dict[str, tuple[int, ...]]:
    """MODELS.md 1.3."""
    h = hidden
    shapes: dict[str, tuple[int, ...]] = {'logit_log_scale': (1,), 'logit_bias': (1,)}
    if captions:
        shapes |= {'logit_image_log_scale': (1,), 'logit_image_bias': (1,)}
    weights = {
        'logit_iou_proj.0': (h // 2, h), 'logit_iou_proj.2': (1, h // 2),
        'model.image_pos_projector.0': (h, h), 'model.image_pos_projector.2': (h, h),
        'model.object_pos_projector.0': (h, h), 'model.object_pos_projector.2': (h, h),
        'model.object_vision_projector.0': (h, h if pooled else 49 * h), 'model.object_vision_projector.2': (h, h),
        'model.merge': (h, 7 * h // 4),
    }  # fmt: skip
    shapes |= {f'{name}.weight': shape for name, shape in weights.items()}
    shapes |= {f'{name}.bias': shape[:1] for name, shape in weights.items()}
    for name, channels in (('second_scale_conv', h), ('first_scale_conv1', h), ('first_scale_conv2', h // 2)):
        shapes[f'model.{name}.weight'] = (channels, channels // 2, 2, 2)
        shapes[f'model.{name}.bias'] = (channels // 2,)
    shapes |= {f'model.first_scale_norm.{end}': (h // 2,) for end in ('weight', 'bias')}
    return shapes | {'logit_pos_embedding.weight': (1, h)}


def added(network: ObjEmbed) -> dict[str, tuple[int, ...]]:
    qwen = ('model.visual.', 'model.language_model.')
    return {k: tuple(v.shape) for k, v in network.state_dict().items() if not k.startswith(qwen)}


@pytest.mark.parametrize('captions', [True, False])
def test_keys_and_shapes(captions: bool) -> None:
    network = ObjEmbed(ObjEmbedConfig.from_dict(tiny(use_global_caption=captions)), **asdict(TOKENS))
    assert added(network) == expected_shapes(64, captions=captions)
    assert all(torch.isfinite(v).all() for v in network.state_dict().values())


@pytest.mark.parametrize(('hidden', 'millions'), [(2048, 254.8), (2560, 398.2)])
def test_number_of_added_parameters(hidden: int, millions: float) -> None:
    values = tiny(text_config={'hidden_size': hidden}, vision_config={'out_hidden_size': hidden})
    with torch.device('meta'):
        network = ObjEmbed(ObjEmbedConfig.from_dict(values), **asdict(TOKENS))
    assert added(network) == expected_shapes(hidden)
    assert sum(math.prod(shape) for shape in added(network).values()) / 1e6 == pytest.approx(millions, abs=0.06)


def test_training_starts_from_the_papers_calibration_and_places_of_nothing() -> None:
    network = ObjEmbed(ObjEmbedConfig.from_dict(tiny()), **asdict(TOKENS))
    assert network.calibration() == pytest.approx((20.0, -3 * math.log(99)) * 2, rel=1e-6)
    for projector in (network.model.image_pos_projector, network.model.object_pos_projector):
        assert not projector[2].weight.any() and not projector[2].bias.any()


# Places: conformance items 2 and 3.


def test_sine_of_a_box() -> None:
    """Order cy, cx, w, h; sine at even places; two frequencies for eight numbers of four coordinates."""
    places = centred(torch.tensor([[0.1, 0.3, 0.5, 0.9]]))
    torch.testing.assert_close(places, torch.tensor([[0.6, 0.3, 0.4, 0.6]]))
    values = sine(torch.tensor([[0.5, 0.25, 1.0, 0.125]]), 8)[0]
    expected = [f(2 * math.pi * v) for v in (0.5, 0.25, 1.0, 0.125) for f in (math.sin, math.cos)]
    torch.testing.assert_close(values, torch.tensor(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close(centred(torch.tensor([[0.0, 0.0, 1.0, 1.0]])), torch.tensor([[0.5, 0.5, 1.0, 1.0]]))


def test_frequencies_fall_to_a_ten_thousandth() -> None:
    d, values = 16, sine(torch.tensor([[0.3]]), 16)[0]
    for i in range(d):
        angle = 2 * math.pi * 0.3 / 10000 ** (2 * (i // 2) / d)
        assert values[i].item() == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=1e-6)


def test_cells_start_at_a_half_and_end_below_one_and_a_half() -> None:
    grid = cells(3, 4)
    assert grid[0].tolist() == [0.5, 0.5] and grid.max() < 1.5
    torch.testing.assert_close(grid[4 * 1 + 2], torch.tensor([1 / 3 + 0.5, 2 / 4 + 0.5]))  # y first, raster order


def test_boxes_reach_regions_in_resized_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """(64, 48, 128, 96) of 640 x 480 is (112, 83.2, 224, 166.4) of 1120 x 832, at 1/8, 1/16 and 1/32."""
    network, seen = random_network(), []
    maps = [(torch.zeros(104, 140, 16), torch.zeros(52, 70, 32), torch.zeros(26, 35, 64))]

    def spy(features: torch.Tensor, boxes: torch.Tensor, scale: float, **_: Any) -> torch.Tensor:
        seen.append((tuple(features.shape), boxes.tolist()[0], scale))
        return roi_align(features, boxes, scale)

    monkeypatch.setattr('embedder_ros.models.objembed.network.roi_align', spy)
    vision = type('V', (), {'maps': maps, 'tokens': torch.zeros(910, 64)})()
    box, size = torch.tensor([[64.0, 48.0, 128.0, 96.0]]), torch.tensor([[640, 480]])
    network.model.box_tokens(vision, [(26, 35)], [box], size, network.logit_pos_embedding.weight)
    assert [(shape[:2], scale) for shape, _, scale in seen] == [
        ((104, 140), 1 / 8),
        ((52, 70), 1 / 16),
        ((26, 35), 1 / 32),
    ]
    for _, resized, _ in seen:
        assert resized == pytest.approx([112, 83.2, 224, 166.4], abs=1e-4)


def test_positions_are_the_librarys(batch: Batch) -> None:
    from transformers import Qwen3VLModel

    ids, mask = batch.padded([0, 1, 2])
    library = Qwen3VLModel._from_config(ObjEmbedConfig.from_dict(tiny()).qwen)
    theirs, _ = library.get_rope_index(ids, (ids == IMAGE).int(), batch.grids, attention_mask=mask)
    ours = position_ids_of(ids, [(h // 2, w // 2) for _, h, w in batch.grids.tolist()], IMAGE)
    assert torch.equal(ours * mask, theirs * mask)


# Regions: conformance item 7.


@pytest.mark.parametrize('stride', [8, 16, 32])
def test_regions_and_gradients_are_torchvisions(stride: int) -> None:
    """Numbers of torchvision's own kernel: boxes of no area, turned, outside, as large as many images, and random."""
    data = load_file(DATA / 'roi_align.safetensors')
    features = data['features'].requires_grad_()
    regions = roi_align(features, data[f'boxes{stride}'], 1 / stride)
    torch.testing.assert_close(regions, data[f'regions{stride}'], rtol=0, atol=2e-6)
    (regions * torch.arange(1, 7.0)).sum().backward()
    torch.testing.assert_close(features.grad, data[f'gradient{stride}'], rtol=1e-5, atol=1e-5)


def test_boxes_below_a_cell_count_as_a_cell_and_beyond_the_map_as_nothing() -> None:
    features = torch.rand(9, 9, 2)
    small, cell, outside = roi_align(features, torch.tensor([[3.0, 3, 3, 3], [3, 3, 4, 4], [40, 40, 50, 50]]), 1.0)
    assert torch.equal(small, cell) and not outside.any() and cell.any()
    assert roi_align(features, torch.zeros(0, 4), 1.0).shape == (0, 7, 7, 2)


def test_regions_do_not_depend_on_those_beside_them() -> None:
    """Boxes are cut together, up to as many samples as the largest needs, and in parts."""
    features, boxes = torch.rand(30, 40, 3), torch.rand(300, 4).sort(1).values * 30
    together = roi_align(features, boxes, 1.0)
    for row in (0, 127, 128, 299):
        torch.testing.assert_close(together[row], roi_align(features, boxes[row, None], 1.0)[0], rtol=0, atol=1e-6)


def test_export_is_one_operator_that_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip('onnxscript')
    onnxruntime = pytest.importorskip('onnxruntime')

    class Cut(torch.nn.Module):
        def forward(self, features: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
            return roi_align(features, boxes, 1 / 16)

    data = load_file(DATA / 'roi_align.safetensors')
    features, boxes = data['features'], data['boxes16']
    shapes = ({0: 'height', 1: 'width'}, {0: 'boxes'})
    program = torch.onnx.export(Cut().eval(), (features, boxes), dynamo=True, dynamic_shapes=shapes, verbose=False)
    program.save(str(tmp_path / 'cut.onnx'))
    assert [node.op_type for node in program.model.graph].count('RoiAlign') == 1
    session = onnxruntime.InferenceSession(str(tmp_path / 'cut.onnx'))
    for rows in (slice(None), slice(3, 9)):
        given = {i.name: v.numpy() for i, v in zip(session.get_inputs(), (features, boxes[rows]), strict=True)}
        (regions,) = session.run(None, given)
        np.testing.assert_allclose(regions, roi_align(features, boxes[rows], 1 / 16), atol=2e-6)


def test_maps_are_those_of_the_convolutions(network: ObjEmbed) -> None:
    """Transposed convolutions are computed as matrix products of all frames' cells."""
    body, (rows, columns) = network.model, (3, 4)
    cell_rows = [torch.randn(rows * columns, 64) for _ in range(3)]
    vision = type('V', (), {'tokens': cell_rows[0], 'deepstack': (torch.zeros(12, 64), cell_rows[1], cell_rows[2])})()
    with torch.inference_mode():
        ((fine, middle, coarse),) = body._maps(vision, [(rows, columns)])
        planes = [c.T.reshape(1, 64, rows, columns) for c in cell_rows]
        first = body.first_scale_conv1(planes[1]).permute(0, 2, 3, 1)
        first = torch.nn.functional.gelu(body.first_scale_norm(first)).permute(0, 3, 1, 2)
        for ours, theirs in (
            (fine, body.first_scale_conv2(first)), (middle, body.second_scale_conv(planes[2])), (coarse, planes[0])
        ):  # fmt: skip
            torch.testing.assert_close(ours, theirs[0].permute(1, 2, 0), rtol=0, atol=1e-5)


def test_blocks_of_blocks_become_a_map() -> None:
    y, x = torch.meshgrid(torch.arange(8), torch.arange(12), indexing='ij')
    whole = torch.stack([y, x], -1)
    blocks = whole.view(2, 2, 2, 3, 2, 2, 2).permute(0, 3, 1, 4, 2, 5, 6).reshape(6, 4, 4, 2)
    assert torch.equal(_raster(blocks, (2, 3)), whole)


# The pass as a whole: conformance item 6, batches, flags.


@pytest.mark.parametrize('flags', [{}, {'use_two_tokens': 1}, {'use_two_tokens': 0}, {'use_global_caption': False}])
def test_a_padded_batch_equals_single_frames(flags: dict[str, Any]) -> None:
    """Frames of unlike shape, one of them without boxes."""
    network = random_network(**flags)
    batch = Batch([5, 0, 3], [(6, 8), (4, 4), (10, 4)], last=flags.get('use_two_tokens') != 0)
    together, alone = batch.through(network), [batch.through(network, [i]) for i in range(3)]
    glued = Output(*(torch.cat([getattr(o, name) for o in alone]) for name in Output.__dataclass_fields__))
    assert_equal(together, glued)
    reads = 0 if not network.config.use_global_caption else 1 if network.config.use_two_tokens == 0 else 2
    assert together.object_embeddings.shape == (8, 64) and together.iou_logits.shape == (8, 1)
    assert together.global_embeddings.shape == (3, reads, 64)


def test_wide_networks_average_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a width of 4000, shown at 64: the projector takes one cell, and the mean of equal cells is each of them."""
    monkeypatch.setattr(configs, 'POOL_LIMIT', 63)
    network = random_network()
    assert added(network) == expected_shapes(64, pooled=True)
    out = Batch([4], [(6, 8)]).through(network)
    assert out.object_embeddings.shape == (4, 64) and out.object_embeddings.isfinite().all()
    regions, given = torch.rand(1, 1, 1, 112).expand(2, 7, 7, 112), []
    monkeypatch.setattr(network.model, '_regions', lambda *_: regions)
    network.model.object_vision_projector.register_forward_hook(lambda _, args, __: given.append(args[0]))
    Batch([2], [(6, 8)]).through(network)
    torch.testing.assert_close(given[0], network.model.merge(regions[:, 0, 0]))


@pytest.mark.parametrize(('width', 'pooled'), [(64, False), (4000, False), (4096, True)])
def test_which_widths_average(width: int, pooled: bool) -> None:
    values = tiny(text_config={'hidden_size': width}, vision_config={'out_hidden_size': width})
    assert ObjEmbedConfig.from_dict(values).pools_cells is pooled


@pytest.mark.parametrize('row', [0, 2, 4])
def test_no_box_sees_a_later_one(network: ObjEmbed, batch: Batch, row: int) -> None:
    before = batch.through(network, [0])
    batch.boxes[0][row] = torch.tensor([3.0, 5.0, 40.0, 44.0])
    after = batch.through(network, [0])
    changed = (before.object_embeddings - after.object_embeddings).abs().amax(1)
    assert not changed[:row].any() and (changed[row:] > 1e-3).all()
    frames = (before.global_embeddings - after.global_embeddings).abs().amax(2)[0]
    assert frames[0] == 0 and frames[1] > 1e-4  # coarse, detailed


def test_vision_once_for_several_passes(network: ObjEmbed, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = batch.through(network)
    with torch.inference_mode():
        vision = network.encode_image(torch.cat(batch.pixels), batch.grids)
    monkeypatch.setattr(network.model.visual, 'forward', None)
    assert_equal(batch.through(network, vision=vision), expected, 0)
    maps = vision.maps
    assert_equal(batch.through(network, vision=vision), expected, 0)
    assert maps is not None and vision.maps is maps
    positions = position_ids_of(batch.padded([0, 1, 2])[0], [(3, 4), (2, 2), (5, 2)], IMAGE)
    assert_equal(batch.through(network, vision=vision, position_ids=positions), expected, 0)


def test_all_attention_of_the_library_agrees(network: ObjEmbed, batch: Batch) -> None:
    """The fixture was made with eager attention; without a mask that would look at padding, if padding came first."""
    expected, parts = batch.through(network), (network.model.visual, network.model.language_model)
    try:
        for part in parts:
            part.set_attn_implementation('eager')
        assert_equal(batch.through(network), expected, 2e-5)
    finally:
        for part in parts:
            part.set_attn_implementation('sdpa')


def test_texts_padded_together_equal_texts_alone(network: ObjEmbed) -> None:
    rows = [[1, 70, 71, 9, 2], [1, 73, 80, 81, 82, 83, 10, 2], [9]]
    ids = torch.tensor([r + [0] * (8 - len(r)) for r in rows])
    mask = (torch.arange(8) < torch.tensor([[len(r)] for r in rows])).long()
    with torch.inference_mode():
        alone = torch.cat([network.embed_text(torch.tensor([r]), torch.ones(1, len(r))) for r in rows])
        torch.testing.assert_close(network.embed_text(ids, mask), alone, rtol=0, atol=1e-5)


def test_gradients_after_inference(batch: Batch) -> None:
    """What is kept between frames was first computed in inference mode; every part learns all the same."""
    network = random_network(seed=3)
    batch.through(network)
    ids, mask = batch.padded([0, 1, 2])
    out = network(ids, mask, torch.cat(batch.pixels), batch.grids, batch.boxes, batch.sizes)
    texts = network.embed_text(torch.tensor([[1, 70, 9, 2]]), torch.ones(1, 4))
    (out.object_embeddings.sum() + out.iou_logits.sum() + out.global_embeddings.sum() + texts.sum()).backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(n.startswith(('logit_log', 'logit_bias', 'logit_image')) for n in still), still


def test_bfloat16_is_close(batch: Batch) -> None:
    """Regions and places stay in float32; a class of its own would not."""
    exact = batch.through(network := random_network(seed=1))
    half = batch.through(network.bfloat16())
    assert half.object_embeddings.dtype == torch.bfloat16
    cosine = torch.nn.functional.cosine_similarity(exact.object_embeddings, half.object_embeddings.float())
    assert cosine.min() > 0.99


# Misuse: traps of section 8.


def test_placeholders_are_counted(network: ObjEmbed, batch: Batch) -> None:
    for change, message in (
        (lambda b: b.rows[0].insert(20, OBJECT), 'row 0 has 11 <object> tokens where 10 belong'),
        (lambda b: b.boxes.__setitem__(2, b.boxes[2][:2]), 'row 2 has 6 <object> tokens where 4 belong'),
        (lambda b: b.rows[1].insert(3, IMAGE), 'row 1 has 5 image tokens where 4 belong'),
        (lambda b: b.rows[2].append(GLOBAL), 'row 2 has 3 <global> tokens where 2 belong'),
    ):
        wrong = Batch([5, 0, 3], [(6, 8), (4, 4), (10, 4)])
        change(wrong)
        with pytest.raises(UserError, match=message):
            wrong.through(network)


def test_placeholders_stand_together(network: ObjEmbed, batch: Batch) -> None:
    row = batch.rows[0]
    at = row.index(OBJECT)
    row[at - 1], row[at] = row[at], row[at - 1]
    with pytest.raises(UserError, match='side by side'):
        batch.through(network)
    split = Batch([1], [(6, 8)])
    split.rows[0].remove(IMAGE)
    split.rows[0].insert(-1, IMAGE)
    with pytest.raises(UserError, match='side by side'):
        split.through(network)


def test_a_pass_leaves_the_network_as_it_was(network: ObjEmbed, batch: Batch) -> None:
    """The base vector of the IoU token is read, not written."""
    before = {key: value.clone() for key, value in network.state_dict().items()}
    first = batch.through(network)
    assert_equal(batch.through(network), first, 0)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_frames_and_rows_must_agree(network: ObjEmbed, batch: Batch) -> None:
    ids, mask = batch.padded([0, 1, 2])
    pixels = torch.cat(batch.pixels)
    with pytest.raises(UserError, match='right'):
        network(ids.flip(1), mask.flip(1), pixels, batch.grids, batch.boxes, batch.sizes)
    with pytest.raises(UserError, match='one row of tokens'):
        network(ids, mask, pixels, batch.grids, batch.boxes[:2], batch.sizes)
    with pytest.raises(UserError, match='describe'):
        network(ids, mask, pixels[:-4], batch.grids, batch.boxes, batch.sizes)
    with pytest.raises(UserError, match='image_grid_thw'):
        network(ids, mask, pixels, batch.grids + 1, batch.boxes, batch.sizes)
    with pytest.raises(UserError, match='outside the vocabulary'):
        network(ids.masked_fill(ids == 43, 300), mask, pixels, batch.grids, batch.boxes, batch.sizes)
    with pytest.raises(UserError, match='finite'):
        network(ids, mask, pixels, batch.grids, [batch.boxes[0] * float('nan'), *batch.boxes[1:]], batch.sizes)
    with pytest.raises(UserError, match='pixel_values'):
        network(ids, mask, None, batch.grids, batch.boxes, batch.sizes)


@pytest.mark.parametrize('row', [[1, 70, 71, 2], [1, 9, 71, 9], [1, 9, 10, 2]])
def test_a_text_is_read_at_one_token(network: ObjEmbed, row: list[int]) -> None:
    with pytest.raises(UserError, match='text-reading'):
        network.embed_text(torch.tensor([row]), torch.ones(1, 4))


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ({'model_type': 'llama'}, "not 'qwen3_vl'"),
        ({'use_two_tokens': 3}, '0, 1 or 2'),
        ({'text_config': {'hidden_size': 72}}, 'out_hidden_size'),
        ({'text_config': {'hidden_size': 60}, 'vision_config': {'out_hidden_size': 60}}, 'multiple of 8'),
        ({'vision_config': {'deepstack_visual_indexes': [0, 1]}}, '3 layers'),
        ({'vision_config': {'depth': 'four'}}, 'transformers refuses'),
    ],
)
def test_configurations_that_cannot_be(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ObjEmbedConfig.from_dict(tiny(**flags))


def test_released_flags_are_the_defaults() -> None:
    values = tiny()
    del values['use_two_tokens'], values['use_global_caption']
    config = ObjEmbedConfig.from_dict(values)
    assert (config.use_two_tokens, config.use_global_caption, config.hidden) == (2, True, 64)
