# SPDX-License-Identifier: Apache-2.0
"""Image messages: every encoding against pixels that were worked out some other way, and every way to be malformed."""

from __future__ import annotations

import array
import io
import os
import subprocess
import sys
import types

import cv2
import numpy as np
import pytest
import skimage.data
from PIL import Image as PillowImage
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from embedder_ros import images
from embedder_ros.images import ImageError
from embedder_ros.nodes.images import rgb_to_image, rgb_to_jpeg
from embedder_ros.types import UserError

RGB = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
GREY = RGB[..., 0]
GREY_RGB = np.stack([GREY] * 3, axis=2)
PHOTOS = ('astronaut', 'coffee', 'chelsea', 'rocket')
PATTERNS = {'rggb': (0, 1, 1, 2), 'bggr': (2, 1, 1, 0), 'gbrg': (1, 2, 0, 1), 'grbg': (1, 0, 2, 1)}


def message(
    encoding: str, rows: np.ndarray, *, height: int = 0, width: int = 0, pad: int = 0, big: bool = False
) -> Image:
    """A message from (rows, ...) pixels; `pad` bytes of noise end every row."""
    data = np.ascontiguousarray(rows, rows.dtype.newbyteorder('>' if big else '<'))
    lines = data.view(np.uint8).reshape(len(rows), -1)
    lines = np.hstack([lines, np.full((len(rows), pad), 173, np.uint8)])
    msg = Image(encoding=encoding, height=height or len(rows), width=width or rows.shape[1], is_bigendian=int(big))
    msg.step, msg.data = lines.shape[1], array.array('B', lines.tobytes())
    return msg


def wide(pixels: np.ndarray) -> np.ndarray:
    """8 bit values as the 16 bit values of the same brightness."""
    return pixels.astype(np.uint16) * 257


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    """Four channels, the last being noise."""
    return np.concatenate([pixels, GREY[..., None].astype(pixels.dtype)], axis=2)


def yuv(colour: np.ndarray) -> np.ndarray:
    """BT.601 video range by the textbook's matrix, (..., 3) RGB to (..., 3) Y U V."""
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    return np.rint(colour @ matrix.T + [16, 128, 128]).astype(np.uint8)


def blocks() -> np.ndarray:
    """(6, 8, 3) RGB in 2x2 blocks of one colour, so that shared chroma loses nothing."""
    return RGB[::2, ::2].repeat(2, axis=0).repeat(2, axis=1)


def packed(order: str) -> np.ndarray:
    """The blocks as 4:2:2, two bytes a pixel, in the order of four letters such as 'uyvy'."""
    y, u, v = np.moveaxis(yuv(blocks()), 2, 0)
    luma, parts = iter((y[:, 0::2], y[:, 1::2])), {'u': u[:, ::2], 'v': v[:, ::2]}
    return np.stack([next(luma) if c == 'y' else parts[c] for c in order], axis=2).reshape(6, 8, 2)


def semiplanar(order: str) -> np.ndarray:
    """The blocks as 4:2:0, rows of luma, then rows of chroma in the order 'uv' or 'vu'."""
    y, u, v = np.moveaxis(yuv(blocks()), 2, 0)
    first, second = {'uv': (u, v), 'vu': (v, u)}[order]
    return np.vstack([y, np.stack([first[::2, ::2], second[::2, ::2]], axis=2).reshape(3, 8)])


