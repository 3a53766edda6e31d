# SPDX-License-Identifier: Apache-2.0
"""A released .pth is read strictly: every name has one place, and what is wrong with a file is said by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

torch = pytest.importorskip('torch')

from tinywedetect import TINY, tiny_network, tiny_tensors  # noqa: E402

from embedder_ros.models.wedetect import checkpoint  # noqa: E402
from embedder_ros.models.wedetect.checkpoint import from_tensors, load_wedetect, released  # noqa: E402
from embedder_ros.models.wedetect.network import BASE, LARGE, Shape, WeDetectUni  # noqa: E402
from embedder_ros.types import UserError  # noqa: E402

DATA = Path(__file__).with_name('data') / 'wedetect_uni_base'
SHAPES = json.loads((DATA / 'checkpoint_shapes.json').read_text())
STEM = 'backbone.image_model.model.downsample_layers.0.0.bias'
LAST_GAMMA = 'backbone.image_model.model.stages.2.26.gamma'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    torch.save(tiny_tensors(), tmp_path / 'wedetect_base_uni.pth')
    return tmp_path / 'wedetect_base_uni.pth'


def shapes_of(shape: Shape) -> dict[str, torch.Tensor]:
    """Tensors without memory under the names of a released file."""
    with torch.device('meta'):
        return {released(key): value for key, value in WeDetectUni(shape).state_dict().items()}


def without_memory(tensors: Mapping[str, torch.Tensor], **changes: torch.Tensor) -> WeDetectUni:
    return from_tensors({**tensors, **changes}, 'file', device='meta')


def test_every_place_has_one_name_of_the_released_file_and_its_shape() -> None:
    """The map is one to one, and what it reaches is exactly the authors' list."""
    base = shapes_of(BASE)
    assert {key: list(value.shape) for key, value in base.items()} == SHAPES
    with torch.device('meta'):
        keys = WeDetectUni(BASE).state_dict().keys()
    assert len(set(map(released, keys))) == len(keys) == len(SHAPES)
    assert released('bbox_head.cls_preds.2.3.weight') == 'bbox_head.head_module.cls_preds.2.1.conv.weight'
    assert released('bbox_head.reg_preds.0.4.running_var') == 'bbox_head.head_module.reg_preds.0.1.bn.running_var'
    assert released('bbox_head.reg_preds.1.6.bias') == 'bbox_head.head_module.reg_preds.1.2.bias'


@pytest.mark.parametrize('shape', [BASE, LARGE, TINY])
def test_the_size_is_read_from_the_tensors(shape: Shape) -> None:
    assert without_memory(shapes_of(shape)).shape == shape


def test_the_name_of_the_file_decides_nothing(path: Path) -> None:
    assert load_wedetect(path.rename(path.with_name('wedetect_large_uni.pth'))).shape == TINY


def test_weights_are_those_of_the_file(path: Path) -> None:
    network, wanted = load_wedetect(path), tiny_network().state_dict()
    assert network.state_dict().keys() == wanted.keys() and not network.training
    for key, value in network.state_dict().items():
        assert torch.equal(value, wanted[key]), key
    path.write_bytes(b'')  # the network holds copies
    assert all(torch.equal(value, wanted[key]) for key, value in network.state_dict().items())


def test_half_precision_files_are_computed_in_float32(path: Path) -> None:
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in tiny_tensors().items()}, path)
    assert {p.dtype for p in load_wedetect(path).parameters()} == {torch.float32}


def test_files_of_old_torch_are_read(path: Path) -> None:
    torch.save(tiny_tensors(), path, _use_new_zipfile_serialization=False)
    assert torch.equal(load_wedetect(path).embeddings, tiny_network().embeddings)


def test_the_text_tower_and_a_wrapping_are_left_aside(path: Path) -> None:
    extra = {'backbone.text_model.word': torch.zeros(1), 'bbox_head.head_module.proj': torch.arange(16)}
    torch.save({'state_dict': tiny_tensors() | extra, 'meta': {}}, path)
    assert torch.equal(load_wedetect(path).embeddings, tiny_network().embeddings)


@pytest.mark.parametrize(
    ('name', 'tensor', 'message'),
    [
        (STEM, None, rf'lacks tensor {STEM}; give wedetect_base_uni'),
        (LAST_GAMMA, None, rf'lacks tensor {LAST_GAMMA};'),
        ('neck.more', (1,), 'has the unexpected tensor neck.more;'),
        ('xneck.reduce_layer0.block.conv.weight', (1,), 'unexpected tensor xneck'),
        ('bbox_head.reg_preds.0.0.weight', (64, 128, 3, 3), 'unexpected tensor bbox_head.reg_preds.0.0.weight'),
        ('backbone.image_model.model.stages.2.27.gamma', (512,), r'unexpected tensor .*stages\.2\.27\.gamma'),
        (STEM, (3,), rf'{STEM} is \(3,\), not \(128,\)'),
        ('embeddings', None, 'without objectness prompts, not the Uni release'),
        ('embeddings', (3,), 'not a whole checkpoint of WeDetect-Uni'),
    ],
)
def test_what_does_not_fit_is_named(name: str, tensor: tuple[int, ...] | None, message: str) -> None:
    tensors = shapes_of(BASE)
    if tensor is None:
        del tensors[name]
    else:
        tensors[name] = torch.zeros(tensor, device='meta')
    with pytest.raises(UserError, match=message):
        without_memory(tensors)


def test_other_releases_are_told_apart() -> None:
    tiny_release = Shape((96, 192, 384, 768), (3, 3, 9, 3), (64, 128, 256))
    tensors = {key: value for key, value in shapes_of(tiny_release).items() if key != 'embeddings'}
    with pytest.raises(UserError, match='WeDetect without objectness prompts, not the Uni release; give wedetect_base'):
        without_memory(tensors)
    with pytest.raises(UserError, match='is no WeDetect checkpoint; give wedetect_base_uni'):
        without_memory({'model.embed_tokens.weight': torch.zeros(2, 2)})


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n', 'git-LFS pointer.*git lfs pull'),
        (b'<!DOCTYPE html>', 'is damaged'),
        (b'', 'is damaged'),
    ],
)
def test_files_that_hold_no_weights(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_wedetect(path)
    assert '\n' not in str(error.value)


def test_a_file_cut_short_is_damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match='is damaged'):
        load_wedetect(path)


@pytest.mark.parametrize('content', [[1, 2], {}, {'state_dict': 3}, {'embeddings': 'none'}])
def test_files_that_hold_something_else(path: Path, content: object) -> None:
    torch.save(content, path)
    with pytest.raises(UserError, match='holds no tensors by name'):
        load_wedetect(path)


def test_no_file(path: Path) -> None:
    with pytest.raises(UserError, match='does not exist; give wedetect_base_uni'):
        load_wedetect(path.with_name('nowhere.pth'))
    with pytest.raises(UserError, match='is a folder'):
        load_wedetect(path.parent)


def test_code_in_a_file_is_not_run(path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return open, (str(path.with_name('ran')), 'w')

    torch.save({'embeddings': Trap()}, path)
    with pytest.raises(UserError, match='more than tensors'):
        load_wedetect(path)
    assert not path.with_name('ran').exists()


def test_too_little_memory_is_said_with_the_amount(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, 'free_bytes', lambda device: 1_000)
    with pytest.raises(UserError, match=r'needs 0\.\d GB of memory, 0\.0 of them weights; 0\.0 GB are free'):
        load_wedetect(path)
