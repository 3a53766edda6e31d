# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint: single file and shards, to the bit, and every way a folder can be wrong is told by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from safetensors.torch import load_file, save_file  # noqa: E402

from embedder_ros.models.objembed import checkpoint, memory  # noqa: E402
from embedder_ros.models.objembed.checkpoint import INDEX, WEIGHTS, load_objembed  # noqa: E402
from embedder_ros.models.objembed.config import SpecialTokens  # noqa: E402
from embedder_ros.types import UserError  # noqa: E402

FIXTURE = Path(__file__).parent / 'data' / 'objembed_tiny'
TOKENS = SpecialTokens(7, 8, 9, 10)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the fixture's checkpoint."""
    for name in ('config.json', WEIGHTS):
        shutil.copyfile(FIXTURE / name, tmp_path / name)
    return tmp_path


def shard(folder: Path) -> list[str]:
    """Cut model.safetensors in three, with an index; return the names of the files."""
    tensors = load_file(folder / WEIGHTS)
    names = [f'model-0000{i + 1}-of-00003.safetensors' for i in range(3)]
    places = {key: names[i % 3] for i, key in enumerate(tensors)}
    for name in names:
        save_file({key: value for key, value in tensors.items() if places[key] == name}, folder / name)
    (folder / INDEX).write_text(json.dumps({'metadata': {}, 'weight_map': places}))
    (folder / WEIGHTS).unlink()
    return names