def mosaic(pixels: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor with this pattern sees of (H, W, 3) RGB."""
    seen = np.zeros_like(pixels[..., 0])
    for place, channel in enumerate(PATTERNS[pattern]):
        y, x = divmod(place, 2)
        seen[y::2, x::2] = pixels[y::2, x::2, channel]
    return seen


EXACT = {
    'rgb8': (RGB, RGB),
    'bgr8': (RGB[..., ::-1], RGB),
    '8UC3': (RGB[..., ::-1], RGB),
    'rgba8': (with_alpha(RGB), RGB),
    'bgra8': (with_alpha(RGB[..., ::-1]), RGB),
    '8UC4': (with_alpha(RGB[..., ::-1]), RGB),
    'mono8': (GREY, GREY_RGB),
    '8UC1': (GREY, GREY_RGB),
    'mono16': (wide(GREY), GREY_RGB),
    'rgb16': (wide(RGB), RGB),
    'bgr16': (wide(RGB[..., ::-1]), RGB),
    '16UC3': (wide(RGB[..., ::-1]), RGB),
    'rgba16': (with_alpha(wide(RGB)), RGB),
    'bgra16': (with_alpha(wide(RGB[..., ::-1])), RGB),
    '16UC4': (with_alpha(wide(RGB[..., ::-1])), RGB),
}
YUV = {
    'uyvy': packed('uyvy'),
    'yuv422': packed('uyvy'),
    'yuyv': packed('yuyv'),
    'yuv422_yuy2': packed('yuyv'),
    'nv12': semiplanar('uv'),
    'nv21': semiplanar('vu'),
}
BAYER = [f'bayer_{pattern}{bits}' for pattern in PATTERNS for bits in (8, 16)]


def bayer(encoding: str, pixels: np.ndarray) -> np.ndarray:
    """What a sensor sends under this encoding."""
    seen = mosaic(pixels, encoding[6:10])
    return wide(seen) if encoding.endswith('16') else seen


@pytest.mark.parametrize('pad', [0, 3, 16])
@pytest.mark.parametrize('encoding', EXACT)
def test_exact_encodings_with_and_without_padded_rows(encoding: str, pad: int) -> None:
    """Colour order, alpha and depth are right to the last bit, wherever a row ends."""
    stored, expected = EXACT[encoding]
    np.testing.assert_array_equal(images.image_to_rgb(message(encoding, stored, pad=pad)), expected)


@pytest.mark.parametrize('encoding', [e for e in EXACT if '16' in e])
def test_big_endian_is_honoured(encoding: str) -> None:
    """The same picture with its bytes the other way round."""
    stored, expected = EXACT[encoding]
    np.testing.assert_array_equal(images.image_to_rgb(message(encoding, stored, big=True)), expected)


def test_endianness_means_nothing_for_bytes() -> None:
    """Drivers set the flag at random on 8 bit images."""
    msg = message('rgb8', RGB)
    msg.is_bigendian = 1
    np.testing.assert_array_equal(images.image_to_rgb(msg), RGB)


def test_16_bit_rounds_over_the_full_range() -> None:
    """Every one of the 65536 levels goes to the nearest of 256."""
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(levels / 257).astype(np.uint8)
    np.testing.assert_array_equal(images.image_to_rgb(message('mono16', levels))[..., 1], expected)


@pytest.mark.parametrize('pad', [0, 5])
@pytest.mark.parametrize('encoding', YUV)
def test_yuv_against_the_textbook(encoding: str, pad: int) -> None:
    """Rounding to 8 bit video range costs up to 3 levels; swapped chroma would cost a hundred."""
    rgb = images.image_to_rgb(message(encoding, YUV[encoding], height=6, width=8, pad=pad))
    assert rgb.shape == (6, 8, 3)
    assert np.abs(rgb.astype(int) - blocks()).max() <= 3


@pytest.mark.parametrize('encoding', BAYER)
def test_bayer_of_one_colour_is_that_colour(encoding: str) -> None:
    """A wrong pattern would mix or swap the three."""
    colour = np.broadcast_to(np.array([200, 90, 20], np.uint8), (6, 8, 3))
    for pad in (0, 4):
        rgb = images.image_to_rgb(message(encoding, bayer(encoding, colour), pad=pad))
        np.testing.assert_array_equal(rgb, colour)


@pytest.mark.parametrize('encoding', BAYER)
def test_bayer_of_a_photograph(encoding: str) -> None:
    """Demosaicing a smooth photograph comes close to it."""
    photo = cv2.GaussianBlur(skimage.data.coffee(), (0, 0), 2)
    rgb = images.image_to_rgb(message(encoding, bayer(encoding, photo)))
    assert np.abs(rgb.astype(int) - photo).mean() < 1.5


def test_bayer_16_big_endian() -> None:
    """Byte order is mended before the mosaic is."""
    colour = np.broadcast_to(np.array([200, 90, 20], np.uint8), (6, 8, 3))
    msg = message('bayer_rggb16', bayer('bayer_rggb16', colour), big=True)
    np.testing.assert_array_equal(images.image_to_rgb(msg), colour)


@pytest.mark.parametrize('pad', [0, 7])
def test_rgb8_is_a_read_only_view(pad: int) -> None:
    """No copy, and no way to write into somebody else's message."""
    msg = message('rgb8', RGB, pad=pad)
    rgb = images.image_to_rgb(msg)
    assert np.shares_memory(rgb, np.frombuffer(msg.data, np.uint8))
    with pytest.raises(ValueError, match='read-only'):
        rgb[0, 0, 0] = 1
    msg.data[0] ^= 255
    assert rgb[0, 0, 0] == msg.data[0]


def test_no_message_is_changed() -> None:
    """Whatever the encoding, the data stay as they were, and what is returned is not a writable part of them."""
    messages = [message(e, stored) for e, (stored, _) in EXACT.items()]
    messages += [message(e, rows, height=6, width=8) for e, rows in YUV.items()]
    messages += [message(e, bayer(e, RGB)) for e in BAYER]
    assert {m.encoding for m in messages} == set(images._COLOUR)
    for msg in messages:
        before = bytes(msg.data)
        rgb = images.image_to_rgb(msg)
        assert bytes(msg.data) == before
        assert rgb.dtype == np.uint8 and rgb.shape == (6, 8, 3)
        assert msg.encoding == 'rgb8' or not np.shares_memory(rgb, np.frombuffer(msg.data, np.uint8))


@pytest.mark.parametrize('photo', PHOTOS)
def test_photographs_survive_every_way_out_and_in(photo: str) -> None:
    """Publish and read back: raw without loss, JPEG nearly, 1 % JPEG recognisably."""
    rgb, header = getattr(skimage.data, photo)(), Header(frame_id='camera')
    for encoding in ('rgb8', 'bgr8'):
        msg = rgb_to_image(rgb, header, encoding)
        assert msg.header.frame_id == 'camera'
        np.testing.assert_array_equal(images.image_to_rgb(msg), rgb)
    for quality, tolerance in ((95, 4), (1, 30)):
        error = images.compressed_to_rgb(rgb_to_jpeg(rgb, header, quality)).astype(int) - rgb
        assert np.abs(error).mean() < tolerance
        assert abs(np.mean(error, axis=(0, 1))).max() < tolerance  # no channel is swapped


def test_publishing_a_cut_out_grey_and_an_unknown_encoding() -> None:
    """A strided cut-out is published as it looks; grey by the usual weights; anything else is refused."""
    msg = rgb_to_image(RGB[1:5, 2:7], Header())
    assert (msg.height, msg.width, msg.step) == (4, 5, 15)
    np.testing.assert_array_equal(images.image_to_rgb(msg), RGB[1:5, 2:7])
    grey = images.image_to_rgb(rgb_to_image(RGB, Header(), 'mono8'))[..., 0]
    assert np.abs(grey - RGB @ [0.299, 0.587, 0.114]).max() <= 1
    with pytest.raises(ImageError, match='rgb8, bgr8, mono8'):
        rgb_to_image(RGB, Header(), 'hsv8')


def test_publishing_with_field_checks_on() -> None:
    """The generated setters have a second, checking mode, chosen at import; both take what we give."""
    code = (
        'import numpy as np\nfrom std_msgs.msg import Header\nfrom embedder_ros import images\n'
        'from embedder_ros.nodes.images import rgb_to_image, rgb_to_jpeg\n'
        'rgb = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)\n'
        'assert (images.image_to_rgb(rgb_to_image(rgb, Header())) == rgb).all()\n'
        'assert images.compressed_to_rgb(rgb_to_jpeg(rgb, Header())).shape == (3, 4, 3)\n'
    )
    environment = {**os.environ, 'ROS_PYTHON_CHECK_FIELDS': '1'}
    subprocess.run([sys.executable, '-c', code], env=environment, check=True, timeout=120)


def test_field_arrays() -> None:
    """Flat, typed, and fine when empty."""
    assert images.to_field([[1, 2], [3, 4]], 'q') == array.array('q', [1, 2, 3, 4])
    assert images.to_field(np.empty((0, 4)), 'f') == array.array('f')
    assert images.to_field(np.arange(6.0).reshape(2, 3).T, 'f').tolist() == [0, 3, 1, 4, 2, 5]


def malformed(**changes: object) -> Image:
    """A good rgb8 message with some fields changed."""
    msg = message('rgb8', RGB)
    for name, value in changes.items():
        setattr(msg, name, value)
    return msg


BAD = {
    'zero width': (malformed(width=0), 'no pixels.*driver'),
    'zero height': (malformed(height=0), 'no pixels.*driver'),
    'all empty': (Image(encoding='rgb8'), 'no pixels.*driver'),
    'step zero': (malformed(step=0), 'a row takes 24 bytes; set step'),
    'step too small': (malformed(step=23), 'a row takes 24 bytes; set step'),
    'step too large': (malformed(step=25), 'ask for 150 bytes; make the camera driver'),
    'short data': (malformed(data=array.array('B', bytes(143))), 'ask for 144 bytes; make'),
    'no data': (malformed(data=array.array('B')), 'ask for 144 bytes; make'),
    'long data': (malformed(data=array.array('B', bytes(145))), 'ask for 144 bytes; make'),
    'huge': (malformed(width=2**32 - 1, height=2**32 - 1), 'a row takes'),
    'step of another encoding': (malformed(encoding='rgba8'), 'a row takes 32 bytes; set step'),
    'unknown encoding': (malformed(encoding='hsv8'), 'publish one of .*bayer_bggr16.*rgb8'),
    'no encoding': (malformed(encoding=''), 'publish one of .*rgb8'),
    'depth 16': (message('16UC1', wide(GREY)), 'depth_topics.*mono16'),
    'depth float': (message('32FC1', GREY.astype(np.float32)), 'depth_topics.*mono8'),
    'odd yuv width': (message('uyvy', YUV['uyvy'][:, :7], width=7), 'even size; set'),
    'odd yuyv width, padded': (message('yuyv', YUV['yuyv'], width=7), 'even size; set'),
    'odd nv12 width': (message('nv12', YUV['nv12'][:, :7], height=6), 'even size; set'),
    'odd nv21 height': (message('nv21', YUV['nv21'], height=5), 'even size; set'),
    'nv12 without chroma': (message('nv12', YUV['nv12'][:6]), 'ask for 72 bytes; make'),
    'odd bytes of 16 bit': (message('mono16', GREY), 'a row takes 16 bytes; set step'),
}


@pytest.mark.parametrize('case', BAD)
def test_malformed_images_name_encoding_sizes_and_remedy(case: str) -> None:
    """Nothing is guessed: the error says what came, what is wrong with it and what to change."""
    msg, remedy = BAD[case]
    with pytest.raises(ImageError, match=remedy) as caught:
        images.image_to_rgb(msg)
    assert isinstance(caught.value, UserError)
    for fact in (f"'{msg.encoding}'", f'{msg.width}x{msg.height}', f'step {msg.step}', f'{len(msg.data)} bytes'):
        assert fact in str(caught.value)


def test_unknown_encodings_go_to_an_installed_cv_bridge(monkeypatch: pytest.MonkeyPatch) -> None:
    """What our table lacks may still be readable there."""
    asked = []

    class CvBridge:
        def imgmsg_to_cv2(self, msg: Image, encoding: str) -> np.ndarray:
            asked.append((msg.encoding, encoding))
            if msg.encoding == 'nonsense':
                raise KeyError(16)
            return RGB

    monkeypatch.setitem(sys.modules, 'cv_bridge', types.SimpleNamespace(CvBridge=CvBridge))
    np.testing.assert_array_equal(images.image_to_rgb(malformed(encoding='nv24')), RGB)
    assert asked == [('nv24', 'rgb8')]
    with pytest.raises(ImageError, match="'nonsense'.*16.*publish one of"):
        images.image_to_rgb(malformed(encoding='nonsense'))
    np.testing.assert_array_equal(images.image_to_rgb(malformed()), RGB)
    assert len(asked) == 2


def test_a_broken_cv_bridge_disturbs_nobody(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was built for another numpy fails at import; only an encoding that needs it notices."""
    (tmp_path / 'cv_bridge.py').write_text("raise AttributeError('_ARRAY_API not found')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, 'cv_bridge', raising=False)
    np.testing.assert_array_equal(images.image_to_rgb(malformed()), RGB)
    with pytest.raises(ImageError, match='_ARRAY_API not found.*publish one of'):
        images.image_to_rgb(malformed(encoding='nv24'))


@pytest.mark.parametrize('big', [False, True])
@pytest.mark.parametrize('pad', [0, 3])
def test_depth_in_metres(big: bool, pad: int) -> None:
    """Millimetres and metres say the same; what is no distance is NaN; the message stays as it is."""
    metres = np.array([[0.001, 1.5, np.nan], [65.535, 0.25, np.nan]], np.float32)
    millimetres = np.array([[1, 1500, 0], [65535, 250, 0]], np.uint16)
    floats = np.array([[0.001, 1.5, -np.inf], [65.535, 0.25, -1]], np.float32)
    for encoding, stored in (('16UC1', millimetres), ('mono16', millimetres), ('32FC1', floats)):
        msg = message(encoding, stored, pad=pad, big=big)
        before = bytes(msg.data)
        depth = images.depth_to_metres(msg)
        assert depth.dtype == np.float32
        np.testing.assert_allclose(depth, metres, rtol=1e-6)
        assert bytes(msg.data) == before
    unknown = np.array([[0, np.nan, np.inf]], np.float32)
    assert np.isnan(images.depth_to_metres(message('32FC1', unknown, pad=pad, big=big))).all()


@pytest.mark.parametrize('encoding', ['rgb8', '16SC1', 'nonsense', ''])
def test_what_is_not_depth_is_refused(encoding: str) -> None:
    """Colour on a depth topic is a set-up error, and the message says which."""
    with pytest.raises(ImageError, match=f"'{encoding}'.*8x6.*depth_topics.*16UC1"):
        images.depth_to_metres(malformed(encoding=encoding))


def test_malformed_depth() -> None:
    """The sizes are checked as for colour."""
    msg = message('16UC1', wide(GREY))
    msg.step -= 1
    with pytest.raises(ImageError, match='a row takes 16 bytes; set step'):
        images.depth_to_metres(msg)


def compressed(data: bytes, form: str = 'jpeg') -> CompressedImage:
    """A message with this data."""
    return CompressedImage(format=form, data=array.array('B', data))


def encoded(extension: str, pixels: np.ndarray, *options: int) -> bytes:
    """RGB or grey pixels as a file."""
    return cv2.imencode(extension, pixels[..., ::-1] if pixels.ndim == 3 else pixels, options)[1].tobytes()


def test_png_is_exact_in_every_kind() -> None:
    """RGB, alpha, grey and 16 bit grey."""
    transparent = np.dstack([RGB[..., ::-1], GREY])
    for data in (encoded('.png', RGB), cv2.imencode('.png', transparent)[1].tobytes()):
        np.testing.assert_array_equal(images.compressed_to_rgb(compressed(data, 'rgb8; png compressed bgr8')), RGB)
    for grey in (GREY, wide(GREY)):
        np.testing.assert_array_equal(images.compressed_to_rgb(compressed(encoded('.png', grey), 'png')), GREY_RGB)


def test_jpeg_with_trailing_bytes_and_with_a_thumbnail() -> None:
    """Cameras pad their JPEGs, and a thumbnail has an end of its own that must not be taken for the picture's."""
    photo = skimage.data.coffee()
    plain, thumbnail = encoded('.jpg', photo), encoded('.jpg', photo[::8, ::8])
    expected = images.compressed_to_rgb(compressed(plain))
    segment = b'\xff\xef' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    nested = plain[:2] + segment + plain[2:]
    for data in (plain + bytes(300), plain + b'\xff\x00tail', nested):
        np.testing.assert_array_equal(images.compressed_to_rgb(compressed(data)), expected)
    with pytest.raises(ImageError, match='cut short'):
        images.compressed_to_rgb(compressed(nested[:-5000]))


@pytest.mark.parametrize('extension', ['.jpg', '.png'])
@pytest.mark.parametrize('kept', [0.002, 0.05, 0.5, 0.99, -1])
def test_truncated_files_are_never_half_a_picture(extension: str, kept: float) -> None:
    """A frame with a grey half would be embedded as if it had been seen."""
    data = encoded(extension, skimage.data.coffee())
    data = data[: int(kept * len(data)) if kept > 0 else -1]
    with pytest.raises(ImageError, match=f'jpeg.*{len(data)} bytes.*(cut short; check|send complete)'):
        images.compressed_to_rgb(compressed(data))


@pytest.mark.parametrize(
    'data', [b'', b'\x00' * 100, b'not an image', b'\xff\xd8\xff\xd9', b'\xff\xd8' * 50 + b'\xff\xd9']
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    """Nothing, noise and empty JPEGs."""
    with pytest.raises(ImageError, match='send complete JPEG or PNG'):
        images.compressed_to_rgb(compressed(data))


@pytest.mark.parametrize('form', ['16UC1; compressedDepth', '32FC1; compressedDepth rvl', '16UC1; png compressed '])
def test_compressed_depth_is_refused_by_name(form: str) -> None:
    """It would decode to nonsense colours."""
    data = encoded('.png', wide(GREY))
    with pytest.raises(ImageError, match=f'{form[:5]}.*depth_topics'):
        images.compressed_to_rgb(compressed(data, form))


def test_exif_rotation_is_ignored() -> None:
    """The picture as stored is what camera_info and everybody else's boxes are about."""
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees to view
    buffer = io.BytesIO()
    PillowImage.fromarray(skimage.data.coffee()).save(buffer, 'JPEG', exif=exif)
    assert images.compressed_to_rgb(compressed(buffer.getvalue())).shape == (400, 600, 3)
