# SPDX-License-Identifier: Apache-2.0
"""The network of WeDetect-Uni: ConvNeXt, a YOLOv6-style neck, a YOLO-World-style head (MODELS.md 2.2 to 2.4).

Modules are named as in the checkpoint, but for what `checkpoint.released` tells. Shapes: B images, C channels,
A anchors, P prompts, E length of an embedding, S pixels a side; channels in comments are those of base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (8, 16, 32)
UNITS = 6  # residual units in a Rep block: 12 // 2


@dataclass(frozen=True, slots=True)
class Shape:
    """What differs between base and large; read from a checkpoint's tensors.

    Attributes:
        dims: channels of the four backbone stages.
        depths: blocks of the four backbone stages.
        neck: channels of the outputs at strides 8, 16, 32.
        reg_width, cls_width: channels inside the two heads.
        bins: of the distribution that each side of a box is read from.
        prompts: learned objectness prompts.
        embedding: length of one.
    """

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    neck: tuple[int, int, int]
    reg_width: int = 64
    cls_width: int = 256
    bins: int = 16
    prompts: int = 256
    embedding: int = 768

    @property
    def pixels(self) -> int:
        """Side S of the input: 640 for base, 1280 for large (MODELS.md 2.1)."""
        return 640 if self.dims[0] <= BASE.dims[0] else 1280


BASE = Shape((128, 256, 512, 1024), (3, 3, 27, 3), (128, 256, 512))
LARGE = Shape((192, 384, 768, 1536), (3, 3, 27, 3), (192, 384, 768))


class Raw(NamedTuple):
    """What every anchor says, levels one after the other, each in raster order.

    `boxes` (B, A, 4) xyxy in pixels of the letterboxed image; `logits` (B, A, P) before the sigmoid.
    """

    boxes: Tensor
    logits: Tensor


class WeDetectUni(nn.Module):
    """(B, 3, S, S) RGB in 0..1 to Raw; S is a multiple of 32."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.backbone = _ConvNeXt(shape)
        self.neck = _Neck(shape)
        self.bbox_head = _Head(shape)
        self.embeddings = nn.Parameter(torch.zeros(shape.prompts, shape.embedding))

    def forward(self, pixels: Tensor) -> Raw:
        """See the class; boxes and logits are float32 in any precision."""
        return self.bbox_head(self.neck(self.backbone(pixels)), self.embeddings)

    def lower(self, dtype: torch.dtype) -> WeDetectUni:
        """Compute in `dtype`, but not the comparison with the prompts: scores differ by less than bfloat16's steps."""
        self.to(dtype)
        self.bbox_head.cls_contrasts.float()
        self.embeddings.data = self.embeddings.data.float()
        return self


class _ConvNeXt(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        d = shape.dims
        stem = nn.Sequential(nn.Conv2d(3, d[0], 4, 4), _ChannelNorm(d[0]))
        down = [nn.Sequential(_ChannelNorm(a), nn.Conv2d(a, b, 2, 2)) for a, b in zip(d, d[1:], strict=False)]
        self.downsample_layers = nn.ModuleList([stem, *down])
        self.stages = nn.ModuleList(
            nn.Sequential(*(_Block(width) for _ in range(depth))) for width, depth in zip(d, shape.depths, strict=True)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, C, S / stride, S / stride) at strides 4, 8, 16, 32."""
        out = []
        for down, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(down(x))  # (B, 128, S / 4, S / 4), then twice the channels at half the side
            out.append(x)
        return out


class _ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.pwconv1 = nn.Linear(channels, 4 * channels)
        self.pwconv2 = nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))  # (B, H, W, C)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class _ConvNorm(nn.Module):
    """Convolution without bias, batch norm, activation; under `block` as in the checkpoint."""

    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1, *, silu: bool = False) -> None:
        super().__init__()
        self.block = nn.ModuleDict(
            {
                'conv': nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
                'bn': nn.BatchNorm2d(outputs, eps=1e-5),
            }
        )
        self._silu = silu

    def forward(self, x: Tensor) -> Tensor:
        x = self.block['bn'](self.block['conv'](x))
        return F.silu(x) if self._silu else F.relu(x)


class _Unit(nn.Module):
    """Two 3x3 convolutions beside a path weighted with a learned scalar."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(channels, channels, 3, silu=True)
        self.conv2 = _ConvNorm(channels, channels, 3, silu=True)
        self.alpha = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x)) + self.alpha * x


