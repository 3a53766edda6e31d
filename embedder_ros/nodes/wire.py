# SPDX-License-Identifier: Apache-2.0
"""Every topic, service and action of the nodes, declared once: name, type, quality of service, sentence.

The nodes create their publishers and services from these, and the README's tables are written from them.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from visualization_msgs.msg import MarkerArray

from embedder_ros.action import Follow
from embedder_ros.msg import ModelInfo, ObjectEmbeddings, Targets, Tracks
from embedder_ros.srv import (
    EmbedRegion,
    EmbedText,
    Find,
    Forget,
    ListObjects,
    Reidentify,
    Remember,
    SearchFrames,
)
from embedder_ros.types import UserError

try:
    from vision_msgs.msg import Detection2DArray
except ImportError:  # on most robots, but not among the wheels
    Detection2DArray = 'vision_msgs/msg/Detection2DArray'

# REP-2003: a best-effort subscription hears best-effort and reliable cameras alike. Depth 1: only the newest counts.
CAMERA_QOS = QoSProfile(depth=1, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.BEST_EFFORT)
OUTPUT_QOS = QoSProfile(depth=5, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)
STATE_QOS = QoSProfile(
    depth=1,
    history=HistoryPolicy.KEEP_LAST,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
# A burst of questions waits here instead of being lost; rmw's own default keeps 10.
SERVICE_QOS = QoSProfile(depth=100, history=HistoryPolicy.KEEP_LAST, reliability=ReliabilityPolicy.RELIABLE)


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic; `*topic.args` is what rclpy's create_publisher and create_subscription take.

    Attributes:
        type: the message class, or its name where its package is not installed.
    """

    name: str
    type: Any
    qos: QoSProfile
    node: str
    sentence: str

    @property
    def args(self) -> tuple[Any, str, QoSProfile]:
        """Type, name, quality of service."""
        return self.type, self.name, self.qos

    @property
    def installed(self) -> bool:
        """Whether there is a message class."""
        return not isinstance(self.type, str)


@dataclass(frozen=True, slots=True)
class Service:
    """A service or action."""

    name: str
    type: Any
    node: str
    sentence: str

    @property
    def args(self) -> tuple[Any, str]:
        """Type and name."""
        return self.type, self.name


def offer(node: Any, service: Service, callback: Callable[[Any, Any], Awaitable[None] | None]) -> Any:
    """Offer a service whose callback fills the response, and may be a coroutine.

    A UserError of the callback is answered with success=false and its message. So is any other error, which is logged
    too: rclpy would end the process, and what one question meets must not stop the robot's cameras.

    While a coroutine waits, rclpy holds back all else of its callback group, so that an answer from another node would
    never be taken: every service is in a group of its own.
    """

    async def answer(request: Any, response: Any) -> Any:
        try:
            done = callback(request, response)
            if done is not None:
                await done
            return response
        except UserError as error:
            message = str(error)
        except Exception as error:
            node.get_logger().error(traceback.format_exc())
            message = f'{service.name} failed with {type(error).__name__}: {error}; see the log'
        return service.type.Response(success=False, message=message)

    return node.create_service(*service.args, answer, qos_profile=SERVICE_QOS, callback_group=ReentrantCallbackGroup())


# Subscribed. Image topics take their names from the parameters.
IMAGE = Topic('image', Image, CAMERA_QOS, 'embedder', "A camera; the names are parameter image_topics'.")
COMPRESSED = Topic('image/compressed', CompressedImage, CAMERA_QOS, 'embedder', 'A topic named so is JPEG or PNG.')
DEPTH = Topic('depth', Image, CAMERA_QOS, 'embedder', 'Registered depth, 16UC1 mm or 32FC1 m; parameter depth_topics.')
CAMERA_INFO = Topic('camera_info', CameraInfo, CAMERA_QOS, 'embedder', 'Beside the image topic; used with depth.')

