# SPDX-License-Identifier: Apache-2.0
"""Fine-tuning a tiny random checkpoint: it learns, what comes out loads strictly, and a stopped run loses nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import labelledblocks
import numpy as np
import pytest

pytest.importorskip('torch')
pytest.importorskip('transformers')
pytest.importorskip('peft')

import tinyobjembed  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from embedder_ros import cli  # noqa: E402
from embedder_ros.bags.source import read_photo  # noqa: E402
from embedder_ros.models import objembed  # noqa: E402
from embedder_ros.models.objembed.config import ObjEmbedConfig  # noqa: E402
from embedder_ros.training.objembed import adapters, optimiser  # noqa: E402
from embedder_ros.training.objembed.batch import DataSet, Task  # noqa: E402
from embedder_ros.training.objembed.data import Vocabulary, read_proposals, read_records  # noqa: E402
from embedder_ros.training.objembed.finetune import REPORT, STATE, Run, Settings  # noqa: E402
from embedder_ros.types import Boxes, Frame, UserError  # noqa: E402

LEAST, MOST = 12, 20  # image tokens
QUICK = Settings(
    steps=6, accumulate=2, lr=1e-3, lora_rank=4, precision='fp32', save_every=2, min_tokens=LEAST, max_tokens=MOST
)


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tinyobjembed.write(tmp_path_factory.mktemp('checkpoint'))


@pytest.fixture(scope='module')
def blocks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return labelledblocks.write(tmp_path_factory.mktemp('data') / 'blocks')


@pytest.fixture
def source(blocks: Path) -> DataSet:
    records = read_records(blocks / 'data.json')
    return DataSet(records, blocks / 'images', read_proposals(blocks / 'proposals.json'), Vocabulary.of(records))


def trained(
    checkpoint: Path, sets: Sequence[DataSet], output: Path, settings: Settings = QUICK, **options: object
) -> Run:
    run = Run(checkpoint, sets, output, settings, device='cpu', **options)
    run.train()
    return run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / 'model.safetensors')


def mean(run: Run, name: str, part: slice) -> float:
    return float(np.mean([h[name] for h in run.history[part]]))


@pytest.mark.parametrize(
    'settings',
    [
        replace(QUICK, steps=30, accumulate=1, lr=3e-3),
        replace(QUICK, steps=20, accumulate=1, lora_rank=0, added=True, checkpointing=True),
    ],
    ids=['LoRA', 'all weights'],
)
def test_losses_fall_and_the_result_loads_strictly(
    checkpoint: Path, source: DataSet, tmp_path: Path, settings: Settings
) -> None:
    run = trained(checkpoint, [source], tmp_path / 'out', settings)
    assert mean(run, 'total', slice(-5, None)) < 0.5 * mean(run, 'total', slice(0, 3))
    assert mean(run, 'region', slice(-5, None)) < 0.7 * mean(run, 'region', slice(0, 3))
    run.finish()
    embedder = objembed.load(tmp_path / 'out', device='cpu', precision='fp32', min_tokens=LEAST, max_tokens=MOST)
    assert embedder.info.model_id != objembed.load(checkpoint, device='cpu').info.model_id
    ids, mask = torch.tensor([[5, 6, 7, embedder.network.text_token_ids[0], 9]]), torch.ones(1, 5, dtype=torch.int64)
    with torch.no_grad():
        torch.testing.assert_close(embedder.network.embed_text(ids, mask), run._network.embed_text(ids, mask))
    report = json.loads((tmp_path / 'out' / REPORT).read_text())
    assert len(report['losses']) == settings.steps and set(report['losses'][0]) >= {'region', 'image', 'iou', 'total'}
    assert not (tmp_path / 'out' / STATE).exists()
    assert 'region' in run.summary() and '->' in run.summary()


def test_a_trained_model_tells_the_blocks_apart(checkpoint: Path, source: DataSet, tmp_path: Path) -> None:
    """On the images it was trained on, whole frames through the embedder."""
    settings = replace(QUICK, steps=40, accumulate=1, lr=2e-3, lora_rank=8, added=True)
    trained(checkpoint, [source], tmp_path / 'out', settings).finish()
    embedder = objembed.load(tmp_path / 'out', device='cpu', precision='fp32', min_tokens=LEAST, max_tokens=MOST)
    texts = embedder.embed_text(list(labelledblocks.COLOURS))
    right = total = 0
    for record in source.records:
        frame = Frame(read_photo(source.images / record.image), 0, '')
        boxes = Boxes(record.boxes, np.ones(len(record.boxes), np.float32))
        seen = embedder.embed([frame], embedder.encode([frame]), [boxes])[0]
        named = [list(labelledblocks.COLOURS)[column] for column in (seen.embeddings @ texts.T).argmax(axis=1)]
        right += sum(a == b for a, b in zip(named, record.labels, strict=True))
        total += len(named)
    assert right >= 0.75 * total, f'{right} of {total}'


def test_a_resumed_run_is_the_uninterrupted_one(checkpoint: Path, source: DataSet, tmp_path: Path) -> None:
    whole = trained(checkpoint, [source], tmp_path / 'whole')
    whole.finish()
    Run(checkpoint, [source], tmp_path / 'parts', QUICK, device='cpu').train(until=3)
    assert (tmp_path / 'parts' / STATE).exists() and not (tmp_path / 'parts' / 'config.json').exists()
    second = Run(checkpoint, [source], tmp_path / 'parts', QUICK, device='cpu', resume=True)
    assert len(second.history) == 3
    second.train()
    second.finish()
    assert second.history == whole.history
    first, again = weights(tmp_path / 'whole'), weights(tmp_path / 'parts')
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_seeds_decide_the_losses(checkpoint: Path, source: DataSet, tmp_path: Path) -> None:
    settings = replace(QUICK, steps=3)
    runs = [
        trained(checkpoint, [source], tmp_path / str(number), replace(settings, seed=seed))
        for number, seed in enumerate((1, 1, 2))
    ]
    assert runs[0].history == runs[1].history != runs[2].history


def test_only_what_was_trained_changes(checkpoint: Path, source: DataSet, tmp_path: Path) -> None:
    before = weights(checkpoint)
    for added in (False, True):
        trained(checkpoint, [source], tmp_path / str(added), replace(QUICK, added=added)).finish()
        after = weights(tmp_path / str(added))
        assert after.keys() == before.keys()
        assert all(after[key].dtype == before[key].dtype for key in before)
        changed = {key for key in before if not torch.equal(before[key], after[key])}
        own = {key for key in changed if not key.startswith('model.language_model.')}
        assert len(changed - own) == 4 * 7, 'seven projections of every layer'
        assert bool(own) == added and not any('visual' in key for key in own)


def test_every_configuration_trains(source: DataSet, tmp_path: Path) -> None:
    flags = [{'use_two_tokens': 1}, {'use_two_tokens': 0, 'use_two_captions': False}]
    for number, flag in enumerate(flags):
        checkpoint = tinyobjembed.write(tmp_path / f'checkpoint{number}', **flag)
        run = trained(checkpoint, [source], tmp_path / f'out{number}', replace(QUICK, steps=2))
        assert all(h['image'] > 0 and math.isfinite(h['total']) for h in run.history)
        assert run.history[1]['total'] == pytest.approx(
            sum(run.history[1][n] * w for n, w in (('region', 1), ('image', 0.5), ('iou', 1))), rel=1e-5
        )
    checkpoint = tinyobjembed.write(tmp_path / 'plain', use_global_caption=False, use_two_tokens=0)
    run = trained(checkpoint, [source], tmp_path / 'out', replace(QUICK, steps=2, added=True))
    assert all(h['image'] == 0 and h['region'] > 0 for h in run.history)


def test_people_and_several_data_sets(checkpoint: Path, source: DataSet, tmp_path: Path) -> None:
    sets = [source, replace(source, records=source.records[:3], task=Task.HUMANREF)]
    run = trained(checkpoint, sets, tmp_path / 'out', replace(QUICK, steps=3))
    assert all(math.isfinite(h['total']) for h in run.history)


def test_bfloat16_keeps_float32_weights(source: DataSet, tmp_path: Path) -> None:
    folder = tinyobjembed.write(tmp_path / 'checkpoint')
    state = {key: value.to(torch.bfloat16) for key, value in weights(folder).items()}
    save_file(state, folder / 'model.safetensors')
    settings = replace(QUICK, precision='bf16', added=True, steps=4, lr=1e-3)
    run = trained(folder, [source], tmp_path / 'out', settings)
    assert {w.dtype for w in run._trainer.weights.values()} == {torch.float32}
    assert run._network.dtype == torch.bfloat16
    run.finish()
    after = weights(tmp_path / 'out')
    assert after['model.merge.weight'].dtype == torch.bfloat16
    assert after['logit_bias'].dtype == torch.float32, 'bfloat16 would round it'
    objembed.load(tmp_path / 'out', device='cpu')


def test_a_sharded_checkpoint_stays_sharded(source: DataSet, tmp_path: Path) -> None:
    folder = tinyobjembed.write(tmp_path / 'checkpoint')
    state = weights(folder)
    names = {key: f'model-0000{1 + number % 2}-of-00002.safetensors' for number, key in enumerate(sorted(state))}
    for name in set(names.values()):
        save_file({k: v for k, v in state.items() if names[k] == name}, folder / name)
    (folder / 'model.safetensors').unlink()
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': names}))
    trained(folder, [source], tmp_path / 'out', replace(QUICK, steps=2)).finish()
    assert not (tmp_path / 'out' / 'model.safetensors').exists()
    objembed.load(tmp_path / 'out', device='cpu')


def test_output_folders_are_not_mixed_up(checkpoint: Path, source: DataSet, tmp_path: Path) -> None:
    out = tmp_path / 'out'

    def begin(output: Path = out, settings: Settings = QUICK, **options: bool) -> Run:
        return Run(checkpoint, [source], output, settings, device='cpu', **options)

    with pytest.raises(UserError, match='holds no run'):
        begin(resume=True)
    with pytest.raises(UserError, match='the checkpoint itself'):
        begin(checkpoint)
    begin().train(until=2)
    with pytest.raises(UserError, match='continue it with --resume'):
        begin()
    with pytest.raises(UserError, match='begun with another lr: 0.001'):
        begin(settings=replace(QUICK, lr=2e-3), resume=True)
    other = replace(source, proposals={name: boxes + 1 for name, boxes in source.proposals.items()})
    with pytest.raises(UserError, match='another data'):
        Run(checkpoint, [other], out, QUICK, device='cpu', resume=True)
    begin(settings=replace(QUICK, save_every=1), resume=True).finish()
    with pytest.raises(UserError, match='already holds a model'):
        begin()
    with pytest.raises(UserError, match='is finished'):
        begin(resume=True)
    damaged = tmp_path / 'damaged'
    damaged.mkdir()
    (damaged / STATE).write_bytes(b'no state')
    with pytest.raises(UserError, match='cannot be read'):
        begin(damaged, resume=True)


@pytest.mark.parametrize('error', [torch.OutOfMemoryError('CUDA out of memory'), MemoryError()])
def test_too_little_memory_is_told_and_the_saved_state_stays(
    checkpoint: Path, source: DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run = Run(checkpoint, [source], tmp_path / 'out', QUICK, device='cpu')
    run.train(until=2)

    def fail(batch: object) -> None:
        raise error

    monkeypatch.setattr(run._passes, 'losses', fail)
    with pytest.raises(UserError, match='--batch-size'):
        run.train()
    assert len(Run(checkpoint, [source], tmp_path / 'out', QUICK, device='cpu', resume=True).history) == 2


def test_a_loss_that_is_no_number_stops_the_run(checkpoint: Path, source: DataSet, tmp_path: Path) -> None:
    run = Run(checkpoint, [source], tmp_path / 'out', QUICK, device='cpu')
    with torch.no_grad():
        run._network.logit_bias.fill_(math.nan)
    with pytest.raises(UserError, match='not a number'):
        run.train()
    assert not (tmp_path / 'out' / STATE).exists()


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_a_gradient_that_is_no_number_moves_no_weight(
    checkpoint: Path, source: DataSet, tmp_path: Path, value: float
) -> None:
    run = Run(checkpoint, [source], tmp_path / 'out', replace(QUICK, save_every=1), device='cpu')
    run.train(until=2)
    parameter = next(iter(run._trainer.weights.values()))
    before = {name: weight.detach().clone() for name, weight in run._trainer.weights.items()}
    parameter.register_hook(lambda gradient: torch.full_like(gradient, value))  # of a loss that is finite
    with pytest.raises(UserError, match='not a number'):
        run.train()
    torch.testing.assert_close(dict(run._trainer.weights), before, rtol=0, atol=0)
    again = Run(checkpoint, [source], tmp_path / 'out', replace(QUICK, save_every=1), device='cpu', resume=True)
    assert len(again.history) == 2 and all(w.isfinite().all() for w in again._trainer.weights.values())


def test_a_full_disk_leaves_the_state_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters.save_state(tmp_path / STATE, {'step': 1})

    def full(state: object, path: Path) -> None:
        path.write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(UserError, match='make room'):
        adapters.save_state(tmp_path / STATE, {'step': 2})
    assert torch.load(tmp_path / STATE, weights_only=True) == {'step': 1}
    assert [path.name for path in tmp_path.iterdir()] == [STATE], 'half a file would fill the disk further'


def test_groups_by_name() -> None:
    names = {
        'model.visual.merger.weight': 0.1,
        'logit_log_scale': 10,
        'logit_image_bias': 10,
        'logit_iou_proj.0.weight': 10,
        'logit_pos_embedding.weight': 10,
        'model.object_vision_projector.0.weight': 1,
        'model.language_model.layers.0.mlp.up_proj.weight': 1,
    }
    assert {name: optimiser.share_of(name) for name in names} == names
    parameters = [(name, torch.nn.Parameter(torch.zeros(2))) for name in names]
    parameters[0][1].requires_grad_(False)
    trainer = optimiser.Trainer(parameters, lr=2.0, steps=100)
    groups = [(g['initial_lr'], len(g['params'])) for g in trainer._optimiser.param_groups]
    assert groups == [(20.0, 4), (2.0, 2)] and trainer._optimiser.param_groups[0]['weight_decay'] == 0


def test_learning_rate_rises_and_falls() -> None:
    rates = [optimiser.rate(step, 200) for step in range(201)]
    assert rates[0] == 0 and rates[5] == 0.5 and rates[10] == 1 and rates[105] == 0.5 and rates[200] == 0
    assert optimiser.rate(0, 1) == 0 and optimiser.rate(1, 2) == 1


def test_gradients_are_cut_and_small_steps_are_not_lost() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    trainer = optimiser.Trainer([('a', parameter)], lr=1e-3, steps=1000)
    for _ in range(60):
        (parameter.float() * 100).sum().backward()
        trainer.collect()
        assert trainer.cut() == pytest.approx(200)
        trainer.step()
    assert (trainer.weights['a'] < 0.999).all() and parameter.grad is None
    torch.testing.assert_close(parameter.data, trainer.weights['a'].to(torch.bfloat16))


@pytest.mark.parametrize(('rank', 'added'), [(4, False), (4, True), (0, False), (0, True)])
def test_what_learns(checkpoint: Path, rank: int, added: bool) -> None:
    network = objembed.load(checkpoint, device='cpu').network
    adapters.prepare(network, rank=rank, added=added, seed=0)
    learns = {name for name, p in network.named_parameters() if p.requires_grad}
    assert not any('visual' in name for name in learns)
    assert any('lora_' in name for name in learns) == bool(rank)
    assert ('model.merge.weight' in learns) == ('logit_bias' in learns) == added
    assert ('model.language_model.embed_tokens.weight' in learns) == (rank == 0)


def run_cli(*arguments: object) -> int:
    return cli.main(['finetune', *map(str, arguments)])


def test_command_line(checkpoint: Path, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / 'out'
    common = [checkpoint, blocks / 'data.json', '--images', blocks / 'images', '--output', out, '--device', 'cpu']
    quick = ['--steps', 2, '--accumulate', 1, '--min-tokens', LEAST, '--max-tokens', MOST]
    assert run_cli(*common, *quick, '--proposals', blocks / 'proposals.json') == 0
    assert 'region' in capsys.readouterr().out
    assert ObjEmbedConfig.from_folder(out).use_two_tokens == 2
    assert run_cli(*common, *quick, '--proposals', blocks / 'proposals.json') == 2
    assert 'already holds a model' in capsys.readouterr().err


def test_boxes_of_nano_are_made_once(checkpoint: Path, blocks: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    common = [checkpoint, blocks / 'data.json', '--images', blocks / 'images', '--output', out, '--device', 'cpu']
    assert run_cli(*common, '--steps', 1, '--accumulate', 1, '--max-tokens', MOST, '--min-tokens', LEAST) == 0
    boxes = read_proposals(out / 'proposals.json')
    assert len(boxes) == 6 and all(0 < len(b) <= 100 for b in boxes.values())


@pytest.mark.parametrize(
    ('change', 'says'),
    [
        (('--lr', -1), 'cannot be negative'),
        (('--min-tokens', 30), 'at most max_tokens'),
        (('--images', '/nowhere'), 'is missing; correct the record'),
        (('--batch-size', 9), 'lower --batch-size'),
        (('--proposals', 'none.json'), 'cannot be read'),
    ],
)
def test_command_line_mistakes(
    checkpoint: Path, blocks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple, says: str
) -> None:
    common = [checkpoint, blocks / 'data.json', '--images', blocks / 'images', '--output', tmp_path / 'out']
    quick = ['--max-tokens', MOST, '--min-tokens', LEAST, '--proposals', blocks / 'proposals.json']
    assert run_cli(*common, *quick, *change) == 2
    assert says in capsys.readouterr().err


def test_data_without_labels_is_told(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / 'd.json').write_text(json.dumps([{'image': 'a.png'}]))
    assert run_cli(checkpoint, tmp_path / 'd.json', '--images', tmp_path, '--output', tmp_path / 'out') == 2
    assert 'labels no object' in capsys.readouterr().err
