# SPDX-License-Identifier: Apache-2.0
"""Lifecycle of live nodes: every transition and again, what a wrong parameter leaves behind, and the end by SIGINT."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from livetest import Process, Robot, picture, robot
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters

from embedder_ros.models.nano import WEIGHTS
from embedder_ros.msg import ModelInfo, ObjectEmbeddings, Query
from embedder_ros.nodes import wire
from embedder_ros.srv import EmbedText, Find

RED = (40, 60, 100, 120)
CONFIGURE, CLEANUP = Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_CLEANUP
ACTIVATE, DEACTIVATE = Transition.TRANSITION_ACTIVATE, Transition.TRANSITION_DEACTIVATE


@pytest.fixture
def start(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., tuple[Robot, Process]]]:
    """A robot with one node process; in a namespace of the test's own."""
    opened: list[Any] = []

    def begin(name: str, *args: str, **options: Any) -> tuple[Robot, Process]:
        opened.append(robot(f'/lifecycle{abs(hash(request.node.name)) % 10**6}', tmp_path))
        it = opened[-1].__enter__()
        return it, it.start(name, *args, **options)

    yield begin
    for manager in opened:
        manager.__exit__(None, None, None)


def state(it: Robot, node: str) -> str:
    return it.call(GetState, f'{node}/get_state').current_state.label


def change(it: Robot, node: str, transition: int) -> bool:
    request = ChangeState.Request(transition=Transition(id=transition))
    return it.call(ChangeState, f'{node}/change_state', request).success


def correct(it: Robot, node: str, **values: Any) -> None:
    """Set string or string-list parameters."""
    request = SetParameters.Request()
    for name, value in values.items():
        if isinstance(value, str):
            message = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=value)
        else:
            message = ParameterValue(type=ParameterType.PARAMETER_STRING_ARRAY, string_array_value=value)
        request.parameters.append(Parameter(name=name, value=message))
    results = it.call(SetParameters, f'{node}/set_parameters', request).results
    assert all(r.successful for r in results), [r.reason for r in results]


def test_every_transition_and_again(start: Callable[..., tuple[Robot, Process]]) -> None:
    """Nothing starts by itself; each state offers what it should; the model stays over deactivate."""
    it, _ = start('perception', autostart=False)
    models = it.listen(ModelInfo, 'model', wire.STATE_QOS)
    objects = it.listen(ObjectEmbeddings, 'objects')
    nodes = ('embedder', 'grounder')
    with it.camera('image', picture(red=RED)):
        assert [state(it, n) for n in nodes] == ['unconfigured'] * 2
        it.status('embedder: model', 'not configured')
        for turn in (1, 2):
            assert all(change(it, n, CONFIGURE) for n in nodes)
            it.until(partial(_has, models, turn), 'the model to be announced')
            it.status('embedder: model', 'loaded, not active')
            assert it.call(EmbedText, 'embed_text', EmbedText.Request(texts=['red'])).success
            refused = it.find('red')
            assert not refused.success and 'activate' in refused.message
            for _ in range(2):
                assert all(change(it, n, ACTIVATE) for n in nodes)
                track = it.found('red').candidates[0].track_id
                assert track == 1, 'what was in view before deactivate is forgotten'
                it.status('embedder: model', 'running')
                assert all(change(it, n, DEACTIVATE) for n in nodes)
                it.status('embedder: model', 'loaded, not active')
                it.settle()
                before = len(objects)
                assert it.call(EmbedText, 'embed_text', EmbedText.Request(texts=['red'])).success
                it.settle()
                assert len(objects) == before
            assert len(models) == turn, 'the model was loaded again'
            assert all(change(it, n, CLEANUP) for n in nodes)
            assert [state(it, n) for n in nodes] == ['unconfigured'] * 2
        assert not change(it, 'embedder', ACTIVATE), 'not from unconfigured'
    assert all(change(it, n, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN) for n in nodes)
    assert [state(it, n) for n in nodes] == ['finalized'] * 2


def _has(messages: list[Any], count: int) -> bool:
    return len(messages) == count


def test_shutdown_while_active(start: Callable[..., tuple[Robot, Process]]) -> None:
    it, _ = start('perception')
    with it.camera('image', picture(red=RED)):
        it.found('red')
        for node in ('embedder', 'grounder'):
            assert change(it, node, Transition.TRANSITION_ACTIVE_SHUTDOWN)
            assert state(it, node) == 'finalized'


@pytest.fixture(scope='module')
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    """An embedder with the real models that did not start: its model does not exist."""
    with robot('/broken', tmp_path_factory.mktemp('broken')) as it:
        it.start('embedder', blobs=False, model='/nowhere/model')
        yield it


def _cut_short(folder: Path) -> str:
    shutil.copytree(WEIGHTS, folder)
    weights = folder / 'head.onnx'
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    return str(folder)


