# SPDX-License-Identifier: Apache-2.0
"""ObjEmbed against the authors' numbers, and the tool that compares any folder of such numbers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('transformers')

from safetensors.torch import load_file, save_file  # noqa: E402

from embedder_ros import cli  # noqa: E402
from embedder_ros.evaluation.parity import TOLERANCE, Report, check  # noqa: E402
from embedder_ros.models.objembed.checkpoint import load_objembed  # noqa: E402
from embedder_ros.models.objembed.config import ObjEmbedConfig, SpecialTokens  # noqa: E402
from embedder_ros.models.objembed.network import ObjEmbed  # noqa: E402

torch.set_num_threads(1)

FIXTURE = Path(__file__).parent / 'data' / 'objembed_tiny'
OUTPUTS = 'object_embeddings', 'iou_logits', 'global_embeddings'


@pytest.fixture(scope='module')
def report() -> Report:
    return check(FIXTURE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the fixture."""
    shutil.copytree(FIXTURE, tmp_path / 'numbers', copy_function=shutil.copyfile)
    return tmp_path / 'numbers'


def change(path: Path, how: Callable[[dict], object]) -> None:
    tensors = load_file(path)
    how(tensors)
    save_file(tensors, path)


def test_every_number_of_the_authors_is_compared_and_agrees(report: Report) -> None:
    """Nothing in the fixture's files is left out, and what is compared is a tenth of the tolerance apart at most."""
    files = {name: load_file(FIXTURE / f'{name}.safetensors').keys() for name in ('expected', 'losses', 'preprocess')}
    given = {'labels', 'masks', 'iou_targets', 'text_ids', 'image_rgb', 'row_index'}
    wanted = {key for keys in files.values() for key in keys if key.rstrip('0123456789') not in given}
    assert {d.output for d in report.differences} == wanted and len(wanted) == 28 and not report.left_out
    for difference in report.differences:
        assert difference.agrees and difference.largest < TOLERANCE / 10, difference
        assert difference.relative == ('loss' in difference.output or 'grad_norm' in difference.output)


