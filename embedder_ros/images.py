# SPDX-License-Identifier: Apache-2.0
"""Image messages to RGB pixels or metres without cv_bridge, and arrays to message fields.

The messages are anything with the fields of sensor_msgs/Image or CompressedImage: rclpy's in a node, or what a bag
reader makes where there is no ROS. cv_bridge breaks with a newer numpy or OpenCV, and other converters ignore padded
rows. Here one table names every encoding, rows are read by their `step`, `rgb8` is looked at without a copy, and
whatever cannot be read is an `ImageError` that says what to change. Encodings that the table lacks are left to
cv_bridge if it is installed.
Not measured: yuv from cameras that send full-range values; OpenCV reads all yuv as BT.601 video range, as cv_bridge
does.
"""

from __future__ import annotations

import array
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from embedder_ros.types import FloatArray, UserError

Pixels = NDArray[np.uint8]


class ImageError(UserError):
    """An image message that cannot be used; the message names its encoding, its sizes and the remedy."""


class _Layout(NamedTuple):
    """How an encoding lies in memory, and the OpenCV conversion to RGB of the same depth (None: it is RGB)."""

    dtype: str
    channels: int
    code: int | None = None
    planar: bool = False  # 4:2:0: a luma plane, then a chroma plane of half its rows

    @property
    def paired(self) -> bool:
        """Whether neighbouring pixels share their colour, so that only even widths exist."""
        return self.planar or self.channels == 2


