# SPDX-License-Identifier: Apache-2.0
"""nano's trained networks in torch: a small ObjEmbed head (MODELS.md 1.1), class-agnostic proposals and their refiner.

All stand on what the frozen networks see, so they train on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embedder_ros.models.nano.colour import COLOURS, HISTOGRAM, LOOK, THUMBNAIL, ZONES
from embedder_ros.models.nano.layout import CLASSES_DIM, INDIVIDUAL_DIM, MEANING_DIM, PIXELS_DIM
from embedder_ros.models.nano.proposer import REFINED_MAPS
from embedder_ros.training.photos import COCO_ROWS

WIDTH = 160
FEATURES, POOLED, CLASS_ROWS, TOKEN_CHANNELS, TOKENS = 2928, 1280, 1000, 320, 48
SHADES = 48  # of a box's 4 x 4 cells, three colours each
CROP_CHANNELS = (24, 48, 64, 96)
PIXEL_MEAN, PIXEL_SPREAD = 0.45, 0.25  # of pixels in 0..1, to about -2..2
DARK = 0.05  # added to a brightness before its logarithm

KEPT, CONSTANT = 0.2, 0.18312186  # shares of the individual part and of the constant in an object vector, as shipped
MAP_CHANNELS = {'s4': 24, 's8': 40, 's16': 112, 's32': 320}  # of the backbone's maps
CELLS = 12  # of a side of a box that is refined; its pixels are seen twice as fine
SIDE = 30.0  # pixels of a typical refined box

FLOOR = 0.06  # root of a class's probability below which it says nothing: the tail of a softmax is noise


def bounded(rows: Tensor) -> Tensor:
    """Shorten rows to below length 1 and keep short ones almost as they are."""
    return rows / torch.sqrt(1.0 + rows.square().sum(-1, keepdim=True))


def centred(images: Tensor) -> Tensor:
    """(B, H, W, 3) of 0..255 to (B, 3, H, W) of about -2..2."""
    return (images.permute(0, 3, 1, 2).float() / 255 - PIXEL_MEAN) / PIXEL_SPREAD


class Crops(nn.Module):
    """Tells individuals apart by the pixels of their boxes; features made for naming overlook pattern and shade."""

    def __init__(self) -> None:
        super().__init__()
        one, two, three, four = CROP_CHANNELS
        self.body = nn.Sequential(_conv(3, one, 2), _conv(one, two, 2), _conv(two, three), _conv(three, four, 2))
        self.last = _conv(four, four)
        self.norm = nn.LayerNorm(5 * four)
        self.pixels = nn.Sequential(nn.Dropout(0.1), nn.Linear(5 * four + SHADES + 2, PIXELS_DIM))

    def forward(self, crops: Tensor, shade: Tensor, geometry: Tensor) -> Tensor:
        """Unit rows (K, PIXELS_DIM).

        Args:
            crops: (K, CROP, CROP, 3), values 0..255.
            shade: (K, SHADES) of `shades`.
            geometry: (K, 6), of which size and aspect are read.
        """
        value = self.body(centred(crops))
        value = value + self.last(value)
        half = value.shape[-1] // 2
        upper, lower, middle = value[:, :, :half], value[:, :, -half:], value[:, :, 1:-1, 1:-1]
        parts = [value.mean((2, 3)), value.amax((2, 3)), *(part.mean((2, 3)) for part in (upper, lower, middle))]
        known = torch.cat([self.norm(torch.cat(parts, 1)), shade, geometry[:, 4:]], 1)
        return F.normalize(self.pixels(known), dim=1)


def shades(look: Tensor) -> Tensor:
    """(N, SHADES) how bright and coloured each box is against the whole image, the last row of `look` (N, LOOK)."""
    box = torch.log(look[:, THUMBNAIL] + DARK)
    whole = torch.log(look[-1, THUMBNAIL].unflatten(0, (-1, 3)).mean(0) + DARK)
    return box - whole.repeat(SHADES // 3)


class Head(nn.Module):
    """Object token and IoU token per box, one transformer over all boxes and the image's 48 cells.

    The last row of every input is the whole image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(FEATURES)
        self.regions = nn.Sequential(nn.Dropout(0.15), nn.Linear(FEATURES, 224), nn.GELU(), nn.Linear(224, WIDTH))
        self.pooled = nn.Sequential(nn.LayerNorm(POOLED), nn.Dropout(0.15), nn.Linear(POOLED, WIDTH))
        self.kinds = nn.Linear(CLASS_ROWS + COCO_ROWS, WIDTH, bias=False)
        self.look = nn.Linear(LOOK, WIDTH)
        self.place = nn.Sequential(nn.Linear(6, 64), nn.GELU(), nn.Linear(64, WIDTH))
        self.iou_base = nn.Parameter(torch.randn(WIDTH) * 0.02)
        self.iou_place = nn.Linear(6, WIDTH)
        self.cells = nn.Sequential(nn.LayerNorm(TOKEN_CHANNELS), nn.Linear(TOKEN_CHANNELS, WIDTH))
        self.cell_place = nn.Parameter(torch.randn(TOKENS, WIDTH) * 0.02)
        self.thing = nn.Parameter(torch.randn(WIDTH) * 0.02)  # tells the object tokens of boxes from the whole image's
        self.whole = nn.Parameter(torch.randn(WIDTH) * 0.02)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 3 * WIDTH, 0.1, 'gelu', batch_first=True, norm_first=True)
        self.transformer = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.final = nn.LayerNorm(WIDTH)
        self.meaning = nn.Linear(2 * WIDTH, MEANING_DIM)
        self.iou = nn.Sequential(nn.Linear(2 * WIDTH, 96), nn.GELU(), nn.Linear(96, 1))
        self.individual = nn.Linear(2 * WIDTH + LOOK, INDIVIDUAL_DIM)
        self.classes = nn.Linear(CLASS_ROWS + COCO_ROWS, CLASSES_DIM, bias=False)
        zones = ZONES * len(COLOURS)
        self.colour = nn.Sequential(nn.Linear(zones, 32), nn.GELU(), nn.Linear(32, len(COLOURS)))
        nn.init.zeros_(self.colour[2].weight)
        # Before any training a colour is what most of the box shows, its centre first.
        seen = torch.cat([torch.eye(len(COLOURS)) * share for share in (1.8, 1.2, 0.0)])
        self.register_buffer('seen', seen)
        self.shares = nn.Parameter(torch.tensor([0.6, 0.6, 0.3]))  # meaning, classes, colours

    def weights(self) -> Tensor:
        """(4,) shares of meaning, classes, colours and constant in an object vector.

        With that of the individual their squares sum to 1. Training would let two of them vanish, so they are fixed: no
        query asks for the individual, and the bias says what the constant could; without it queries cannot be moved
        (models/nano/evening.py).
        """
        learned = (1 - KEPT**2 - CONSTANT**2) ** 0.5 * F.normalize(self.shares.abs(), dim=0)
        return torch.cat([learned, learned.new_tensor([CONSTANT])])

    def forward(self, batch: dict[str, Tensor], padding: Tensor | None = None) -> dict[str, Tensor]:
        """Batches (B, N, ...) to parts (B, N, ...) and the IoU logit (B, N); padding (B, N) is True on unused rows."""
        shown = torch.cat([torch.exp(batch['classes'] / 2), batch['coco'].clamp(min=0).sqrt()], -1)
        base = self.regions(self.norm(batch['features'])) + self.pooled(batch['pooled']) + self.look(batch['look'])
        base = base + self.kinds(shown) + self.place(batch['geometry'])
        objects, boxes = self._attend(base, batch, padding)
        both = torch.cat([objects, base], -1)
        names = batch['look'][..., : ZONES * len(COLOURS)]
        return {
            'meaning': F.normalize(self.meaning(both), dim=-1),
            'classes': bounded(self.classes(F.relu(shown - FLOOR))),
            'colour': self.colour(names) + names @ self.seen - 1.0,
            'individual': F.normalize(self.individual(torch.cat([both, batch['look']], -1)), dim=-1),
            'histogram': batch['look'][..., -HISTOGRAM:],
            'iou': self.iou(torch.cat([boxes, objects], -1))[..., 0],
        }

    def _attend(self, base: Tensor, batch: dict[str, Tensor], padding: Tensor | None) -> tuple[Tensor, Tensor]:
        count = base.shape[1]
        cells = self.cells(batch['tokens'].flatten(2).transpose(1, 2)) + self.cell_place
        objects = base + torch.cat([self.thing.expand(count - 1, -1), self.whole[None]])
        boxes = self.iou_base + self.iou_place(batch['geometry']) + 0.5 * base
        hidden = None
        if padding is not None:
            hidden = torch.cat([padding, padding, torch.zeros(len(base), TOKENS, dtype=torch.bool)], 1)
        out = self.final(self.transformer(torch.cat([objects, boxes, cells], 1), src_key_padding_mask=hidden))
        return out[:, :count], out[:, count : 2 * count]


