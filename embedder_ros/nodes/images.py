# SPDX-License-Identifier: Apache-2.0
"""RGB pixels to image messages; embedder_ros/images.py is the way back."""

from __future__ import annotations

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from embedder_ros.images import ImageError, Pixels, to_field

_PUBLISHED = {'rgb8': None, 'bgr8': cv2.COLOR_RGB2BGR, 'mono8': cv2.COLOR_RGB2GRAY}


def rgb_to_image(pixels: Pixels, header: Header, encoding: str = 'rgb8') -> Image:
    """(H, W, 3) uint8 RGB to a message of encoding rgb8, bgr8 or mono8.

    Raises:
        ImageError: another encoding is asked for.
    """
    if encoding not in _PUBLISHED:
        raise ImageError(f"images are not published as '{encoding}'; use one of {', '.join(_PUBLISHED)}")
    code = _PUBLISHED[encoding]
    pixels = pixels if code is None else cv2.cvtColor(pixels, code)
    height, width = pixels.shape[:2]
    msg = Image(header=header, height=height, width=width, encoding=encoding, step=pixels.size // height)
    msg.data = to_field(pixels, 'B')
    return msg


def rgb_to_jpeg(pixels: Pixels, header: Header, quality: int = 90) -> CompressedImage:
    """(H, W, 3) uint8 RGB to a JPEG message; quality 1 to 100."""
    _, data = cv2.imencode('.jpg', cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, quality))
    msg = CompressedImage(header=header, format='jpeg')
    msg.data = to_field(data, 'B')
    return msg


def smaller_jpeg(image: CompressedImage, side: int, quality: int = 80) -> bytes:
    """The JPEG of a message's picture with its longer side at most `side` pixels; b'' when it cannot be decoded."""
    pixels = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_COLOR) if len(image.data) else None
    if pixels is None:
        return b''
    scale = min(1.0, side / max(pixels.shape[:2]))
    size = [max(1, round(scale * length)) for length in pixels.shape[1::-1]]
    small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode('.jpg', small, (cv2.IMWRITE_JPEG_QUALITY, quality))[1].tobytes()