# OpenCV names a Bayer pattern by the second row's second and third pixel: its BG is everybody else's RGGB.
_BAYER = {
    'rggb': cv2.COLOR_BayerBG2RGB,
    'bggr': cv2.COLOR_BayerRG2RGB,
    'gbrg': cv2.COLOR_BayerGR2RGB,
    'grbg': cv2.COLOR_BayerGB2RGB,
}
# Bare OpenCV types say nothing about colours; as everywhere in ROS they are taken in OpenCV's own order, BGR.
_COLOUR = {
    'rgb8': _Layout('u1', 3),
    'bgr8': _Layout('u1', 3, cv2.COLOR_BGR2RGB),
    '8UC3': _Layout('u1', 3, cv2.COLOR_BGR2RGB),
    'rgba8': _Layout('u1', 4, cv2.COLOR_RGBA2RGB),
    'bgra8': _Layout('u1', 4, cv2.COLOR_BGRA2RGB),
    '8UC4': _Layout('u1', 4, cv2.COLOR_BGRA2RGB),
    'mono8': _Layout('u1', 1, cv2.COLOR_GRAY2RGB),
    '8UC1': _Layout('u1', 1, cv2.COLOR_GRAY2RGB),
    'rgb16': _Layout('u2', 3),
    'bgr16': _Layout('u2', 3, cv2.COLOR_BGR2RGB),
    '16UC3': _Layout('u2', 3, cv2.COLOR_BGR2RGB),
    'rgba16': _Layout('u2', 4, cv2.COLOR_RGBA2RGB),
    'bgra16': _Layout('u2', 4, cv2.COLOR_BGRA2RGB),
    '16UC4': _Layout('u2', 4, cv2.COLOR_BGRA2RGB),
    'mono16': _Layout('u2', 1, cv2.COLOR_GRAY2RGB),
    'uyvy': _Layout('u1', 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuv422': _Layout('u1', 2, cv2.COLOR_YUV2RGB_UYVY),
    'yuyv': _Layout('u1', 2, cv2.COLOR_YUV2RGB_YUYV),
    'yuv422_yuy2': _Layout('u1', 2, cv2.COLOR_YUV2RGB_YUYV),
    'nv12': _Layout('u1', 1, cv2.COLOR_YUV2RGB_NV12, planar=True),
    'nv21': _Layout('u1', 1, cv2.COLOR_YUV2RGB_NV21, planar=True),
    **{f'bayer_{p}{bits}': _Layout(f'u{bits // 8}', 1, c) for p, c in _BAYER.items() for bits in (8, 16)},
}
# REP-118: millimetres as 16 bit, metres as float. Some drivers label the former mono16.
_DEPTH = {'16UC1': _Layout('u2', 1), 'mono16': _Layout('u2', 1), '32FC1': _Layout('f4', 1)}

_JPEG_START, _JPEG_SCAN, _JPEG_END = b'\xff\xd8', b'\xff\xda', b'\xff\xd9'


def image_to_rgb(msg: Any) -> Pixels:
    """The pixels of a colour or grey sensor_msgs/Image as RGB.

    `rgb8` is a read-only view of the message's own data, whatever its step. 16 bit values are divided by 257, as in
    cv_bridge, so that full scale stays white; a camera that leaves 10 or 12 bits in the low end comes out dark.

    Args:
        msg: the message; never changed.

    Returns:
        (height, width, 3) uint8.

    Raises:
        ImageError: the message contradicts itself, is a depth image, or has an encoding that nobody here can read.
    """
    layout = _COLOUR.get(msg.encoding)
    if layout is None:
        return _without_layout(msg)
    pixels = _view(msg, layout)
    if layout.code is not None:
        pixels = cv2.cvtColor(pixels, layout.code)
    return np.asarray(pixels if layout.dtype == 'u1' else cv2.convertScaleAbs(pixels, alpha=1 / 257), np.uint8)


def depth_to_metres(msg: Any) -> FloatArray:
    """A depth sensor_msgs/Image in metres.

    Args:
        msg: 16UC1 or mono16 in millimetres, 0 meaning unknown; or 32FC1 in metres. Never changed.

    Returns:
        (height, width) float32 metres, a new array; NaN where the depth is zero, negative or not finite.

    Raises:
        ImageError: the message contradicts itself or is not a depth image.
    """
    layout = _DEPTH.get(msg.encoding)
    if layout is None:
        raise _error(msg, 'this is not depth; set depth_topics to a topic of 16UC1 millimetres or 32FC1 metres')
    depth = _view(msg, layout).astype(np.float32)
    if layout.dtype == 'u2':
        depth *= np.float32(0.001)
    depth[~((depth > 0) & (depth < np.inf))] = np.nan
    return depth


def compressed_to_rgb(msg: Any) -> Pixels:
    """Decode a sensor_msgs/CompressedImage: JPEG, PNG or any other format that OpenCV reads.

    The pixels come as they were stored: a rotation in the EXIF data is ignored, so that boxes fit camera_info.

    Returns:
        (H, W, 3) uint8 RGB, a new array.

    Raises:
        ImageError: the data is depth, cut short, or no image.
    """
    encoding = msg.format.split(';')[0].strip()
    if 'compressedDepth' in msg.format or encoding in ('16UC1', '32FC1'):
        raise _error(
            msg, 'this is depth, not colour; set depth_topics to the raw depth topic (image_transport republish)'
        )
    try:
        return decode(bytes(msg.data))
    except ImageError as error:
        raise _error(msg, f'{error}; check the link to the camera, and send complete JPEG or PNG data') from None


def decode(data: bytes, *, as_shown: bool = False) -> Pixels:
    """The pixels of a JPEG, a PNG or whatever else OpenCV reads, as (H, W, 3) uint8 RGB.

    Args:
        data: the whole file.
        as_shown: as a viewer shows it, turned as its EXIF data says and what is transparent on white. A file with
            transparency is not turned; cameras make none.

    Raises:
        ImageError: it is cut short or no image.
    """
    if data.startswith(_JPEG_START) and _cut_short(data):
        raise ImageError('the JPEG is cut short')
    if as_shown and not data.startswith(_JPEG_START):  # a JPEG has no transparency
        pixels = _decoded(data, cv2.IMREAD_UNCHANGED)
        if pixels.shape[2:] == (4,) and pixels.dtype in (np.uint8, np.uint16):
            return _on_white(pixels)
    pixels = _decoded(data, cv2.IMREAD_COLOR | (0 if as_shown else cv2.IMREAD_IGNORE_ORIENTATION))
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def _decoded(data: bytes, flags: int) -> NDArray[Any]:
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise ImageError('it cannot be decoded')
    return pixels


def _on_white(pixels: NDArray[Any]) -> Pixels:
    """(H, W, 4) BGRA of 8 or 16 bits composited on white, as RGB."""
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=1 / 257)
    colour, alpha = pixels[..., 2::-1].astype(np.uint16), pixels[..., 3:].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def to_field(values: ArrayLike, typecode: str) -> array.array[Any]:
    """Values as the flat array.array that a message field of `typecode` ('B' uint8, 'f' float32, 'q' int64, ...) takes.

    A numpy array given to the generated setter is walked element by element: half a second for an image.
    """
    field: array.array[Any] = array.array(typecode)
    field.frombytes(np.ascontiguousarray(values, np.dtype(typecode)).reshape(-1).view(np.uint8).data)
    return field


