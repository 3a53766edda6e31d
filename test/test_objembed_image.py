# SPDX-License-Identifier: Apache-2.0
"""Image preprocessing: sizes of MODELS.md 1.5, Pillow's bicubic to the bit, patches equal to the reference's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch')
pytest.importorskip('transformers')
pytest.importorskip('PIL')
import torch
from PIL import Image
from safetensors.numpy import load_file

from embedder_ros.models.objembed import image
from embedder_ros.types import UserError

FIXTURE = Path(__file__).parent / 'data' / 'objembed_tiny' / 'preprocess.safetensors'


@pytest.fixture(scope='module')
def reference() -> dict[str, np.ndarray]:
    return load_file(FIXTURE)


@pytest.mark.parametrize(
    ('source', 'resized', 'tokens'),
    [((640, 480), (1120, 832), 910), ((1280, 720), (1280, 736), 920), ((1920, 1080), (1472, 800), 1150)],
)
def test_sizes_and_token_counts(source: tuple[int, int], resized: tuple[int, int], tokens: int) -> None:
    assert image.resized_size(*source) == resized
    assert resized[0] // 32 * (resized[1] // 32) == tokens


def test_sizes_of_the_reference(reference: dict[str, np.ndarray]) -> None:
    for width, height, *resized in reference['resize_table_w_h_to_w_h'].tolist():
        assert image.resized_size(width, height) == tuple(resized), (width, height)


def test_halves_are_rounded_to_even() -> None:
    assert image.resized_size(16 * 65, 1024) == (1024, 1024)  # 32.5 cells
    assert image.resized_size(16 * 67, 992) == (1088, 992)  # 33.5 cells


@pytest.mark.parametrize('size', [(1, 1), (200, 1), (4000, 20), (7680, 4320), (333, 4001)])
def test_any_size_becomes_whole_cells(size: tuple[int, int]) -> None:
    width, height = image.resized_size(*size)
    assert width % 32 == height % 32 == 0
    assert width * height >= 900 * 32**2


@pytest.mark.parametrize(('least', 'most'), [(100, 200), (1, 64), (2000, 4000)])
def test_the_budget_is_a_parameter(least: int, most: int) -> None:
    width, height = image.resized_size(640, 480, least, most)
    assert least <= width * height // 32**2 <= most


@pytest.mark.parametrize('size', [(201, 1), (1, 500), (4010, 20)])
def test_a_strip_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UserError, match='200 times'):
        image.resized_size(*size)


@pytest.mark.parametrize(
    ('source', 'size'),
    [
        ((640, 480), (1120, 832)),
        ((1920, 1080), (1472, 800)),
        ((33, 31), (992, 960)),
        ((1, 1), (64, 32)),
        ((300, 2), (32, 512)),
        ((1024, 700), (1024, 704)),
        ((97, 1501), (32, 32)),
    ],
)
@pytest.mark.parametrize('kind', ['noise', 'edges'])
def test_resize_is_pillows_to_the_bit(source: tuple[int, int], size: tuple[int, int], kind: str) -> None:
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (source[1], source[0], 3), dtype=np.uint8)
    if kind == 'edges':  # overshoot beyond 0 and 255
        pixels = (pixels > 127).astype(np.uint8) * 255
    ours = image.resize(torch.from_numpy(pixels), *size)
    theirs = Image.fromarray(pixels).resize((size[0], source[1])).resize(size)  # one axis at a time: any Pillow's order
    np.testing.assert_array_equal(ours, np.asarray(theirs))


@pytest.mark.parametrize('source', [(640, 480), (1280, 720), (1920, 1080), (320, 240)])
def test_resize_of_camera_images_is_pillows_in_one_go(source: tuple[int, int]) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (source[1], source[0], 3), dtype=np.uint8)
    size = image.resized_size(*source)
    ours = image.resize(torch.from_numpy(pixels), *size)
    np.testing.assert_array_equal(ours, np.asarray(Image.fromarray(pixels).resize(size)))


def test_an_image_of_the_right_size_is_left_alone() -> None:
    pixels = torch.randint(0, 256, (64, 96, 3), dtype=torch.uint8)
    assert image.resize(pixels, 96, 64) is pixels


def test_patches_are_the_references(reference: dict[str, np.ndarray]) -> None:
    pixels = torch.from_numpy(reference['image_rgb'])
    width, height = image.resized_size(pixels.shape[1], pixels.shape[0])
    cut = image.patches(image.resize(pixels, width, height))
    assert [1, height // 16, width // 16] == reference['image_grid_thw'][0].tolist()
    np.testing.assert_allclose(cut[reference['row_index']], reference['pixel_rows'], atol=1e-6)
    np.testing.assert_allclose(cut.mean(dim=1), reference['row_mean'], atol=1e-6)


def test_patches_are_transformers_own() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    mean, std = (0.5, 0.4, 0.3), (0.2, 0.5, 0.6)
    processor = Qwen2VLImageProcessorPil(patch_size=16, image_mean=mean, image_std=std, do_resize=False)
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    theirs = processor(images=[Image.fromarray(pixels)], return_tensors='np')
    ours = image.patches(torch.from_numpy(pixels), mean=mean, std=std)
    np.testing.assert_allclose(ours, theirs['pixel_values'], atol=1e-6)