def test_command_prints_the_largest_differences(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(['parity', str(FIXTURE), '--salt', 'b']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == '28 outputs compared, 0 beyond the tolerance'
    assert all(' ok' in line and 'e-' in line or '0.00e+00' in line for line in lines[:-1])


@pytest.mark.parametrize(
    'output', ['batch.object_embeddings', 'image1.iou_logits', 'image0.scores', 'image0.global_scores']
)
def test_one_wrong_number_is_found(folder: Path, output: str, capsys: pytest.CaptureFixture[str]) -> None:
    change(folder / 'expected.safetensors', lambda t: t[output].view(-1)[3 % t[output].numel()].add_(3e-4))
    with pytest.raises(SystemExit) as error:
        cli.main(['parity', str(folder)])
    out = capsys.readouterr().out
    assert error.value.code == 1 and out.count('BEYOND') == 1
    (line,) = [line for line in out.splitlines() if 'BEYOND' in line]
    assert line.startswith(output) and float(line.split()[1]) == pytest.approx(3e-4, rel=0.02)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_what_is_no_number_does_not_agree(folder: Path, value: float) -> None:
    change(folder / 'expected.safetensors', lambda t: t['image0.scores'].view(-1)[0].fill_(value))
    assert [d.output for d in check(folder).differences if not d.agrees] == ['image0.scores']


def test_other_shapes_do_not_agree(folder: Path) -> None:
    change(folder / 'expected.safetensors', lambda t: t.update({'image1.iou_logits': torch.zeros(4, 1)}))
    (beyond,) = [d for d in check(folder).differences if not d.agrees]
    assert beyond.output == 'image1.iou_logits' and beyond.note == 'shape (3, 1), expected (4, 1)'


def test_axes_of_one_may_be_left_out(folder: Path) -> None:
    change(folder / 'expected.safetensors', lambda t: [t.update({k: v.squeeze()}) for k, v in t.items() if 'iou' in k])
    assert all(d.agrees for d in check(folder).differences)


def test_wrong_weights_are_found_in_losses_and_gradients(folder: Path) -> None:
    change(folder / 'model.safetensors', lambda t: t['model.merge.weight'].mul_(1.01))
    beyond = {d.output for d in check(folder).differences if not d.agrees}
    assert {
        'image0.object_embeddings',
        'batch.global_embeddings',
        'region_loss',
        'grad_norm.model.merge.weight',
    } <= beyond
    assert not {'local_text_embeddings', 'pixel_rows'} & beyond


def test_optional_files_may_be_missing(folder: Path) -> None:
    for name in ('losses', 'preprocess'):
        (folder / f'{name}.safetensors').unlink()
    change(folder / 'expected.safetensors', lambda t: [t.pop(key) for key in list(t) if not key.startswith('image')])
    change(folder / 'expected.safetensors', lambda t: t.update(unheard_of=torch.zeros(1)))
    report = check(folder)
    assert len(report.differences) == 8 and all(d.agrees for d in report.differences)
    assert report.left_out == ['unheard_of']


def nothing_expected(folder: Path) -> None:
    for name in ('losses', 'preprocess'):
        (folder / f'{name}.safetensors').unlink()
    save_file({'unheard_of': torch.zeros(1)}, folder / 'expected.safetensors')


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda f: shutil.rmtree(f), 'holds neither config.json nor checkpoint_shapes.json'),
        (lambda f: (f / 'inputs.safetensors').unlink(), 'inputs.safetensors is missing'),
        (lambda f: (f / 'expected.safetensors').unlink(), 'expected.safetensors is missing'),
        (lambda f: (f / 'expected.safetensors').write_bytes(b'none'), 'cannot be read'),
        (lambda f: (f / 'model.safetensors').unlink(), 'model.safetensors is missing'),
        (lambda f: change(f / 'inputs.safetensors', lambda t: t.pop('boxes1')), "KeyError: 'boxes1'"),
        (lambda f: change(f / 'inputs.safetensors', lambda t: t['boxes1'].resize_(2, 4)), '<object> tokens'),
        (nothing_expected, 'expects no output of this model'),
    ],
)
def test_a_users_mistake_is_one_line(
    folder: Path, damage: Callable[[Path], object], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(folder)
    assert cli.main(['parity', str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith('embedder-ros: ') and error.count('\n') == 1


def numbers(folder: Path, network: ObjEmbed, counts: list[int], reads: int) -> None:
    """A folder of another network's own numbers, which one frame at a time gives."""
    draw, hidden = torch.Generator().manual_seed(1), network.config.hidden
    grids = [(4 + 2 * i, 8) for i in range(len(counts))]
    rows = []
    for count, (h, w) in zip(counts, grids, strict=True):
        objects = [t for j in range(count) for t in (50, 60 + j, 7, 7)]
        rows.append([1, 3, *[5] * (h * w // 4), 4, *[8] * (reads > 1), *objects, 42, *[8] * (reads > 0), 2])
    length = max(map(len, rows))
    lengths = torch.tensor([len(row) for row in rows])
    inputs = {
        'input_ids': torch.tensor([row + [0] * (length - len(row)) for row in rows]),
        'attention_mask': (torch.arange(length) < lengths[:, None]).long(),
        'lengths': lengths,
        'image_grid_thw': torch.tensor([[1, *grid] for grid in grids]),
        'image_sizes_wh': torch.tensor([[300, 200]] * len(counts)),
        'local_text_ids': torch.tensor([[1, 70, 9, 2, 0], [1, 71, 72, 9, 2]]),
    }
    for i, (count, (h, w)) in enumerate(zip(counts, grids, strict=True)):
        inputs[f'pixel_values{i}'] = torch.randn(h * w, 1536, generator=draw)
        inputs[f'boxes{i}'] = (torch.rand(count, 2, 2, generator=draw).sort(1).values * 200).flatten(1)
    expected = {}
    with torch.inference_mode():
        for i, row in enumerate(rows):
            ids = torch.tensor([row])
            out = network(
                ids, torch.ones_like(ids), inputs[f'pixel_values{i}'], inputs['image_grid_thw'][[i]],
                [inputs[f'boxes{i}']], inputs['image_sizes_wh'][[i]],
            )  # fmt: skip
            expected |= {f'image{i}.{name}': getattr(out, name).clone() for name in OUTPUTS}
    assert expected['image0.global_embeddings'].shape == (1, reads, hidden)
    save_file(inputs, folder / 'inputs.safetensors')
    save_file(expected, folder / 'expected.safetensors')
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / 'model.safetensors')


@pytest.mark.parametrize(
    ('flags', 'reads', 'hidden', 'counts'),
    [
        ({'use_two_tokens': 0}, 1, 64, [3]),
        ({'use_two_tokens': 1}, 2, 32, [2, 0, 4]),
        ({'use_global_caption': False}, 0, 96, [1, 5]),
    ],
)
def test_folders_of_other_sizes_and_flags(
    tmp_path: Path, flags: dict[str, object], reads: int, hidden: int, counts: list[int]
) -> None:
    """One to three frames, without boxes too; files and outputs that such a network does not have are absent."""
    values = json.loads((FIXTURE / 'config.json').read_text()) | flags
    values['text_config']['hidden_size'] = values['vision_config']['out_hidden_size'] = hidden
    (tmp_path / 'config.json').write_text(json.dumps(values))
    ids = SpecialTokens(7, 8, 9, 10)
    torch.manual_seed(2)
    network = ObjEmbed(
        ObjEmbedConfig.from_dict(values), object_token_id=7, global_token_id=8, local_text_token_id=9,
        global_text_token_id=10,
    ).eval()  # fmt: skip
    numbers(tmp_path, network, counts, reads)
    report = check(tmp_path)
    assert len(report.differences) == 3 * len(counts) and not report.left_out
    assert all(d.agrees for d in report.differences), report.differences
    assert load_objembed(tmp_path, tokens=ids).config.use_two_tokens == values['use_two_tokens']
