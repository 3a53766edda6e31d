# SPDX-License-Identifier: Apache-2.0
"""A folder with a checkpoint is a model: recognised, given proposals, run by pipeline, CLI and node, or refused."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('torch')
pytest.importorskip('transformers')
import tinyobjembed

from embedder_ros import proposals
from embedder_ros.cli import main
from embedder_ros.models.nano import WEIGHTS
from embedder_ros.models.objembed.embedder import ObjEmbedEmbedder
from embedder_ros.models.registry import load_model
from embedder_ros.pipeline import Pipeline
from embedder_ros.proposals.nano import NanoProposals
from embedder_ros.types import Frame, Observation, UserError

FAST = {'device': 'cpu', 'min_tokens': 20, 'max_tokens': 60}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinyobjembed.write(tmp_path_factory.mktemp('models') / 'ObjEmbed-tiny')


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / 'copy'))


def rooms() -> list[Frame]:
    """Coloured rectangles on noise."""
    frames = []
    for seed, (height, width) in enumerate([(240, 320), (300, 200)]):
        rng = np.random.default_rng(seed)
        image = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
        for _ in range(5):
            x, y = rng.integers(0, width // 2), rng.integers(0, height // 2)
            image[y : y + height // 4, x : x + width // 4] = rng.integers(0, 256, 3)
        frames.append(Frame(image, seed, f'camera{seed}'))
    return frames


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Sources that a proposer was loaded from; what is loaded is no proposer."""
    sources: list[str] = []
    monkeypatch.setattr(proposals, 'load_proposer', lambda source, **_: sources.append(source))
    return sources


def test_the_pipeline_runs_objembed_on_nanos_boxes(folder: Path) -> None:
    model = load_model(str(folder), proposals='nano', **FAST)
    assert isinstance(model.embedder, ObjEmbedEmbedder) and isinstance(model.proposer, NanoProposals)
    pipeline = Pipeline(model.embedder, model.proposer, max_objects=9)
    for frame, seen in zip(rooms(), pipeline.observe(rooms()), strict=True):
        assert 0 < len(seen) <= 9 and seen.embeddings.shape == (len(seen), 64)
        assert (np.diff(seen.objectness) <= 0).all() and seen.camera == frame.camera
        assert seen.model_id == model.embedder.info.model_id
        alone = pipeline.observe([frame])[0]
        np.testing.assert_allclose(alone.embeddings, seen.embeddings, atol=1e-5)
    region = pipeline.embed_boxes(rooms()[0], np.array([[10, 10, 60, 50]], np.float32))
    assert isinstance(region, Observation) and region.embeddings.shape == (1, 64)


def test_the_model_id_names_weights_and_prompt(folder: Path, copy: Path, tmp_path: Path) -> None:
    first = load_model(str(folder), proposals='nano', **FAST).embedder.info.model_id
    assert load_model(str(copy), proposals='nano', **FAST).embedder.info.model_id == first
    det = load_model(str(folder), proposals='nano', prompt='det', **FAST).embedder.info.model_id
    assert det == first.removesuffix('rec') + 'det'
    other = tinyobjembed.write(tmp_path / 'other', seed=1)
    assert load_model(str(other), proposals='nano', **FAST).embedder.info.model_id != first


@pytest.mark.parametrize('where', ['.', '..'])
def test_wedetect_is_found_beside_the_weights(copy: Path, asked: list[str], where: str) -> None:
    place = (copy / where).resolve() / 'wedetect_base_uni.pth'
    place.touch()
    load_model(str(copy), **FAST)
    assert [Path(source).resolve() for source in asked] == [place]


def test_another_proposer_can_be_named(folder: Path, asked: list[str]) -> None:
    load_model(str(folder), proposals='/somewhere/wedetect_large_uni.pth', **FAST)
    load_model('nano', proposals='/somewhere/wedetect_base_uni.pth')
    assert asked == ['/somewhere/wedetect_large_uni.pth', '/somewhere/wedetect_base_uni.pth']
    assert load_model('nano', proposals='nano').proposer is not None and len(asked) == 2


def test_without_a_source_of_boxes_the_ways_out_are_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('embedder_ros.models.objembed.load', lambda *_, **__: pytest.fail('loaded for nothing'))
    with pytest.raises(UserError, match='wedetect') as error:
        load_model(str(folder), **FAST)
    assert "'proposals'" in str(error.value) and "'nano'" in str(error.value)