class _Units(nn.Module):
    """The units one after the other, the first under a name of its own."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _Unit(channels)
        self.block = nn.Sequential(*(_Unit(channels) for _ in range(UNITS - 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.block(self.conv1(x))


class _Rep(nn.Module):
    """BepC3: units on one half of the channels."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.cv1 = _ConvNorm(inputs, outputs // 2, silu=True)
        self.cv2 = _ConvNorm(inputs, outputs // 2, silu=True)
        self.cv3 = _ConvNorm(outputs, outputs, silu=True)
        self.m = _Units(outputs // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class _Upsample(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.upsample_transpose = nn.ConvTranspose2d(channels, channels, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.upsample_transpose(x)


class _BiFusion(nn.Module):
    """A coarse map, the map of the output's resolution and a fine one into one."""

    def __init__(self, same: int, fine: int, channels: int) -> None:
        super().__init__()
        self.cv1 = _ConvNorm(same, channels)
        self.cv2 = _ConvNorm(fine, channels)
        self.cv3 = _ConvNorm(3 * channels, channels)
        self.upsample = _Upsample(channels)
        self.downsample = _ConvNorm(channels, channels, 3, 2)

    def forward(self, coarse: Tensor, same: Tensor, fine: Tensor) -> Tensor:
        return self.cv3(torch.cat([self.upsample(coarse), self.cv1(same), self.downsample(self.cv2(fine))], 1))


class _Neck(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        c1, c2, c3, c4 = shape.dims
        n3, n4, n5 = shape.neck
        self.reduce_layer0 = _ConvNorm(c4, n4)
        self.Bifusion0 = _BiFusion(c3, c2, n4)
        self.Rep_p4 = _Rep(n4, n4)
        self.reduce_layer1 = _ConvNorm(n4, n3)
        self.Bifusion1 = _BiFusion(c2, c1, n3)
        self.Rep_p3 = _Rep(n3, n3)
        self.downsample2 = _ConvNorm(n3, n3, 3, 2)
        self.Rep_n3 = _Rep(2 * n3, n4)
        self.downsample1 = _ConvNorm(n4, n4, 3, 2)
        self.Rep_n4 = _Rep(2 * n4, n5)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps at strides 4, 8, 16, 32 to maps at strides 8, 16, 32."""
        c1, c2, c3, c4 = maps  # 128, 256, 512, 1024 channels
        p5 = self.reduce_layer0(c4)  # 256 at stride 32
        p4 = self.reduce_layer1(self.Rep_p4(self.Bifusion0(p5, c3, c2)))  # 256, then 128, at stride 16
        n3 = self.Rep_p3(self.Bifusion1(p4, c2, c1))  # 128 at stride 8
        n4 = self.Rep_n3(torch.cat([self.downsample2(n3), p4], 1))  # 128 + 128 to 256 at stride 16
        n5 = self.Rep_n4(torch.cat([self.downsample1(n4), p5], 1))  # 256 + 256 to 512 at stride 32
        return [n3, n4, n5]


class _Contrast(nn.Module):
    """(B, E, H, W) to logits (B, H * W, P). The prompts are used as they are, without normalisation."""

    def __init__(self, embedding: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(embedding, eps=1e-3)
        self.bias = nn.Parameter(torch.zeros(()))
        self.logit_scale = nn.Parameter(-torch.ones(()))

    def forward(self, x: Tensor, prompts: Tensor) -> Tensor:
        rows = self.norm(x).flatten(2).transpose(1, 2)  # (B, H * W, E)
        return rows @ prompts.T * self.logit_scale.exp() + self.bias


class _Head(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.reg_preds = nn.ModuleList(_predictor(n, shape.reg_width, 4 * shape.bins) for n in shape.neck)
        self.cls_preds = nn.ModuleList(_predictor(n, shape.cls_width, shape.embedding) for n in shape.neck)
        self.cls_contrasts = nn.ModuleList(_Contrast(shape.embedding) for _ in shape.neck)

    def forward(self, maps: list[Tensor], prompts: Tensor) -> Raw:
        levels = zip(maps, STRIDES, self.reg_preds, self.cls_preds, self.cls_contrasts, strict=True)
        parts = [
            (decode(reg(x).float(), stride), contrast(cls(x).float(), prompts))  # (B, H * W, 4), (B, H * W, P)
            for x, stride, reg, cls, contrast in levels
        ]
        boxes, logits = zip(*parts, strict=True)
        return Raw(torch.cat(boxes, 1), torch.cat(logits, 1))


def _predictor(inputs: int, width: int, outputs: int) -> nn.Sequential:
    """(B, inputs, H, W) to (B, outputs, H, W)."""

    def norm() -> nn.BatchNorm2d:
        return nn.BatchNorm2d(width, eps=1e-3, momentum=0.03)

    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1, bias=False), norm(), nn.SiLU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False), norm(), nn.SiLU(),
        nn.Conv2d(width, outputs, 1),
    )  # fmt: skip


def decode(distribution: Tensor, stride: int) -> Tensor:
    """(B, 4 * bins, H, W) logits to (B, H * W, 4) xyxy pixels: expected distances of the sides from cell centres."""
    batch, channels, height, width = distribution.shape
    bins = torch.arange(channels // 4, device=distribution.device, dtype=distribution.dtype)
    share = distribution.reshape(batch, 4, channels // 4, height * width).softmax(2)
    left, top, right, bottom = ((share * bins[:, None]).sum(2) * stride).unbind(1)  # each (B, H * W)
    y, x = torch.meshgrid(
        *((torch.arange(n, device=bins.device, dtype=bins.dtype) + 0.5) * stride for n in (height, width)),
        indexing='ij',
    )
    x, y = x.flatten(), y.flatten()
    return torch.stack([x - left, y - top, x + right, y + bottom], 2)
