# SPDX-License-Identifier: Apache-2.0
"""Every node parameter, declared once: name, default, range, sentence.

The same tables declare the parameters to ROS, write config/perception.yaml and write the README's tables
(`embedder-ros params`), so that defaults cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from embedder_ros.memory.policy import Settings


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter. `low` and `high` bound numbers, `choices` bounds strings; a parameter is read at configure."""

    name: str
    default: Any
    sentence: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


AUTOSTART = Parameter('autostart', True, 'Configure and activate at start; false leaves it to a lifecycle manager.')

EMBEDDER = (
    AUTOSTART,
    Parameter('model', 'nano', "Registered model name ('nano') or the path of a model folder."),
    Parameter(
        'device',
        'auto',
        'Where the model runs. A GPU that is not there is an error, never a silent CPU.',
        choices=('auto', 'cpu', 'cuda'),
    ),
    Parameter(
        'precision',
        'auto',
        "Numeric precision; 'auto' is the model's best for the device.",
        choices=('auto', 'fp32', 'bf16', 'fp16'),
    ),
    Parameter(
        'prompt',
        'rec',
        "What ObjEmbed is told to look for: 'rec' single things by description, 'det' all things of a class. "
        'Embeddings made with different prompts are not compared.',
        choices=('rec', 'det', 'none'),
    ),
    Parameter(
        'proposals',
        'auto',
        "Where boxes come from: 'nano', or the path of a wedetect_*_uni.pth; 'auto' is nano's own for nano, and for "
        'another model such a file in its folder or beside it.',
    ),
    Parameter(
        'min_tokens',
        900,
        'Fewest image tokens of ObjEmbed, 32 x 32 pixels each; small images are enlarged to it. Lowering it saves time '
        'and leaves what the model was trained on.',
        1,
        16384,
    ),
    Parameter(
        'max_tokens',
        1200,
        'Most image tokens of ObjEmbed; large images are shrunk to it. Raising it finds smaller things and costs time.',
        1,
        16384,
    ),
    Parameter('threads', 0, 'CPU threads of the inference session; 0 lets the runtime choose.', 0, 256),
    Parameter('cameras', ['camera'], 'Names of the cameras, as they appear in every message.'),
    Parameter(
        'image_topics',
        ['image'],
        "One topic per camera. A name ending in '/compressed' is sensor_msgs/CompressedImage, else sensor_msgs/Image.",
    ),
    Parameter(
        'depth_topics',
        [''],
        "One depth topic per camera, registered to its image; '' means none. camera_info is beside the image topic.",
    ),
    Parameter(
        'depth_slop',
        0.05,
        'Seconds by which a depth image may differ from its image. Raising it accepts depth '
        'of a moving scene that no longer fits.',
        0.0,
        10.0,
    ),
    Parameter('max_objects', 64, 'Most objects per frame. Raising it finds smaller things and costs time.', 1, 1000),
    Parameter(
        'score_threshold', 0.0, 'Objectness a proposal needs. Raising it loses faint and small objects.', 0.0, 1.0
    ),
    Parameter(
        'max_frame_age',
        0.0,
        'Seconds after its stamp at which an unread frame is dropped and counted; 0 means '
        'never. Needs synchronised clocks or use_sim_time.',
        0.0,
        3600.0,
    ),
    Parameter(
        'frame_history', 10, 'Newest frames kept per camera for embed_region. Costs their size in memory.', 1, 1000
    ),
)

GROUNDER = (
    AUTOSTART,
    Parameter(
        'max_age',
        2.0,
        'Seconds for which the newest frame of a camera counts as now. Raising it answers from older views.',
        0.05,
        3600.0,
    ),
    Parameter(
        'found_threshold',
        -1.0,
        "Score that FOUND needs; -1 takes the model's own, fitted on validation data. "
        'Raising it turns weak true answers into NOT_FOUND.',
        -1.0,
        1.0,
    ),
    Parameter(
        'margin',
        -1.0,
        "Score by which the best must beat the second; -1 takes the model's own. Raising it turns "
        'right answers into AMBIGUOUS.',
        -1.0,
        1.0,
    ),
    Parameter('embed_timeout', 5.0, 'Seconds to wait for the embedder when a query has to be embedded.', 0.1, 600.0),
    Parameter(
        'max_lost',
        3.0,
        'Seconds a track may stay unseen before it is removed. Raising it bridges longer '
        'occlusions and risks picking up a look-alike.',
        0.0,
        600.0,
    ),
)