def rewrite(folder: Path, change: Callable[[dict], object]) -> None:
    """Save the weights anew after a change to the dictionary of tensors."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def configure(folder: Path, **flags: object) -> None:
    values = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps(values | flags))


def test_every_tensor_as_it_is_in_the_file(folder: Path) -> None:
    network, tensors = load_objembed(folder, tokens=TOKENS), load_file(FIXTURE / WEIGHTS)
    state = network.state_dict()
    assert state.keys() == tensors.keys() and not network.training
    assert all(torch.equal(state[key], value) for key, value in tensors.items())
    assert not any(t.is_meta for t in [*network.parameters(), *network.buffers()])


def test_nothing_stays_a_view_of_the_file(folder: Path) -> None:
    network = load_objembed(folder, tokens=TOKENS)
    before = network.model.merge.weight.clone()
    with (folder / WEIGHTS).open('r+b') as file:
        file.seek(100_000)
        file.write(b'\xff' * 2_000_000)
    assert torch.equal(network.model.merge.weight, before) and before.isfinite().all()


def test_shards_are_the_same(folder: Path) -> None:
    whole = load_objembed(folder, tokens=TOKENS).state_dict()
    assert len(shard(folder)) == 3
    parts = load_objembed(folder, tokens=TOKENS).state_dict()
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)


def test_the_vocabulary_head_is_not_read(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({'lm_head.weight': torch.zeros(300, 64)}))
    assert not any('lm_head' in key for key in load_objembed(folder, tokens=TOKENS).state_dict())


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_precision_is_a_choice_and_calibration_exact(folder: Path, dtype: torch.dtype) -> None:
    exact = load_objembed(folder, tokens=TOKENS).calibration()
    network = load_objembed(folder, tokens=TOKENS, dtype=dtype)
    assert network.dtype == dtype and network.calibration() == exact
    assert network.model.language_model.rotary_emb.inv_freq.dtype == torch.float32


def test_the_weights_own_precision_is_the_default(folder: Path) -> None:
    rewrite(folder, lambda t: t.update({key: value.bfloat16() for key, value in t.items()}))
    assert load_objembed(folder, tokens=TOKENS).dtype == torch.bfloat16


def pointer(path: Path) -> None:
    path.write_text('version https://git-lfs.example/spec/v1\noid sha256:4d7a2146\nsize 4967215360\n')


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def pickles(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / 'pytorch_model.bin')


def no_config(folder: Path) -> None:
    (folder / 'config.json').unlink()


def no_shard(folder: Path) -> None:
    (folder / shard(folder)[1]).unlink()


def pointer_of_a_shard(folder: Path) -> None:
    pointer(folder / shard(folder)[2])


def index_that_lies(folder: Path) -> None:
    names = shard(folder)
    shutil.copyfile(folder / names[0], folder / names[1])


def index_of_nothing(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).write_text('{"weight_map": 3}')


def plain_qwen(folder: Path) -> None:
    qwen = ('model.visual.', 'model.language_model.')
    rewrite(folder, lambda t: [t.pop(key) for key in list(t) if not key.startswith(qwen)])


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (no_config, 'holds no config.json; give the folder of an ObjEmbed checkpoint'),
        (no_weights, f'{WEIGHTS} is missing; fetch it'),
        (pickles, 'only safetensors are read'),
        (lambda f: pointer(f / WEIGHTS), 'git-LFS pointer, not the file; run `git lfs pull`'),
        (lambda f: pointer(f / 'config.json'), 'config.json is a git-LFS pointer'),
        (lambda f: (f / 'config.json').write_text('{'), 'config.json cannot be read'),
        (lambda f: (f / WEIGHTS).write_bytes((FIXTURE / WEIGHTS).read_bytes()[:900_000]), 'damaged or only part'),
        (lambda f: (f / WEIGHTS).write_bytes(b''), 'damaged or only part'),
        (no_shard, 'model-00002-of-00003.safetensors is missing'),
        (pointer_of_a_shard, 'model-00003-of-00003.safetensors is a git-LFS pointer'),
        (index_that_lies, 'model-00002-of-00003.safetensors does not hold'),
        (index_of_nothing, 'index.json cannot be read'),
        (plain_qwen, 'this is a plain Qwen3-VL'),
        (lambda f: rewrite(f, lambda t: t.pop('model.merge.bias')), 'lacks the key model.merge.bias;'),
        (lambda f: rewrite(f, lambda t: t.update(extra=torch.zeros(1))), 'unexpected key extra;'),
        (lambda f: rewrite(f, lambda t: t.update({'model.merge.bias': torch.zeros(65)})), r'merge.bias is \(65,\)'),
        (lambda f: rewrite(f, lambda t: t.update({'logit_bias': torch.zeros(1, dtype=torch.int8)})), 'of type I8'),
        (lambda f: configure(f, use_global_caption=False), 'unexpected key logit_image_bias and 1 more'),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(folder: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message):
        load_objembed(folder, tokens=TOKENS)


def test_a_file_or_nothing_is_no_folder(folder: Path) -> None:
    for wrong in (folder / WEIGHTS, folder / 'nowhere'):
        with pytest.raises(UserError, match='is no folder'):
            load_objembed(wrong, tokens=TOKENS)


@pytest.mark.parametrize(
    'tokens', [SpecialTokens(7, 8, 9, 300), SpecialTokens(7, 7, 9, 10), SpecialTokens(5, 8, 9, 10)]
)
def test_tokens_of_another_tokenizer(folder: Path, tokens: SpecialTokens) -> None:
    with pytest.raises(UserError, match='tokenizer of this checkpoint'):
        load_objembed(folder, tokens=tokens)


def test_too_little_memory_is_said_before_reading(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the amount: 0.6 M numbers of four bytes, and for a frame 450 kB per unit of width."""
    monkeypatch.setattr(checkpoint, 'free_bytes', lambda _: 20_000_000)
    monkeypatch.setattr(checkpoint, '_read', None)
    with pytest.raises(UserError, match=r'needs 0.03 GB of memory in float32, 0.00 of them weights; 0.02 GB are free'):
        load_objembed(folder, tokens=TOKENS)
    monkeypatch.setattr(checkpoint, 'free_bytes', lambda _: None)  # not known: try
    with pytest.raises(TypeError):
        load_objembed(folder, tokens=TOKENS)


def test_memory_of_the_machine_and_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, '_MEMINFO', tmp_path / 'meminfo')
    monkeypatch.setattr(memory, '_CGROUP', tmp_path)
    cpu = torch.device('cpu')
    assert memory.free_bytes(cpu) is None
    (tmp_path / 'meminfo').write_text('MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    8000 kB\n')
    assert memory.free_bytes(cpu) == 8000 * 1024
    files = {'max': '5000000', 'current': '3000000', 'stat': 'anon 7\ninactive_file 1000000\n'}
    for name, text in files.items():
        (tmp_path / f'memory.{name}').write_text(text)
    assert memory.free_bytes(cpu) == 3_000_000
    (tmp_path / 'memory.max').write_text('max\n')
    assert memory.free_bytes(cpu) == 8000 * 1024