def _missing(folder: Path) -> str:
    shutil.copytree(WEIGHTS, folder)
    (folder / 'backbone.onnx').unlink()
    return str(folder)


WRONG: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    'no such model': (lambda _: {'model': '/nowhere/model'}, "set parameter 'model'"),
    'weights cut short': (lambda path: {'model': _cut_short(path / 'cut')}, 'head.onnx'),
    'weights missing': (lambda path: {'model': _missing(path / 'missing')}, 'backbone.onnx'),
    'no GPU': (lambda _: {'device': 'cuda'}, 'cuda'),
    'no such device': (lambda _: {'device': 'tpu'}, 'auto, cpu, cuda'),
    'no such precision': (lambda _: {'precision': 'fp4'}, 'auto, fp32, bf16, fp16'),
    'topics of another number': (lambda _: {'cameras': ['a', 'b']}, 'one topic per camera'),
    'two cameras of one name': (
        lambda _: {'cameras': ['a', 'a'], 'image_topics': ['a/image', 'b/image']},
        'a name of its own',
    ),
    'no camera': (lambda _: {'cameras': [''], 'image_topics': ['image']}, 'a name of its own'),
    'not a topic': (lambda _: {'image_topics': ['front image!']}, "'front image!' among image_topics"),
    'no topic': (lambda _: {'image_topics': ['']}, "'' among image_topics"),
}
GOOD = {'model': 'nano', 'device': 'cpu', 'precision': 'auto', 'cameras': ['camera'], 'image_topics': ['image']}


@pytest.mark.parametrize('name', WRONG)
def test_a_wrong_parameter_leaves_the_node_alive_with_the_remedy_told(broken: Robot, name: str, tmp_path: Path) -> None:
    """Unconfigured, the remedy in the log and in /diagnostics; corrected, it configures."""
    values, remedy = WRONG[name]
    correct(broken, 'embedder', **{**GOOD, **values(tmp_path)})
    log = len(broken.processes[0].output)
    assert not change(broken, 'embedder', CONFIGURE)
    assert state(broken, 'embedder') == 'unconfigured'
    assert remedy in broken.processes[0].output[log:]
    told = broken.status('embedder: model', remedy)
    assert told.level == b'\x02'


def test_after_all_this_the_corrected_node_configures_and_runs(broken: Robot) -> None:
    correct(broken, 'embedder', **GOOD)
    assert change(broken, 'embedder', CONFIGURE) and change(broken, 'embedder', ACTIVATE)
    assert broken.call(EmbedText, 'embed_text', EmbedText.Request(texts=['a cup'])).success
    objects = broken.listen(ObjectEmbeddings, 'objects')
    with broken.camera('image', picture(red=RED)):
        broken.until(lambda: objects, 'objects')
    broken.status('embedder: model', 'running')


def test_perception_with_a_wrong_parameter_says_so_in_answers(start: Callable[..., tuple[Robot, Process]]) -> None:
    it, process = start('perception', blobs=False, model='/nowhere/model')
    answer = it.find('a cup')
    assert not answer.success and 'embedder' in answer.message
    assert process.popen.poll() is None
    correct(it, 'embedder', model='nano')
    assert change(it, 'embedder', CONFIGURE) and change(it, 'embedder', ACTIVATE)
    it.until(lambda: (a := it.find('a cup')).success and a.reason == 'no_frames', 'the scene to be there')


def test_a_grounder_that_cannot_be_configured_offers_nothing(start: Callable[..., tuple[Robot, Process]]) -> None:
    """And when the parameter is right, each topic and service is there once."""
    if importlib.util.find_spec('tf2_ros'):
        pytest.skip('tf2_ros is here: the map frame can be used')
    it, _ = start('perception', map_frame='map')
    it.until(lambda: 'tf2' in it.processes[0].output, 'the reason to be told')
    assert state(it, 'grounder') == 'unconfigured'
    offered = [name for name, _ in it.node.get_service_names_and_types() if name.startswith(it.namespace)]
    assert not [name for name in offered if name.endswith(('/find', '/list_objects', '/follow/_action/send_goal'))]
    correct(it, 'grounder', map_frame='')
    assert change(it, 'grounder', CONFIGURE) and change(it, 'grounder', ACTIVATE)
    with it.camera('image', picture(red=RED)):
        it.found('red')
    assert it.node.count_publishers('tracks') == 1


def test_sigint_ends_a_busy_node_after_the_batch_at_hand(start: Callable[..., tuple[Robot, Process]]) -> None:
    """In the middle of an inference of a second, with questions under way."""
    it, process = start('perception', env={'BLOBS_SECONDS': '1'})
    objects = it.listen(ObjectEmbeddings, 'objects')
    with it.camera('image', picture(red=RED), hertz=30):
        it.until(lambda: objects, 'a first frame')
        for _ in range(5):
            it.send(Find, 'find', Find.Request(query=Query(text='red')))
        assert process.stop() == 0, process.output
    assert 'rror' not in process.output, process.output