def _view(msg: Any, layout: _Layout) -> NDArray[Any]:
    """The message's pixels in their own layout and byte order, read-only and, where OpenCV can step so, not copied."""
    problem = _problem(msg, layout)
    if problem:
        raise _error(msg, problem)
    stored = np.dtype(layout.dtype).newbyteorder('>' if msg.is_bigendian else '<')
    shape = (_rows(msg, layout), msg.width, layout.channels)[: 2 if layout.channels == 1 else 3]
    strides = (msg.step, layout.channels * stored.itemsize, stored.itemsize)[: len(shape)]
    view: NDArray[Any] = np.ndarray(shape, stored, msg.data, 0, strides)
    view.flags.writeable = False
    return view if view.flags.aligned else view.copy()


def _problem(msg: Any, layout: _Layout) -> str:
    """What is wrong with the message's sizes and how to mend it; '' when they agree."""
    row = msg.width * layout.channels * np.dtype(layout.dtype).itemsize
    size = msg.step * _rows(msg, layout)
    odd = msg.width % 2 or (layout.planar and msg.height % 2)
    checks = (
        (not (msg.width and msg.height), 'it has no pixels; check that the camera driver is configured'),
        (layout.paired and odd, 'yuv needs an even size; set one in the camera driver, or publish rgb8'),
        (msg.step < row, f'a row takes {row} bytes; set step in the camera driver to at least that'),
        (len(msg.data) != size, f'step and height ask for {size} bytes; make the camera driver fill in what it sends'),
    )
    return next((text for wrong, text in checks if wrong), '')


def _rows(msg: Any, layout: _Layout) -> int:
    return msg.height * 3 // 2 if layout.planar else msg.height


def _without_layout(msg: Any) -> Pixels:
    """Refuse depth, and leave what the table lacks to cv_bridge."""
    if msg.encoding in _DEPTH:
        raise _error(
            msg, 'this is depth, it has no brightness; name it in depth_topics, or publish grey as mono8 or mono16'
        )
    try:
        # Imported here and never at start: an installed cv_bridge that does not fit numpy must not stop the node.
        from cv_bridge import CvBridge

        return np.asarray(CvBridge().imgmsg_to_cv2(msg, 'rgb8'), np.uint8)
    except Exception as error:  # it raises its own errors, KeyError, cv2.error and, when built for another numpy, more
        supported = ', '.join(sorted(_COLOUR))
        raise _error(msg, f'unknown encoding ({error}); publish one of {supported}') from error


def _cut_short(jpeg: bytes) -> bool:
    """Whether the end of image is missing; OpenCV 4.6 fills the rest with grey without a word.

    A JPEG may carry a thumbnail with an end of its own, so no scan may follow the last end. Bytes after it are allowed.
    """
    end = jpeg.rfind(_JPEG_END)
    return end < 0 or jpeg.find(_JPEG_SCAN, end) >= 0


def _error(msg: Any, problem: str) -> ImageError:
    if hasattr(msg, 'format'):
        return ImageError(f"compressed image of format '{msg.format}', {len(msg.data)} bytes: {problem}")
    sizes = f'{msg.width}x{msg.height} pixels, step {msg.step}, {len(msg.data)} bytes'
    return ImageError(f"image of encoding '{msg.encoding}', {sizes}: {problem}")
