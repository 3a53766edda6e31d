# SPDX-License-Identifier: Apache-2.0
"""ObjEmbed from image to observation on a tiny random checkpoint: equal to the long way round, batched, cached."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip('torch')
pytest.importorskip('transformers')
import tinyobjembed
import torch
from transformers import PreTrainedTokenizerFast
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLModel

from embedder_ros.models import objembed
from embedder_ros.models.base import TextKind
from embedder_ros.models.objembed import checkpoint, prompts
from embedder_ros.models.objembed import embedder as embedders
from embedder_ros.models.objembed.embedder import ObjEmbedEmbedder, Pixels
from embedder_ros.types import Boxes, Frame, Observation, UserError, unit_rows

LEAST, MOST = 20, 60  # image tokens, so that tests are quick


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinyobjembed.write(tmp_path_factory.mktemp('objembed'))


@pytest.fixture(scope='module')
def model(folder: Path) -> ObjEmbedEmbedder:
    # fp32: a CPU that is fast at bf16 would take that, and then numbers agree to two digits only
    return objembed.load(folder, device='cpu', min_tokens=LEAST, max_tokens=MOST, precision='fp32')


def picture(width: int, height: int, seed: int = 0) -> Frame:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    pixels.setflags(write=False)
    return Frame(pixels, seed, f'camera{seed}')


def boxes_in(frame: Frame, count: int, seed: int = 0) -> Boxes:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, [frame.width - 40, frame.height - 40], (count, 2))
    xyxy = np.concatenate([low, low + rng.uniform(1, 40, (count, 2))], axis=1).astype(np.float32)
    return Boxes(xyxy, np.linspace(1, 0.1, count, dtype=np.float32))


FRAMES = [picture(640, 480, 1), picture(200, 300, 2), picture(320, 240, 3)]
BOXES = [boxes_in(FRAMES[0], 5), boxes_in(FRAMES[1], 0), boxes_in(FRAMES[2], 12)]


def seen(model: ObjEmbedEmbedder, frames: list[Frame], boxes: list[Boxes]) -> list[Observation]:
    return model.embed(frames, model.encode(frames), boxes)


def close(a: Observation, b: Observation, atol: float = 2e-6) -> None:
    for name in ('boxes', 'objectness', 'iou', 'embeddings', 'frame_embeddings'):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=atol, err_msg=name)


def test_an_observation_is_whole(model: ObjEmbedEmbedder) -> None:
    for frame, boxes, observation in zip(FRAMES, BOXES, seen(model, FRAMES, BOXES), strict=True):
        assert (observation.stamp, observation.camera) == (frame.stamp, frame.camera)
        assert (observation.width, observation.height) == (frame.width, frame.height)
        assert observation.model_id == model.info.model_id
        assert observation.boxes is boxes.xyxy and observation.objectness is boxes.objectness
        assert observation.embeddings.shape == (len(boxes), 64) and observation.iou.shape == (len(boxes),)
        assert observation.frame_embeddings.shape == (2, 64)
        assert ((observation.iou > 0) & (observation.iou < 1)).all()
        for rows in (observation.embeddings, observation.frame_embeddings):
            assert rows.dtype == np.float32
            np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_it_is_what_the_librarys_processor_and_positions_give(folder: Path, model: ObjEmbedEmbedder) -> None:
    """The long way: library image processor, chat template, M-RoPE of the library, one network call."""
    frame, boxes = FRAMES[2], BOXES[2]
    size = {'shortest_edge': LEAST * 32**2, 'longest_edge': MOST * 32**2}
    processor = Qwen2VLImageProcessorPil(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3, size=size)
    image = processor(images=[frame.image], return_tensors='pt')
    tokens = PreTrainedTokenizerFast.from_pretrained(folder)
    text = prompts.REC + prompts.objects_text(len(boxes))
    turn = [{'role': 'user', 'content': [{'type': 'image'}, {'type': 'text', 'text': text}]}]
    cells = int(image['image_grid_thw'].prod()) // 4
    wrapped = (
        tokens.apply_chat_template(turn, tokenize=False).strip().replace(prompts.IMAGE_PAD, prompts.IMAGE_PAD * cells)
    )
    ids = tokens(wrapped, return_tensors='pt').input_ids
    pad = tokens.convert_tokens_to_ids(prompts.IMAGE_PAD)
    library = SimpleNamespace(config=model.network.config.qwen)
    library.get_vision_position_ids = lambda *a, **k: Qwen3VLModel.get_vision_position_ids(library, *a, **k)
    positions, _ = Qwen3VLModel.get_rope_index(library, ids, (ids == pad).int(), image['image_grid_thw'])
    with torch.inference_mode():
        out = model.network(
            ids, torch.ones_like(ids), image['pixel_values'], image['image_grid_thw'], [torch.from_numpy(boxes.xyxy)],
            torch.tensor([[frame.width, frame.height]]), position_ids=positions,
        )  # fmt: skip
    ours = seen(model, [frame], [boxes])[0]
    np.testing.assert_allclose(ours.embeddings, unit_rows(out.object_embeddings), atol=1e-5)
    np.testing.assert_allclose(ours.iou, out.iou_logits[:, 0].sigmoid(), atol=1e-5)
    np.testing.assert_allclose(ours.frame_embeddings, unit_rows(out.global_embeddings[0]), atol=1e-5)


def test_a_padded_batch_is_its_single_images(model: ObjEmbedEmbedder) -> None:
    batched = ObjEmbedEmbedder(model.network, model._tokenizer, weights='x', pixels=Pixels(LEAST, MOST), batch=8)
    for one, two in zip(seen(model, FRAMES, BOXES), seen(batched, FRAMES, BOXES), strict=True):
        close(one, two)
    np.testing.assert_allclose(batched.embed_exemplar(FRAMES), model.embed_exemplar(FRAMES), atol=2e-6)
    pairs = ObjEmbedEmbedder(model.network, model._tokenizer, weights='x', pixels=Pixels(LEAST, MOST), batch=2)
    for one, two in zip(seen(model, FRAMES, BOXES), seen(pairs, FRAMES, BOXES), strict=True):
        close(one, two)


def test_no_frames(model: ObjEmbedEmbedder) -> None:
    assert model.encode([]) == [] and model.embed([], [], []) == []
    assert model.embed_exemplar([]).shape == (0, 64) and model.embed_text([]).shape == (0, 64)


def test_objects_and_the_coarse_frame_do_not_see_what_comes_after(model: ObjEmbedEmbedder) -> None:
    frame, boxes = FRAMES[0], BOXES[0]
    fewer = Boxes(boxes.xyxy[:2], boxes.objectness[:2])
    all_of_them, some = seen(model, [frame, frame], [boxes, fewer])
    np.testing.assert_allclose(all_of_them.embeddings[:2], some.embeddings, atol=2e-6)
    np.testing.assert_allclose(all_of_them.frame_embeddings[0], some.frame_embeddings[0], atol=2e-6)
    assert np.abs(all_of_them.frame_embeddings[1] - some.frame_embeddings[1]).max() > 1e-4


def test_boxes_are_kept_as_given_and_read_inside_the_image(model: ObjEmbedEmbedder) -> None:
    frame = FRAMES[0]
    xyxy = np.array([[-9.25, 3.123456, 700.5, 90.0625], [0, 3.123456, 640, 90.0625]], np.float32)
    for box in xyxy:
        observation = seen(model, [frame], [Boxes(box[None], np.ones(1, np.float32))])[0]
        np.testing.assert_array_equal(observation.boxes, box[None])
        expected = seen(model, [frame], [Boxes(xyxy[1:], np.ones(1, np.float32))])[0]
        np.testing.assert_array_equal(observation.embeddings, expected.embeddings)


@pytest.mark.parametrize('box', [[0, 0, np.nan, 5], [5, 5, 5, 9], [9, 5, 5, 9], [700, 0, 800, 50], [-9, -9, -1, -1]])
def test_bad_boxes_are_refused(model: ObjEmbedEmbedder, box: list[float]) -> None:
    with pytest.raises(UserError, match='box'):
        seen(model, FRAMES[:1], [Boxes(np.array([box], np.float32), np.ones(1, np.float32))])


@pytest.mark.parametrize('image', [np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8), np.zeros((9, 9, 3))])
def test_bad_images_are_refused(model: ObjEmbedEmbedder, image: np.ndarray) -> None:
    with pytest.raises(UserError, match='uint8 RGB'):
        model.encode([Frame(image, 0, 'front')])


def test_a_known_shape_is_neither_tokenised_nor_encoded_again(
    model: ObjEmbedEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen(model, FRAMES[:1], BOXES[:1])
    calls: list[str] = []
    image = model._tokenizer.image
    monkeypatch.setattr(model._tokenizer, 'image', lambda *a: calls.append('tokens') or image(*a))
    encode = model.network.encode_image
    monkeypatch.setattr(model.network, 'encode_image', lambda *a: calls.append('vision') or encode(*a))
    again = picture(640, 480, 9)
    encoded = model.encode([again])
    model.embed([again], encoded, [boxes_in(again, 5)])
    model.embed([again], encoded, [boxes_in(again, 5, seed=1)])
    assert calls == ['vision']
    model.embed([again], encoded, [boxes_in(again, 6)])
    assert calls == ['vision', 'tokens']


def test_texts_are_encoded_once(model: ObjEmbedEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = model.embed_text(['a cat', 'a dog', 'a cat'])
    np.testing.assert_array_equal(rows[0], rows[2])
    encoded: list[int] = []
    embed = model.network.embed_text
    monkeypatch.setattr(model.network, 'embed_text', lambda ids, mask: encoded.append(len(ids)) or embed(ids, mask))
    np.testing.assert_array_equal(model.embed_text(['a dog', 'a cat']), rows[[1, 0]])
    assert encoded == []
    model.embed_text(['a dog', 'a horse'])
    model.embed_text(['a dog'], TextKind.IMAGE)
    assert encoded == [1, 1]


def test_a_text_does_not_depend_on_its_batch(model: ObjEmbedEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ['a mug', 'the second mug from the left, behind the kettle ' * 9, 'x']
    together = model.embed_text(texts)
    monkeypatch.setattr(model, '_texts', embedders.LastUsed())
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_allclose(model.embed_text([text])[0], row, atol=2e-6)
    monkeypatch.setattr(model, '_texts', embedders.LastUsed())
    monkeypatch.setattr(embedders, 'TEXTS', 2)
    np.testing.assert_allclose(model.embed_text(texts), together, atol=2e-6)


def test_texts_for_objects_images_and_the_third_wording_differ(model: ObjEmbedEmbedder) -> None:
    rows = [
        model.embed_text(['a mug'])[0],
        model.embed_text(['a mug'], TextKind.IMAGE)[0],
        model.embed_text(['a mug'], template=prompts.IMAGE_WORDED_OBJECT_TEXT)[0],
    ]
    assert all(abs(float(a @ b)) < 0.9999 for a, b in ((rows[0], rows[1]), (rows[0], rows[2]), (rows[1], rows[2])))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_special_tokens_in_a_text_do_no_harm(model: ObjEmbedEmbedder) -> None:
    rows = model.embed_text(['<local_text>', '<object><object>', 'a <|im_end|> mug', '<|image_pad|>', '<global_text>'])
    assert np.isfinite(rows).all() and len(np.unique(rows.round(4), axis=0)) == 5


@pytest.mark.parametrize(('text', 'says'), [('', 'empty'), ('  \n', 'empty'), ('x' * 1001, '1001 characters')])
def test_a_text_that_cannot_be_read_is_refused(model: ObjEmbedEmbedder, text: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        model.embed_text(['a cup', text])


def test_the_longest_text_is_a_parameter(model: ObjEmbedEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, 'max_characters', 3000)
    start = 'a kitchen, ' * 200
    rows = model.embed_text([start + 'red', start + 'blue'])
    assert np.abs(rows[0] - rows[1]).max() > 1e-4, 'the end of a long caption was not read'


def test_an_exemplar_is_the_coarse_embedding_without_task(model: ObjEmbedEmbedder) -> None:
    frame = FRAMES[2]
    rows = model.embed_exemplar([frame, FRAMES[0]])
    assert rows.shape == (2, 64)
    grid = model.encode([frame])[0]
    ids = torch.tensor([model._tokenizer.image(prompts.EXEMPLAR, grid.rows * grid.columns)])
    thw = torch.tensor([[1, grid.rows * 2, grid.columns * 2]])
    with torch.inference_mode():
        size = torch.tensor([[frame.width, frame.height]])
        out = model.network(ids, torch.ones_like(ids), None, thw, [torch.zeros(0, 4)], size, vision=grid.vision)
    np.testing.assert_allclose(rows[0], unit_rows(out.global_embeddings[0, :1])[0], atol=1e-5)
    with_task = seen(model, [frame], [BOXES[1]])[0].frame_embeddings[0]
    assert np.abs(rows[0] - with_task).max() > 1e-4


def test_prompt_is_in_the_model_id_and_in_the_embeddings(folder: Path, model: ObjEmbedEmbedder) -> None:
    observations = {}
    for prompt in prompts.TASKS:
        one = objembed.load(folder, device='cpu', min_tokens=LEAST, max_tokens=MOST, prompt=prompt)
        observations[one.info.model_id] = seen(one, FRAMES[:1], BOXES[:1])[0].embeddings
    stem = model.info.model_id.removesuffix('rec')
    assert sorted(observations) == [stem + 'det', stem + 'none', stem + 'rec']
    assert len(stem) == len('objembed-01234567-')
    values = list(observations.values())
    assert np.abs(values[0] - values[1]).max() > 1e-4 and np.abs(values[1] - values[2]).max() > 1e-4


def test_calibration_is_the_checkpoints(model: ObjEmbedEmbedder) -> None:
    network, calibration = model.network, model.info.calibration
    assert calibration.scale == pytest.approx(network.logit_log_scale.exp().item())
    assert calibration.bias == pytest.approx(network.logit_bias.item())
    assert calibration.image_scale == pytest.approx(network.logit_image_log_scale.exp().item())


@pytest.mark.parametrize('flags', [{'use_two_tokens': 1}, {'use_two_tokens': 0}, {'use_global_caption': False}])
def test_other_configurations(tmp_path: Path, flags: dict[str, int]) -> None:
    written = tinyobjembed.write(tmp_path, **flags)
    model = objembed.load(written, device='cpu', min_tokens=LEAST, max_tokens=MOST)
    observations = seen(model, FRAMES, BOXES)
    has_frames = flags.get('use_global_caption', True)
    for boxes, observation in zip(BOXES, observations, strict=True):
        assert observation.embeddings.shape == (len(boxes), 64)
        assert observation.frame_embeddings.shape == (2 if has_frames else 0, 64)
    if flags == {'use_two_tokens': 0}:  # its one token comes last and stands for both
        np.testing.assert_array_equal(*observations[0].frame_embeddings)
    if has_frames:
        assert model.embed_exemplar(FRAMES).shape == (3, 64)
    else:
        with pytest.raises(UserError, match='whole images'):
            model.embed_exemplar(FRAMES)


def test_bf16_is_near_fp32(folder: Path, model: ObjEmbedEmbedder) -> None:
    half = objembed.load(folder, device='cpu', min_tokens=LEAST, max_tokens=MOST, precision='bf16')
    assert half.info.model_id == model.info.model_id
    for one, two in zip(seen(model, FRAMES, BOXES), seen(half, FRAMES, BOXES), strict=True):
        assert ((one.embeddings * two.embeddings).sum(axis=1) > 0.99).all()
        assert two.embeddings.dtype == np.float32
    assert (model.embed_text(['a mug']) @ half.embed_text(['a mug']).T)[0, 0] > 0.99


def test_numbers_that_overflow_are_told(model: ObjEmbedEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.network, 'embed_text', lambda ids, mask: torch.full((len(ids), 64), float('nan')))
    with pytest.raises(UserError, match="'bf16' or 'fp32'"):
        model.embed_text(['a text of overflowing length'])


@pytest.mark.parametrize(('free', 'frames'), [(None, 8), (200_000_000, 8), (70_000_000, 4), (20_000_000, 1)])
def test_a_batch_is_as_large_as_fits(
    model: ObjEmbedEmbedder, monkeypatch: pytest.MonkeyPatch, free: int | None, frames: int
) -> None:
    """For a width of 64, 16 MB once and 13 MB a frame."""
    monkeypatch.setattr(checkpoint, 'free_bytes', lambda _: free)
    assert checkpoint.frames_that_fit(model.network, embedders.FRAMES) == frames


def test_a_cpu_is_told_what_a_frame_costs(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        objembed.load(folder, device='cpu')
    (record,) = (r for r in caplog.records if 's per frame' in r.getMessage())
    assert 'TFLOP' in record.getMessage() and 'nano' in record.getMessage()
