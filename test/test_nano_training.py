# SPDX-License-Identifier: Apache-2.0
"""The recipe that makes nano's weights, on four drawn frames: extract, train two steps, export, load, and torch agrees.

Needs torch and onnx.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip('torch')
pytest.importorskip('onnx')

from embedder_ros.models.nano import WEIGHTS  # noqa: E402
from embedder_ros.models.nano.colour import COLOURS, PALETTE  # noqa: E402
from embedder_ros.models.nano.image import CROP, ImageEncoder  # noqa: E402
from embedder_ros.models.nano.layout import IDENTITY, MEANING, ONE  # noqa: E402
from embedder_ros.models.nano.proposer import MAPS, REFINED_MAPS, NanoProposer  # noqa: E402
from embedder_ros.models.registry import load_model  # noqa: E402
from embedder_ros.pipeline import Pipeline  # noqa: E402
from embedder_ros.training import (  # noqa: E402
    export,
    export_boxes,
    extract,
    localise,
    loop,
    photos,
    restore,
    train,
    train_identity,
    train_proposals,
    train_refiner,
)
from embedder_ros.training.network import (  # noqa: E402
    CONSTANT,
    KEPT,
    SHADES,
    Crops,
    Head,
    Proposals,
    Refiner,
    settle,
    shades,
)  # fmt: skip
from embedder_ros.training.photos import Sample, Single, Thing, alone, altered, mosaics, recoloured  # noqa: E402
from embedder_ros.training.phrases import Asked, Bank, truth  # noqa: E402
from embedder_ros.types import Frame, UserError, box_iou  # noqa: E402

FROZEN = ('backbone.onnx', 'detector.onnx', 'regions.onnx', 'vocab.txt')


def drawn(number: int) -> Sample:
    """Two coloured blocks that swap places between views of one group."""
    image = np.full((480, 640, 3), 120, np.uint8)
    things = []
    for index, colour in enumerate(COLOURS[2 * (number // 2) :][:2]):
        x, y = 80 + 260 * ((index + number) % 2), 150
        image[y : y + 140, x : x + 160] = PALETTE[colour][0]
        box = np.array([x, y, x + 160, y + 140], np.float32)
        things.append(Thing(box, ('block', 'cube'), (colour,), f'{number // 2}/{colour}'))
    return Sample(f'drawn{number}', image, things, group=f'group{number // 2}')


@pytest.fixture(scope='module')
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('data')
    encoder = ImageEncoder(WEIGHTS, device='cpu', threads=2)
    for number in range(4):
        extract.keep(drawn(number), encoder, None, folder, coco=[], maps=True)
    return folder


@pytest.fixture(scope='module')
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames of bars, 10 to 30 pixels thick."""
    folder, rng = tmp_path_factory.mktemp('bars'), np.random.default_rng(0)
    encoder = ImageEncoder(WEIGHTS, device='cpu', threads=2)
    for number in range(4):
        image, things = np.full((480, 640, 3), 120, np.uint8), []
        for place in range(12):
            low = np.array([40 + 150 * (place % 4), 40 + 150 * (place // 4)]) + rng.integers(0, 20, 2)
            high = low + rng.permutation([rng.integers(10, 30), rng.integers(40, 90)])
            image[low[1] : high[1], low[0] : high[0]] = rng.integers(0, 255, 3)
            things.append(Thing(np.array([*low, *high], np.float32), ('bar',)))
        extract.keep(Sample(f'bars{number}', image, things, group='bars'), encoder, None, folder, coco=[], maps=True)
    return folder


@pytest.fixture(scope='module')
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    classes = [(f'class {n}',) for n in range(1080)]
    return Bank(WEIGHTS / 'vocab.txt', classes, tmp_path_factory.mktemp('bank') / 'phrases.npz')


@pytest.fixture(scope='module')
def trained(data: Path, bank: Bank) -> tuple[object, object, list[train.Example]]:
    torch.manual_seed(0)
    examples = [train.load(path) for path in sorted(data.glob('*.json'))]
    return *train.fit(examples, bank, 2), examples


def test_a_phrase_is_true_of_what_it_names(bank: Bank) -> None:
    thing = {'names': ['mug', 'cup'], 'colours': ['red'], 'owned': []}
    asked = [Asked('', 'mug'), Asked('red', 'cup'), Asked('blue', 'mug'), Asked('', 'banana'), Asked('red', 'object')]
    right, worth = truth(asked, thing, bank)
    assert right.tolist() == [1, 1, 0, 0, 1]
    assert worth.all()
    unlabelled = truth(asked, thing | {'colours': []}, bank)[1]
    assert unlabelled.tolist() == [1, 0, 0, 1, 0]


def test_a_part_is_told_from_the_same_part_of_another_thing(bank: Bank) -> None:
    handle = {'names': ['handle'], 'colours': [], 'owned': ['drawer handle', 'cabinet handle']}
    asked = [Asked('', 'handle'), Asked('', 'drawer handle', owned=True), Asked('', 'door handle', owned=True)]
    right, worth = truth(asked, handle, bank)
    assert right.tolist() == [1, 1, 0] and worth.all(), 'the handle of a door is not one of a drawer'


def test_a_whole_image_shows_what_any_thing_in_it_is_called() -> None:
    handle = {'names': ['handle'], 'colours': ['red'], 'owned': ['drawer handle']}
    frame = train.Example({}, np.zeros(0), np.zeros(0), 1, [handle], complete=True, group='')
    asked = [
        Asked('', 'handle'),
        Asked('red', 'handle'),
        Asked('', 'drawer handle', owned=True),
        Asked('blue', 'handle'),
    ]
    right = torch.tensor([[4.0, 4.0, 4.0, -4.0]])
    assert train.image_loss(right, asked, [frame]) < 0.1
    for column in range(len(asked)):
        wrong = right.clone()
        wrong[0, column] *= -1
        assert train.image_loss(wrong, asked, [frame]) > 0.9, asked[column]


def test_a_name_is_trusted_for_its_things_and_not_for_their_copies() -> None:
    def frames(name: str, instances: list[str]) -> list[train.Example]:
        things = [{'names': [name], 'colours': [], 'owned': [f'pot {name}'], 'instance': i} for i in instances]
        return [train.Example({}, np.zeros(0), np.zeros(0), 1, [thing], complete=True, group='') for thing in things]

    many = [str(number) for number in range(train.OFTEN)]
    shown = frames('lid', many) + frames('papillon', many[:3] * train.OFTEN) + frames('fridge', [''] * train.OFTEN)
    assert train.often(shown) == ['fridge', 'lid', 'pot fridge', 'pot lid']


def test_a_recoloured_frame_keeps_its_boxes_and_no_colour() -> None:
    hues = set()
    for number in range(4):
        sample = drawn(number)
        other = next(recoloured([sample]))
        for thing in other.things:
            x0, y0, x1, y1 = thing.box.astype(int)
            inside, around = other.image[y0 + 5 : y1 - 5, x0 + 5 : x1 - 5], other.image[y0 - 20 : y0 - 5, x0:x1]
            assert np.abs(inside.mean((0, 1)) - around.mean((0, 1))).max() > 25, 'the block is in its box'
            assert thing.colours == () and thing.names == ('block', 'cube')
            hues.add(int(inside.mean((0, 1)).argmax()))
        assert {t.instance for t in other.things} == {t.instance for t in sample.things}
    assert len(hues) > 1


def test_a_window_shows_what_its_frame_shows_there(data: Path) -> None:
    frame = train_proposals.load(min(data.glob('*.json')))
    thin = np.array([[500.0, 300, 540, 308]], np.float32)
    frame = dataclasses.replace(frame, boxes=np.concatenate([frame.boxes, thin]))
    rng, around, places = np.random.default_rng(0), 0, set()
    for _ in range(40):
        part = train_proposals.window(frame, rng)
        x, y = (frame.boxes - part.boxes)[0, :2].astype(int)
        width, height = train_proposals.WINDOW
        assert np.array_equal(part.image, frame.image[y : y + height, x : x + width])
        for cut, whole, stride in zip(part.maps, frame.maps, train_proposals.STRIDES, strict=True):
            assert cut.shape[-2:] == (height // stride, width // stride)
            assert np.array_equal(cut, whole[..., y // stride :, x // stride :][..., : cut.shape[2], : cut.shape[3]])
        around += (part.boxes[-1] >= 0).all() and (part.boxes[-1, 2:] <= [width, height]).all()
        places.add((x, y))
    assert around >= 25 and len(places) > 8


def test_an_altered_photo_keeps_its_thing_in_its_box() -> None:
    image = np.zeros((480, 640, 3), np.uint8)
    image[100:200, 300:420] = 200
    photo = Sample('photo', image, [Thing(np.array([300, 100, 420, 200], np.float32), ('mug',))], complete=False)
    mirrored = set()
    for number in range(12):
        other = altered(photo, f'photo_{number}')
        box = other.things[0].box
        x0, y0, x1, y1 = box.round().astype(int)
        assert other.image[y0:y1, x0:x1].min() > 0 and (other.image > 0).any(2).sum() == (x1 - x0) * (y1 - y0)
        assert (box[2:] - box[:2]).tolist() == [120, 100] and other.things[0].names == ('mug',)
        mirrored.add(other.image.shape)
    assert len(mirrored) > 6, 'all cut the same'
    assert photo.things[0].box.tolist() == [300, 100, 420, 200]


@pytest.fixture(scope='module')
def single(tmp_path_factory: pytest.TempPathFactory) -> Single:
    """A photo of a green block, right of the middle."""
    image = np.zeros((200, 300, 3), np.uint8)
    image[40:120, 180:270, 1] = 200
    path = tmp_path_factory.mktemp('photos') / 'block.png'
    cv2.imwrite(str(path), image)
    return Single(path, ('block',), (0.6, 0.2, 0.9, 0.6))


@pytest.mark.parametrize('source', [alone, mosaics])
def test_a_photos_thing_is_where_the_label_says(source: Callable[..., Iterator[Sample]], single: Single) -> None:
    """In frames of one photo and of many, cut, mirrored and lit."""
    places = set()
    for sample in source([single], 6, 3):
        assert sample.things and not sample.complete
        for thing in sample.things:
            x0, y0, x1, y1 = thing.box.round().astype(int)
            red, green, _ = np.moveaxis(sample.image[y0:y1, x0:x1].astype(int), 2, 0)
            assert np.mean(green > red + 60) > 0.85, 'the box is on the block'
            assert thing.names == ('block',)
            places.add((x0, y0, sample.image.shape))
    assert len(places) > 3, 'all cut the same'


def test_the_thing_of_a_photo_is_located_by_its_class() -> None:
    photo = Path(pytest.importorskip('skimage').__file__).parent / 'data' / 'coffee.png'
    tools = ImageEncoder(WEIGHTS, device='cpu', threads=2), NanoProposer(WEIGHTS, threads=2)
    espresso, tench = 967, 0
    box = localise.locate(photo, espresso, *tools)
    assert box is not None and box_iou(box[None], np.array([[0.29, 0.04, 0.69, 0.78]], np.float32))[0, 0] > 0.5
    assert localise.locate(photo, tench, *tools) is None


def test_a_loose_box_ranked_first_costs_more_than_a_tight_one() -> None:
    iou, frame = np.array([0.9, 0.5, 0.0], np.float32), np.zeros(3, int)
    right, worth = torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([[1.0], [0.0], [0.4]])

    def loss(*rank: float) -> float:
        return float(train.first(torch.tensor(rank, dtype=torch.float32)[:, None], right, worth, iou, frame))

    assert loss(0, -5, -5) < 0.05 < 1 < loss(-5, 0, -5) == pytest.approx(loss(-5, -5, 0))
    assert float(train.first(torch.zeros(3, 1), torch.zeros(3, 1), worth, iou, frame)) == 0.0  # nothing is asked


def test_individuals_of_one_look_are_no_negatives_of_each_other() -> None:
    """1 is in both scenes but made for each, so only twins of one scene are alike; -2 looks the same in both."""
    frame, none = np.array([0, 1] * 6), torch.zeros(12, 1)
    scenes = [[np.array([2 * i, 2 * i + 1]) for i in range(3 * s, 3 * s + 3)] for s in range(2)]
    views = train_identity.Views(none, none, none, none, frame, scenes, [[1, 1, -2], [1, -2, -2]])
    first, _, twins = train_identity.pairs(views, np.random.default_rng(0))
    alike = {(int(a), int(b)) for a, b in zip(*np.nonzero(twins.numpy()), strict=True)}
    who = [row // 2 for row in first]
    assert {(who[a], who[b]) for a, b in alike} == {
        (0, 1),
        (1, 0),
        *((a, b) for a in (2, 4, 5) for b in (2, 4, 5) if a != b),
    }


def test_individuals_are_told_apart_better_and_nothing_else_changes(trained: tuple, data: Path) -> None:
    head = copy.deepcopy(trained[0])
    before = {name: value.clone() for name, value in head.state_dict().items()}
    views = train_identity.gather(head, (train.load(path, 'crops') for path in sorted(data.glob('*.json'))))
    first, second, twins = train_identity.pairs(views, np.random.default_rng(0))
    assert len(first) == 4 and (views.frame[first] != views.frame[second]).all() and not twins.any()
    torch.manual_seed(0)
    for network, looks in ((head.individual, train_identity.by_meaning), (Crops(), train_identity.by_pixels)):

        def cost(network: torch.nn.Module = network, looks: train_identity.Looks = looks) -> float:
            with torch.no_grad():
                rows = looks(network.eval(), views, np.concatenate([first, second]))
                return float(train_identity.contrast(rows, twins))

        untrained = cost()
        train_identity.fit(network, looks, [views], 30, 1e-3)
        assert cost() < untrained, looks.__name__
    assert {n for n, v in head.state_dict().items() if not torch.equal(v, before[n])} == {
        'individual.weight', 'individual.bias',
    }  # fmt: skip


def test_exported_model_loads_and_sees(trained: tuple, bank: Bank, data: Path, tmp_path: Path) -> None:
    head, texts, examples = trained
    for name in FROZEN:
        shutil.copy(WEIGHTS / name, tmp_path / name)
    export.write_head(head, Crops().eval(), tmp_path / 'head.onnx')
    export_boxes.write_proposals(Proposals().eval(), tmp_path / 'proposals.onnx')
    export_boxes.write_refiner(Refiner().eval(), tmp_path / 'refiner.onnx')
    boxes = export.cohort(tmp_path / 'head.onnx', data)
    export.write_texts(texts, bank, train.nouns(examples), boxes, tmp_path / 'text.npz')
    export.finish(tmp_path, scale=20.0, bias=-5.0)
    model = load_model(str(tmp_path), threads=2)
    seen = Pipeline(model.embedder, model.proposer).observe([Frame(drawn(0).image, 0, 'a')])[0]
    assert len(seen) and np.isfinite(seen.embeddings).all()
    assert json.loads((tmp_path / 'nano.json').read_text())['calibration']['scale'] == 20.0


def test_training_cannot_take_the_constant_away() -> None:
    """Queries are moved by it (models/nano/evening.py): without it they would become nothing but the move."""
    head = Head()
    optimiser = torch.optim.SGD([head.shares], 1.0)
    for _ in range(50):
        optimiser.zero_grad()
        (-head.weights()[:3].sum()).backward()
        optimiser.step()
    shares = head.weights().detach()
    assert float(shares[3]) == pytest.approx(CONSTANT) and float(shares.square().sum()) == pytest.approx(1 - KEPT**2)


def test_exported_head_is_the_trained_head(trained: tuple, data: Path, tmp_path: Path) -> None:
    from embedder_ros.inference.session import OnnxSession

    head, crops = trained[0], Crops()
    crops(torch.rand(8, CROP, CROP, 3) * 255, torch.rand(8, SHADES), torch.rand(8, 6))  # batch norm sees something
    export.write_head(head, crops.eval(), tmp_path / 'head.onnx')
    inputs = export.read_by_head(train.load(min(data.glob('*.json')), 'crops'))
    got = OnnxSession(tmp_path / 'head.onnx', device='cpu').run(inputs)
    rows = {name: torch.from_numpy(value) for name, value in inputs.items()}
    with torch.no_grad():
        want = head({n: v if n == 'tokens' else v[None] for n, v in rows.items()})
        pixels = crops(rows['crops'], shades(rows['look']), rows['geometry'])
    weights = head.weights().detach()
    np.testing.assert_allclose(got['iou'], torch.sigmoid(want['iou'])[0].numpy(), atol=0.02)
    meaning = (want['meaning'][0] * weights[0]).numpy()
    np.testing.assert_allclose(got['embedding'][:, MEANING], meaning, atol=0.02)
    np.testing.assert_allclose(got['embedding'][:, ONE], CONSTANT, atol=1e-6)
    shares = (export.INDIVIDUAL_SHARE, export.PIXELS_SHARE, export.HISTOGRAM_SHARE)
    parts = (want['individual'][0], pixels, want['histogram'][0])
    looks = np.concatenate([share * part for share, part in zip(shares, parts, strict=True)], axis=1)
    np.testing.assert_allclose(got['embedding'][:, IDENTITY], KEPT * looks, atol=0.005)
    kept = np.linalg.norm(got['embedding'][:, IDENTITY], axis=1)
    np.testing.assert_allclose(kept, KEPT, rtol=0.02, err_msg='half precision must be enough for individuals')


def test_the_shipped_weights_can_be_gone_on_from(bank: Bank, data: Path, tmp_path: Path) -> None:
    from embedder_ros.inference.session import OnnxSession

    export.write_head(*restore.restored_head(WEIGHTS), tmp_path / 'head.onnx')
    inputs = export.read_by_head(train.load(min(data.glob('*.json')), 'crops'))
    shipped, again = (OnnxSession(f / 'head.onnx', device='cpu').run(inputs) for f in (WEIGHTS, tmp_path))
    for name, value in shipped.items():
        np.testing.assert_allclose(again[name], value, atol=1e-6, err_msg=name)
    export_boxes.write_proposals(restore.restored_proposals(WEIGHTS), tmp_path / 'proposals.onnx')
    assert (tmp_path / 'proposals.onnx').read_bytes() == (WEIGHTS / 'proposals.onnx').read_bytes()
    export_boxes.write_refiner(restore.restored_refiner(WEIGHTS), tmp_path / 'refiner.onnx')
    assert (tmp_path / 'refiner.onnx').read_bytes() == (WEIGHTS / 'refiner.onnx').read_bytes()
    texts = restore.restored_texts(WEIGHTS)
    with np.load(WEIGHTS / 'text.npz') as stored:
        np.testing.assert_array_equal(texts.meaning.weight.detach().numpy().T, stored['meaning'])
        np.testing.assert_array_equal(texts.classes.weight.detach().numpy().T, stored['classes'])
    other = tmp_path / 'other'
    other.mkdir()
    shutil.copy(tmp_path / 'proposals.onnx', other / 'head.onnx')
    with pytest.raises(UserError, match='other layers'):
        restore.restored_head(other)


def test_restored_batch_norms_settle_without_changing_anything(data: Path) -> None:
    head, crops = restore.restored_head(WEIGHTS)
    views = train_identity.gather(head, (train.load(path, 'crops') for path in sorted(data.glob('*.json'))))
    rows = np.arange(len(views.frame))

    def looks() -> torch.Tensor:
        with torch.no_grad():
            return crops(views.crops[rows], views.shades[rows], views.geometry[rows])

    before = looks()
    crops.train().pixels[0].eval()  # no dropout
    assert (looks() * before).sum(1).mean() < 0.9, 'folded batch norms cannot train'
    crops.load_state_dict(restore.restored_head(WEIGHTS)[1].state_dict())
    settle(crops, lambda: train_identity.by_pixels(crops, views, rows))
    torch.testing.assert_close(looks(), before, atol=1e-4, rtol=0)
    crops.train().pixels[0].eval()
    assert (looks() * before).sum(1).mean() > 0.99


def test_a_stopped_stage_goes_on_where_it_was(
    data: Path, bars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each network is stopped in its third step and its stage started again: all is as if it had run at once."""
    monkeypatch.setattr(loop, 'KEEP', 1)
    names = {'classes': 1000, 'coco': 80}
    for name, count in names.items():
        (tmp_path / name).write_text('\n'.join(f'{name} {n}' for n in range(count)))
    words = [f'--vocabulary={WEIGHTS / "vocab.txt"}', *(f'--{name}={tmp_path / name}' for name in names)]
    stages: dict[str, tuple[Callable[[], None], list[str]]] = {
        'proposals': (train_proposals.main, ['--out']),
        'refiner': (train_refiner.main, ['--out']),
        'head': (train.main, [*words, '--out']),
        'identity': (train_identity.main, ['--crop-steps=3', '--trained']),
    }
    write = loop.Kept.write

    def run(stage: str, out: Path, stopped: str = '') -> None:
        def stopping(kept: loop.Kept, state: dict[str, object]) -> None:
            write(kept, state)
            if kept.path.stem == stopped and state['step'] == 2:
                raise KeyboardInterrupt

        main, arguments = stages[stage]
        monkeypatch.setattr(loop.Kept, 'write', stopping)
        shown = bars if stage == 'refiner' else data
        monkeypatch.setattr('sys.argv', [stage, f'--data={shown}', '--steps=3', *arguments, str(out)])
        with pytest.raises(KeyboardInterrupt) if stopped else contextlib.nullcontext():
            main()

    networks = {
        'proposals': ['proposals'],
        'refiner': ['refiner'],
        'head': ['head'],
        'identity': ['individual', 'crops'],
    }
    for stage, kept in networks.items():
        for network in (*kept, ''):
            run(stage, tmp_path / 'stopped', network)
        run(stage, tmp_path / 'at_once')
    for file in ('proposals.pt', 'refiner.pt', 'head.pt', 'texts.pt', 'crops.pt'):
        got, want = (torch.load(tmp_path / out / file) for out in ('stopped', 'at_once'))
        assert all(torch.equal(got[name], want[name]) for name in want), file
    assert not list(tmp_path.glob('*/*.part'))


def test_restored_proposals_are_what_training_goes_on_from(data: Path, tmp_path: Path) -> None:
    frames = train_proposals.load_all([data])
    restored = restore.restored_proposals(WEIGHTS)
    torch.save(restored.state_dict(), tmp_path / 'proposals.pt')
    started = train_proposals.fit(frames, 0, tmp_path)
    shown = train_proposals.inputs(frames)
    with torch.no_grad():
        torch.testing.assert_close(started(*shown)[0], restored(*shown)[0], atol=0.01, rtol=0)
    norms = [module for module in started.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert all(float((n.running_var - 1).abs().max()) > 0.1 for n in norms), 'norms of what they see'


def test_the_detectors_classes_are_counted(tmp_path: Path) -> None:
    for count in (80, 90):
        (tmp_path / f'{count}.txt').write_text('\n'.join(f'name {n}' for n in range(count)))
    assert photos.coco_names(tmp_path / '80.txt')[79] == ('name 79',)
    with pytest.raises(UserError, match='90 names.*yolov3'):
        photos.coco_names(tmp_path / '90.txt')


def test_exported_proposals_are_the_trained_ones(data: Path, tmp_path: Path) -> None:
    from embedder_ros.inference.session import OnnxSession

    frames = train_proposals.load_all([data])
    network = train_proposals.fit(frames, 2)
    export_boxes.write_proposals(network, tmp_path / 'proposals.onnx')
    image, maps = frames[0].image[None], [m.astype(np.float32) for m in frames[0].maps]
    got = OnnxSession(tmp_path / 'proposals.onnx').run({'image': image} | dict(zip(MAPS, maps, strict=True)))
    with torch.no_grad():
        scores, edges = network(*(torch.from_numpy(m) for m in (image, *maps)))
    want = torch.cat([torch.sigmoid(s).flatten() for s in scores]).numpy()
    np.testing.assert_allclose(got['objectness'], want, atol=0.01)
    wide = torch.cat([(e[..., 0] + e[..., 2]).flatten() for e in edges]).numpy()
    np.testing.assert_allclose(got['boxes'][:, 2] - got['boxes'][:, 0], wide, rtol=0.05)


def test_the_finest_level_is_trained_alone_and_answers_for_thin_things(data: Path, tmp_path: Path) -> None:
    frames = train_proposals.load_all([data])
    first = train_proposals.fit(frames, 1)
    torch.save(first.state_dict(), tmp_path / 'proposals.pt')
    then = train_proposals.fit(frames, 2, tmp_path, only_fine=True)
    before, after = first.state_dict(), then.state_dict()
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed and all(name.startswith('fine.') for name in changed)
    thin, thick = np.array([[[100.0, 100, 160, 108]], [[100.0, 100, 160, 160]]], np.float32)
    costs = [
        float(train_proposals.losses(([torch.full((1, 120, 160), 4.0)], [torch.ones(1, 120, 160, 4)]), [box], [True]))
        for box in (thin, thick)
    ]
    assert costs[0] < costs[1], 'only the thin thing has cells that should answer'


def test_a_refiner_learns_where_edges_are(bars: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And what is exported does as the trained one; a box at the border sees nothing beyond it in both."""
    from embedder_ros.inference.session import OnnxSession

    monkeypatch.setattr(train_refiner, 'FRAMES', 2)
    monkeypatch.setattr(train_refiner, 'COPIES', 16)
    *shown, other = train_proposals.load_all([bars])
    network = train_refiner.fit(shown, 60)
    boxes, goals = train_refiner.shaken(other, np.random.default_rng(1))
    boxes = np.concatenate([boxes, np.array([[600, 2, 640, 22]], np.float32)])
    with torch.no_grad():
        found = network(train_refiner.enlargements(network, other, boxes), torch.from_numpy(boxes)).numpy()

    def fit(given: np.ndarray) -> float:
        return float(np.diagonal(box_iou(given[: len(goals)], goals)).mean())

    assert fit(boxes) < 0.75 and fit(found) > fit(boxes) + 0.1
    export_boxes.write_refiner(network, tmp_path / 'refiner.onnx')
    maps = dict(zip(MAPS, (m.astype(np.float32) for m in other.maps), strict=True))
    read = {'image': other.image[None], 'boxes': boxes} | {name: maps[name] for name in REFINED_MAPS}
    got = OnnxSession(tmp_path / 'refiner.onnx', device='cpu').run(read)['refined']
    np.testing.assert_allclose(got, found, atol=0.2)


def test_boxes_are_shaken_about_thin_things_alone(bars: Path) -> None:
    frame = train_proposals.load_all([bars])[0]
    thick = np.array([[300, 200, 420, 330], [500, 400, 502, 460]], np.float32)
    frame = dataclasses.replace(frame, boxes=np.concatenate([thick, frame.boxes]))
    assert train_refiner.refinable(frame).tolist() == list(range(2, 14))
    boxes, goals = train_refiner.shaken(frame, np.random.default_rng(0))
    overlap = box_iou(boxes, frame.boxes)
    assert len(boxes) > 10 and (overlap.max(axis=1) >= train_refiner.NEAR).all()
    np.testing.assert_array_equal(frame.boxes[overlap.argmax(axis=1)], goals)
    with pytest.raises(UserError, match='4 to 48 pixels thick'):
        train_refiner.fit([dataclasses.replace(frame, boxes=thick)], 1)


def test_a_mirrored_goal_is_mirrored_in_its_window() -> None:
    boxes, goals = torch.tensor([[10.0, 0, 20, 8]]), torch.tensor([[12.0, 1, 23, 7]])
    assert train_refiner.mirrored(goals, boxes).tolist() == [[7, 1, 18, 7]]
    assert torch.equal(train_refiner.mirrored(train_refiner.mirrored(goals, boxes), boxes), goals)


def test_a_matrix_stored_as_bytes_is_near_what_it_was(tmp_path: Path) -> None:
    from onnx import TensorProto

    from embedder_ros.inference.session import OnnxSession
    from embedder_ros.training.onnx_graph import GraphWriter

    matrix = np.random.default_rng(0).normal(size=(5, 300)).astype(np.float32) * np.float32(
        [[1], [10], [0.1], [3], [0.01]]
    )
    graph = GraphWriter()
    product = graph.op('MatMul', graph.bytes(matrix), 'rows')
    path, rows = tmp_path / 'bytes.onnx', np.eye(300, dtype=np.float32)
    graph.save(path, {'rows': (TensorProto.FLOAT, [300, 300])}, {'out': product}, {'out': [5, 300]})
    error = np.abs(OnnxSession(path, device='cpu').run({'rows': rows})['out'] - matrix)
    assert (error <= np.abs(matrix).max(axis=1, keepdims=True) / 253).all()
    assert path.stat().st_size < matrix.nbytes / 2