def test_a_folder_that_is_no_model_is_refused(tmp_path: Path) -> None:
    for name, says in (('missing', 'is no folder'), ('', 'holds neither')):
        with pytest.raises(UserError, match=says) as error:
            load_model(str(tmp_path / name))
        assert "set parameter 'model'" in str(error.value)


def test_another_qwen_is_refused(copy: Path) -> None:
    described = json.loads((copy / 'config.json').read_text())
    (copy / 'config.json').write_text(json.dumps(described | {'model_type': 'llama'}))
    with pytest.raises(UserError, match='llama'):
        load_model(str(copy), proposals='nano', **FAST)


@pytest.mark.parametrize('name', ['model.safetensors', 'tokenizer.json'])
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(UserError, match='missing') as error:
        load_model(str(copy), proposals='nano', **FAST)
    assert name in str(error.value)


def test_a_tokenizer_of_another_checkpoint_is_refused(copy: Path) -> None:
    described = json.loads((copy / 'config.json').read_text())
    described['image_token_id'] -= 1
    (copy / 'config.json').write_text(json.dumps(described))
    with pytest.raises(UserError, match='same checkpoint'):
        load_model(str(copy), proposals='nano', **FAST)


@pytest.mark.parametrize(
    ('files', 'mean'),
    [
        ({'preprocessor_config.json': {'image_mean': [0.1, 0.2, 0.3], 'image_std': [1, 1, 1]}}, (0.1, 0.2, 0.3)),
        ({'processor_config.json': {'image_processor': {'image_mean': [0.4] * 3}}}, (0.4, 0.4, 0.4)),
        ({}, (0.5, 0.5, 0.5)),
    ],
)
def test_normalisation_is_the_checkpoints(copy: Path, files: dict[str, object], mean: tuple[float, ...]) -> None:
    (copy / 'preprocessor_config.json').unlink()
    for name, content in files.items():
        (copy / name).write_text(json.dumps(content))
    embedder = load_model(str(copy), proposals='nano', **FAST).embedder
    assert embedder.pixels.mean == mean


@pytest.mark.parametrize('content', ['{', '[]', '{"image_mean": "grey"}'])
def test_a_damaged_preprocessor_file_is_refused(copy: Path, content: str) -> None:
    (copy / 'preprocessor_config.json').write_text(content)
    with pytest.raises(UserError, match='preprocessor_config.json is damaged'):
        load_model(str(copy), proposals='nano', **FAST)


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        ({'prompt': 'ref'}, "'prompt'"),
        ({'precision': 'int8'}, "'precision'"),
        ({'precision': 'fp16'}, 'only on a GPU'),
        ({'device': 'tpu'}, "'device'"),
        ({'min_tokens': 80}, 'max_tokens'),
        ({'min_tokens': 0}, 'min_tokens'),
        ({'proposals': '/nowhere/wedetect_base_uni.pth'}, '/nowhere'),
    ],
)
def test_an_option_that_does_not_exist_is_refused(folder: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_model(str(folder), **{**FAST, 'proposals': 'nano', **options})


def test_a_gpu_that_is_not_there_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    with pytest.raises(UserError, match="'cuda'"):
        load_model(str(folder), proposals='nano', device='cuda')


def test_without_torch_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [m for m in sys.modules if m.startswith('embedder_ros.models.objembed.')]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, 'torch', None)
    with pytest.raises(UserError, match=r'embedder_ros\[objembed\]'):
        load_model(str(folder), proposals='nano')


def test_nano_runs_in_no_other_precision() -> None:
    with pytest.raises(UserError, match='fp32'):
        load_model('nano', precision='bf16')
    assert load_model(str(WEIGHTS)).embedder.info.model_id == load_model('nano', prompt='det').embedder.info.model_id


def test_the_command_line_takes_a_checkpoint(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import cv2

    photo = tmp_path / 'photo.png'
    cv2.imwrite(str(photo), rooms()[0].image)
    options = ['--model', str(folder), '--proposals', 'nano', '--min-tokens', '20', '--max-tokens', '60']
    assert main(['find', str(photo), 'the red box', '--json', '--prompt', 'det', '--max-objects', '5', *options]) == 0
    assert 'the red box' in capsys.readouterr().out
    assert main(['find', str(photo), 'the red box', '--model', str(folder)]) == 2
    assert 'wedetect' in capsys.readouterr().err