# Settings of the memory that robots differ in, as parameters memory_<name>; the others keep memory/policy.py's values.
MEMORY_SETTINGS = {
    'same': (
        'Probability of being the same individual that recognises an object. Raising it remembers one thing as '
        'several, lowering it takes look-alikes for one.',
        0.0,
        1.0,
    ),
    'similar': (
        'Probability from which a remembered object may be what is seen, or be another one again. Raising it remembers '
        'a thing twice when it is seen from a new side, and answers AMBIGUOUS then; lowering it leaves more tracks '
        'without an object, and takes look-alikes of two rooms for one.',
        0.0,
        1.0,
    ),
    'margin': (
        'Lead in cosine over the second object that recognising needs; -1 derives it from the model. Raising it leaves '
        'look-alikes undecided, lowering it swaps them.',
        -1.0,
        2.0,
    ),
    'place_radius': (
        'Metres round its place within which an object is expected; needs map_frame. Raising it takes a look-alike put '
        'near the old place for the old thing.',
        0.0,
        100.0,
    ),
    'max_speed': (
        'Metres a second at which a thing can be carried; needs map_frame. Raising it lets look-alikes far away be '
        'merged.',
        0.0,
        1000.0,
    ),
    'settle': (
        'Seconds a track is seen before it may become a new object. Raising it forgets what passes quickly.',
        0.0,
        3600.0,
    ),
    'max_objects': (
        'Objects kept; beyond, the one unseen for longest that nobody named is dropped. Raising it costs memory and '
        'time.',
        1,
        10_000_000,
    ),
    'flood_rate': (
        'New objects a minute, after a first burst. Raising it lets a broken camera fill the memory.',
        0.0,
        1e6,
    ),
    'gone': (
        'Presence below which an object is no longer told as being there; needs map_frame. Raising it gives up on '
        'things sooner.',
        0.0,
        1.0,
    ),
    'frame_interval': (
        'Seconds between remembered frames of one camera, for search_frames. Lowering it costs disk and memory.',
        0.01,
        1e6,
    ),
    'keep_frames': (
        'Seconds that frames are remembered. Raising it costs disk, memory and time in search_frames.',
        0.0,
        1e9,
    ),
}
GROUNDER += (
    Parameter(
        'memory',
        '',
        "Where objects are remembered: a file ('~/.ros/objects.db'), a fleet's server ('postgresql://user@host/db'), "
        "or '' for RAM, which is forgotten at the end.",
    ),
    Parameter('map_id', '', 'Name of the place; what is remembered in one map is never compared with another.'),
    Parameter(
        'map_frame',
        '',
        "Frame that tf2 gives camera poses in, 'map'. With '' nothing is known about places: no moved, no gone.",
    ),
    Parameter(
        'allow_person_identity',
        False,
        'Whether people are remembered and recognised as individuals. Raises questions of privacy and law.',
    ),
    *(
        Parameter(f'memory_{name}', getattr(Settings(), name), sentence, low, high)
        for name, (sentence, low, high) in MEMORY_SETTINGS.items()
    ),
)


def declare(node: Any, table: Sequence[Parameter]) -> None:
    """Declare a table on a node, with ranges and descriptions visible to `ros2 param describe`."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    for p in table:
        descriptor = ParameterDescriptor(description=p.sentence, additional_constraints=' | '.join(p.choices))
        if isinstance(p.default, float):
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=float(p.low or 0), to_value=float(p.high or 0))
            ]
        elif isinstance(p.default, int) and not isinstance(p.default, bool):
            descriptor.integer_range = [IntegerRange(from_value=int(p.low or 0), to_value=int(p.high or 0), step=1)]
        node.declare_parameter(p.name, p.default, descriptor)


def read(node: Any, table: Sequence[Parameter]) -> SimpleNamespace:
    """The current values of a table as attributes.

    Raises:
        UserError: a value is not one of the declared choices, or an empty list.
    """
    from rclpy.exceptions import ParameterUninitializedException

    from embedder_ros.types import UserError

    try:
        values = SimpleNamespace(**{p.name: node.get_parameter(p.name).value for p in table})
    except ParameterUninitializedException as error:  # what ROS makes of [], which has no type
        raise UserError(f'{error}; give it a value') from None
    for p in table:
        if p.choices and getattr(values, p.name) not in p.choices:
            raise UserError(
                f"parameter {p.name} is '{getattr(values, p.name)}'; set it to one of {', '.join(p.choices)}"
            )
    return values


def _range(p: Parameter) -> str:
    if p.choices:
        return ', '.join(p.choices)
    return '' if p.low is None else f'{p.low:g} to {p.high:g}'


def _yaml_value(value: Any) -> str:
    return json.dumps(value)


def yaml_text() -> str:
    """config/perception.yaml: every parameter at its default, with its sentence."""
    lines = [
        '# Written by `embedder-ros params --yaml` from embedder_ros/nodes/parameters.py; a test holds them equal.',
        '# One block for both nodes, in any namespace; each node reads the parameters it declares.',
        '/**:',
        '  ros__parameters:',
    ]
    for p in {p.name: p for p in (*EMBEDDER, *GROUNDER)}.values():
        lines += [f'    # {p.sentence}' + (f' ({_range(p)})' if _range(p) else '')]
        lines += [f'    {p.name}: {_yaml_value(p.default)}']
    return '\n'.join(lines) + '\n'


def markdown() -> str:
    """The README's parameter tables."""
    lines: list[str] = []
    for node, table in (('embedder', EMBEDDER), ('grounder', GROUNDER)):
        lines += [f'| `{node}` parameter | default | range | meaning |', '|---|---|---|---|']
        lines += [f'| `{p.name}` | `{_yaml_value(p.default)}` | {_range(p)} | {p.sentence} |' for p in table]
        lines += ['']
    return '\n'.join(lines)