class Texts(nn.Module):
    """The trained text side: maps that text.npz holds, applied to precomputed MiniLM vectors."""

    def __init__(self, class_rows: int) -> None:
        super().__init__()
        self.meaning = nn.Linear(384, MEANING_DIM, bias=False)
        self.classes = nn.Linear(class_rows, CLASSES_DIM, bias=False)
        self.offset = nn.Parameter(torch.zeros(4))
        self.shares = nn.Parameter(torch.tensor([0.6, 0.6, 0.5, 0.3]))  # meaning, classes, colours, offset
        self.scale = nn.Parameter(torch.tensor(3.2))  # log
        self.bias = nn.Parameter(torch.tensor(-5.0))


class Proposals(nn.Module):
    """Anchor-free boxes from the backbone's maps: how good a box starts here, and its edges.

    The level at stride 4 is for thin things such as handles. It also looks at the pixels: the backbone's first map does
    not tell where exactly a thing of 8 pixels ends. It is narrow, since it has three quarters of all cells.
    """

    channels, fine_channels, pixel_channels = 64, 48, 24
    reach = (10.0, 24.0, 64.0, 160.0)  # typical distance from a cell to its box's edges per level, pixels

    def __init__(self) -> None:
        super().__init__()
        wide, thin, pixel = self.channels, self.fine_channels, self.pixel_channels
        self.lateral = nn.ModuleList([nn.Conv2d(c, wide, 1) for c in (40, 112, 320)])
        self.smooth = nn.ModuleList([_conv(wide, wide) for _ in range(3)])
        self.score_tower = nn.Sequential(_separable(wide, wide), _separable(wide, wide))
        self.edge_tower = nn.Sequential(_separable(wide, wide), _separable(wide, wide))
        self.score = nn.Conv2d(wide, 1, 3, padding=1)
        self.edges = nn.Conv2d(wide, 4, 3, padding=1)
        self.fine = nn.ModuleDict(
            {
                'pixels': nn.Sequential(_conv(3, pixel, 2, kernel=5), _separable(pixel, thin, 2, kernel=5)),
                'lateral': nn.Conv2d(24, thin, 1),
                'above': nn.Conv2d(wide, thin, 1),
                'tower': nn.Sequential(*(_separable(thin, thin, kernel=5) for _ in range(3))),
                'found': nn.Conv2d(thin, 5, 3, padding=1),  # score and edges
            }
        )
        nn.init.constant_(self.score.bias, -3.5)
        nn.init.zeros_(self.edges.weight)
        nn.init.zeros_(self.fine['found'].weight)
        nn.init.constant_(self.fine['found'].bias[:1], -3.5)

    def forward(
        self, image: Tensor, s4: Tensor, s8: Tensor, s16: Tensor, s32: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Per level score logits (B, h, w) and distances to left, top, right, bottom edges (B, h, w, 4) in pixels.

        Args:
            image: (B, H, W, 3), values 0..255, at the backbone's size.
            s4: (B, 24, H / 4, W / 4), the backbone's map at that stride.
            s8: (B, 40, H / 8, W / 8).
            s16: (B, 112, H / 16, W / 16).
            s32: (B, 320, H / 32, W / 32).
        """
        p5 = self.lateral[2](s32)
        p4 = self.lateral[1](s16) + F.interpolate(p5, size=s16.shape[-2:], mode='nearest')
        p3 = self.lateral[0](s8) + F.interpolate(p4, size=s8.shape[-2:], mode='nearest')
        levels = [smooth(value) for smooth, value in zip(self.smooth, (p3, p4, p5), strict=True)]
        above = F.interpolate(self.fine['above'](levels[0]), size=s4.shape[-2:], mode='nearest')
        fine = F.relu(self.fine['pixels'](centred(image)) + self.fine['lateral'](s4) + above)
        for block in self.fine['tower']:
            fine = fine + block(fine)
        fine = self.fine['found'](fine)
        scores, edges = [fine[:, :1]], [fine[:, 1:]]
        for value in levels:
            scores.append(self.score(self.score_tower(value)))
            edges.append(self.edges(self.edge_tower(value)))
        reached = [reach * torch.exp(e.clamp(-4, 4)) for reach, e in zip(self.reach, edges, strict=True)]
        return [s[:, 0] for s in scores], [r.permute(0, 2, 3, 1) for r in reached]


class Refiner(nn.Module):
    """Where the edges of a thin box really are: it is seen alone, enlarged, in the pixels and the backbone's maps.

    An edge is looked for on the line across it, by its place among CELLS cells (Wang et al. 2020, "Side-aware boundary
    localization", without its classes).
    """

    wide = 48
    around, margin = 1.6, 3.0  # of a box's sides seen, and pixels more on each: what it may lack lies outside
    near = 6.0  # how much less a cell is believed that is a whole window away from the edge as it was

    def __init__(self) -> None:
        super().__init__()
        wide = self.wide
        self.pixels = nn.ModuleList([_conv(3, 32, 2, kernel=5), nn.Conv2d(32, wide, 1)])
        self.lateral = nn.ModuleList([nn.Conv2d(MAP_CHANNELS[name], wide, 1, bias=False) for name in REFINED_MAPS])
        self.size = nn.Linear(2, wide)
        self.place = nn.Parameter(torch.zeros(wide, CELLS, CELLS))
        self.body = nn.ModuleList([_conv(wide, wide) for _ in range(4)])
        self.line = nn.Sequential(nn.Conv1d(2 * wide, wide, 3, padding=1), nn.ReLU(), nn.Conv1d(wide, 2, 3, padding=1))

    def forward(self, shown: Sequence[Tensor], boxes: Tensor) -> Tensor:
        """Better boxes (K, 4) for boxes (K, 4) of at least a pixel, from `enlarged` of their `windows`."""
        value = self.pixels[1](self.pixels[0](shown[0]))
        for lateral, cells in zip(self.lateral, shown[1:], strict=True):
            value = value + lateral(cells)
        sides = torch.log((boxes[:, 2:] - boxes[:, :2]) / SIDE)
        value = F.relu(value + self.place + self.size(sides)[:, :, None, None])
        for block in self.body:
            value = value + block(value)
        across = [torch.cat([value.mean(axis), value.amax(axis)], 1) for axis in (2, 3)]
        edges = torch.stack([self.line(line) + self.prior() for line in across], 2).softmax(3) @ self.middles()
        window = self.windows(boxes)
        return window[:, :2].repeat(1, 2) + edges.flatten(1) * (window[:, 2:] - window[:, :2]).repeat(1, 2)

    def windows(self, boxes: Tensor) -> Tensor:
        """(K, 4) what is looked at of boxes (K, 4), which may lie outside the image."""
        middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        half = half * self.around + self.margin
        return torch.cat([middle - half, middle + half], 1)

    def middles(self) -> Tensor:
        """(CELLS,) where the cells are in a window of length 1."""
        return (torch.arange(CELLS) + 0.5) / CELLS

    def prior(self) -> Tensor:
        """(2, CELLS) for the lower and the upper edge: near the box's own it is believed sooner."""
        own = torch.tensor([[0.5 - 0.5 / self.around], [0.5 + 0.5 / self.around]])
        return -self.near * (self.middles() - own).abs()


def enlarged(values: Tensor, windows: Tensor, stride: int, cells: int) -> Tensor:
    """(K, C, cells, cells) of a map (1, C, h, w), each the mean of 2 x 2 samples: ONNX's RoiAlign with half pixels.

    Args:
        values: the map.
        windows: (K, 4) xyxy pixels; what lies more than a cell outside the map counts as zero.
        stride: pixels per cell of the map.
        cells: of a side of what is given back.
    """
    height, width = values.shape[-2:]
    step = (torch.arange(2 * cells) + 0.5) / (2 * cells)
    low, size = windows[:, :2, None], windows[:, 2:, None] - windows[:, :2, None]
    x, y = ((low + size * step) / stride).unbind(1)  # (K, 2 * cells) each
    grid = torch.stack(torch.broadcast_tensors(2 * x[:, None] / width - 1, 2 * y[:, :, None] / height - 1), -1)
    sampled = F.grid_sample(values, grid.flatten(0, 1)[None], padding_mode='border', align_corners=False)
    inside = ((x >= -0.5) & (x <= width + 0.5))[:, None] & ((y >= -0.5) & (y <= height + 0.5))[:, :, None]
    return F.avg_pool2d(sampled[0].unflatten(1, (len(windows), -1)).transpose(0, 1) * inside[:, None], 2)


def settle(network: nn.Module, look: Callable[[], object]) -> None:
    """Give batch norms the mean and spread of what they see while `look` runs the network, and leave its results.

    `restore` leaves them folded into convolutions; training as they are would norm with numbers they do not have.
    """
    norms = [module for module in network.eval().modules() if isinstance(module, nn.BatchNorm2d)]
    seen: dict[nn.Module, list[Tensor]] = {norm: [] for norm in norms}  # more than one where levels share a tower

    def measure(norm: nn.Module, given: tuple[Tensor]) -> None:
        seen[norm].append(torch.stack(torch.var_mean(given[0], (0, 2, 3))))

    hooks = [norm.register_forward_pre_hook(measure) for norm in norms]
    with torch.no_grad():
        look()
        for norm in norms:
            assert norm.running_mean is not None and norm.running_var is not None
            spread, mean = torch.stack(seen[norm]).mean(0)
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            norm.bias += factor * (mean - norm.running_mean)
            norm.weight.copy_(factor * (spread + norm.eps).sqrt())
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(spread)
    for hook in hooks:
        hook.remove()


def _conv(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    layer = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def _separable(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> nn.Sequential:
    depthwise = nn.Conv2d(inputs, inputs, kernel, stride, padding=kernel // 2, groups=inputs)
    return nn.Sequential(depthwise, nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU())
