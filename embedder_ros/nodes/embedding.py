# SPDX-License-Identifier: Apache-2.0
"""How the grounder gets a query embedded: from an embedder in the same process, or through its services."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from rclpy.clock import Clock, ClockType
from sensor_msgs.msg import CompressedImage

from embedder_ros.models.base import TextKind
from embedder_ros.nodes import wire
from embedder_ros.nodes.embedder import Embedder
from embedder_ros.nodes.messages import stamp_to_ns
from embedder_ros.srv import EmbedRegion, EmbedText
from embedder_ros.types import FloatArray, UserError


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a region shows: (D,) embedding, and where: camera, stamp in nanoseconds, (4,) box in pixels.

    `camera` is '' when the region came with an image of its own.
    """

    embedding: FloatArray
    camera: str
    stamp: int
    box: FloatArray


class QueryEmbedder(Protocol):
    """Turns what is asked into one unit vector of the running model."""

    async def text(self, text: str, kind: TextKind = TextKind.OBJECT) -> FloatArray:
        """(D,) for comparison with object embeddings, or with those of frames. Raises UserError."""

    async def region(self, region: Any) -> Seen:
        """The meant box. Raises UserError."""

    async def thumbnail(self, region: Any) -> CompressedImage:
        """JPEG of the box of a stamped region. Raises UserError when its frame is not kept any more."""


class LocalEmbedder:
    """An embedder node in this process: one model in memory."""

    def __init__(self, node: Embedder) -> None:
        self._node = node

    async def text(self, text: str, kind: TextKind = TextKind.OBJECT) -> FloatArray:
        """See QueryEmbedder."""
        return self._node.embed_texts([text], kind)[0]

    async def region(self, region: Any) -> Seen:
        """See QueryEmbedder."""
        frame, o = await self._node.embed_region(region)
        camera = '' if len(region.image.data) else frame.camera
        return Seen(o.embeddings[0], camera, frame.stamp, o.boxes[0])

    async def thumbnail(self, region: Any) -> CompressedImage:
        """See QueryEmbedder."""
        return await self._node.thumbnail(region)


class RemoteEmbedder:
    """An embedder node in another process, through `embed_text` and `embed_region`."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._clock = Clock(clock_type=ClockType.STEADY_TIME)
        self._text = node.create_client(*wire.EMBED_TEXT.args)
        self._region = node.create_client(*wire.EMBED_REGION.args)

    async def text(self, text: str, kind: TextKind = TextKind.OBJECT) -> FloatArray:
        """See QueryEmbedder."""
        response = await self._call(self._text, EmbedText.Request(texts=[text], kind=kind.value))
        return np.array(response.embeddings, np.float32)

    async def region(self, region: Any) -> Seen:
        """See QueryEmbedder."""
        r = await self._call(self._region, EmbedRegion.Request(region=region))
        camera = '' if len(region.image.data) else r.camera
        return Seen(np.array(r.embedding, np.float32), camera, stamp_to_ns(r.header.stamp), np.array(r.box, np.float32))

    async def thumbnail(self, region: Any) -> CompressedImage:
        """See QueryEmbedder."""
        return (await self._call(self._region, EmbedRegion.Request(region=region, thumbnail=True))).image

    async def _call(self, client: Any, request: Any) -> Any:
        if not client.service_is_ready():
            raise UserError(f'service {client.srv_name} is not there; start the embedder in the same namespace')
        timeout = self._node.get_parameter('embed_timeout').value
        future = client.call_async(request)
        late = UserError(f'service {client.srv_name} did not answer within {timeout:g} s; see /diagnostics')
        timer = self._node.create_timer(timeout, lambda: future.set_exception(late), clock=self._clock)
        try:
            response = await future
        finally:
            self._node.destroy_timer(timer)
            client.remove_pending_request(future)
        if not response.success:
            raise UserError(response.message)
        return response