# Published.
OBJECTS = Topic('objects', ObjectEmbeddings, OUTPUT_QOS, 'embedder', 'What each frame showed.')
MODEL = Topic('model', ModelInfo, STATE_QOS, 'embedder', 'How to read the embeddings; latched.')
PICTURE = Topic('objects_image', Image, OUTPUT_QOS, 'embedder', 'Boxes drawn on the frame, only while subscribed.')
TRACKS = Topic('tracks', Tracks, OUTPUT_QOS, 'grounder', 'The live tracks of a camera after each frame.')
MARKERS = Topic(
    'markers',
    MarkerArray,
    OUTPUT_QOS,
    'grounder',
    'Live tracks where depth places them, for RViz; only while subscribed.',
)
DETECTIONS = Topic(
    'detections',
    Detection2DArray,
    OUTPUT_QOS,
    'grounder',
    'Live tracks that a frame shows, with the names that `remember` gave; only while subscribed, and where vision_msgs '
    'is installed.',
)
TARGETS = Topic('targets', Targets, OUTPUT_QOS, 'grounder', 'The targets of all Follow goals, in each frame.')
DIAGNOSTICS = Topic('/diagnostics', DiagnosticArray, OUTPUT_QOS, 'both', 'Named states with the fix in the text, 1 Hz.')

EMBED_TEXT = Service('embed_text', EmbedText, 'embedder', 'Texts to embeddings.')
EMBED_REGION = Service('embed_region', EmbedRegion, 'embedder', 'A box, point or mask of a frame to an embedding.')
FIND = Service('find', Find, 'grounder', '"Find the red handle": found, ambiguous or not found, with candidates.')
REIDENTIFY = Service(
    'reidentify', Reidentify, 'grounder', 'Is this a remembered individual: same, unknown, or refused.'
)
REMEMBER = Service('remember', Remember, 'grounder', 'Name an object and keep it.')
FORGET = Service('forget', Forget, 'grounder', 'Really delete objects: rows, views, thumbnails, index entries.')
LIST_OBJECTS = Service('list_objects', ListObjects, 'grounder', 'What is remembered, by name, camera and time.')
SEARCH_FRAMES = Service('search_frames', SearchFrames, 'grounder', 'Which remembered frame shows it.')
FOLLOW = Service('follow', Follow, 'grounder', 'Find once, then the target in every frame until cancelled.')

SUBSCRIBED = (IMAGE, COMPRESSED, DEPTH, CAMERA_INFO)
PUBLISHED = (OBJECTS, MODEL, PICTURE, TRACKS, MARKERS, DETECTIONS, TARGETS, DIAGNOSTICS)
SERVICES = (EMBED_TEXT, EMBED_REGION, FIND, REIDENTIFY, REMEMBER, FORGET, LIST_OBJECTS, SEARCH_FRAMES)
ACTIONS = (FOLLOW,)


def _type_name(interface: Any) -> str:
    if isinstance(interface, str):
        return interface
    package, kind = interface.__module__.split('.')[:2]
    return f'{package}/{kind}/{interface.__name__}'


def _qos_text(qos: QoSProfile) -> str:
    words = ['best effort' if qos.reliability == ReliabilityPolicy.BEST_EFFORT else 'reliable', f'depth {qos.depth}']
    return ', '.join(words + ['transient local'] * (qos.durability == DurabilityPolicy.TRANSIENT_LOCAL))


def markdown() -> str:
    """The README's tables of topics, services and actions."""
    lines = ['| topic | type | node | QoS | |', '|---|---|---|---|---|']
    for way, topics in (('in', SUBSCRIBED), ('out', PUBLISHED)):
        lines += [
            f'| `{t.name}` ({way}) | `{_type_name(t.type)}` | `{t.node}` | {_qos_text(t.qos)} | {t.sentence} |'
            for t in topics
        ]
    lines += ['', '| service or action | type | node | |', '|---|---|---|---|']
    lines += [f'| `{s.name}` | `{_type_name(s.type)}` | `{s.node}` | {s.sentence} |' for s in (*SERVICES, *ACTIONS)]
    return '\n'.join(lines) + '\n'
