# SPDX-License-Identifier: Apache-2.0
"""Fine-tune an ObjEmbed checkpoint on a user's own labelled frames and merge the result.

A run can be stopped at any time and continued: every batch follows from the seed and its number, and the weights,
the optimiser and the losses so far are kept in one file that is replaced as a whole.
Not measured: how much fine-tuning gains on released weights, and the learning rate for LoRA, for which the paper, which
trains all weights, gives none.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from embedder_ros.models.objembed import image as images
from embedder_ros.models.objembed import prompts, runtime
from embedder_ros.models.objembed.checkpoint import load_objembed
from embedder_ros.models.objembed.embedder import Pixels
from embedder_ros.models.objembed.layout import padded
from embedder_ros.models.objembed.network import ObjEmbed, Vision
from embedder_ros.training.objembed import adapters, processes
from embedder_ros.training.objembed.batch import TEXTS, Batch, DataSet, Example, Task, collate
from embedder_ros.training.objembed.losses import (
    Calibration,
    Losses,
    combine,
    image_blocks,
    image_loss,
    image_weight,
    iou_loss,
    region_loss,
    text_bank,
)
from embedder_ros.training.objembed.optimiser import Trainer
from embedder_ros.training.objembed.sampler import Batches
from embedder_ros.types import UserError

STATE, REPORT = 'resume.pt', 'finetune.json'
EPOCHS = 2  # as the paper's
LR_LORA, LR_FULL = 1e-4, 2e-5  # the second is the paper's; raising either learns faster and forgets more


@dataclass(frozen=True, slots=True)
class Settings:
    """How to train.

    Attributes:
        steps: of the optimiser; 0 for EPOCHS epochs.
        batch_size: images of one forward pass. Raising it gives more wrong answers per object and costs memory.
        accumulate: forward passes per step.
        lr: learning rate; 0 for LR_LORA or LR_FULL.
        lora_rank: of LoRA on the language model; 0 trains all its weights, which takes 14 bytes each.
        added: whether ObjEmbed's own modules and its calibration learn as well.
        precision: 'auto', 'fp32' or 'bf16' of both passes; the optimiser is float32 always.
        checkpointing: recompute layers in the backward pass: less memory, a third slower.
        save_every: steps between saved states; lowering it loses less when a run dies, and costs writing.
        seed: of every random choice.
        min_tokens: fewest image tokens.
        max_tokens: most image tokens.
    """

    steps: int = 0
    batch_size: int = 2
    accumulate: int = 4
    lr: float = 0.0
    lora_rank: int = 8
    added: bool = False
    precision: str = 'auto'
    checkpointing: bool = False
    save_every: int = 100
    seed: int = 0
    min_tokens: int = images.MIN_TOKENS
    max_tokens: int = images.MAX_TOKENS


class Passes:
    """Losses of a batch.

    Args:
        network: to train.
        tokenizer: the checkpoint's.
        pixels: token budget and normalisation.
        flags: content of the checkpoint's config.json.
    """

    def __init__(
        self, network: ObjEmbed, tokenizer: prompts.PromptTokenizer, pixels: Pixels, flags: Mapping[str, Any]
    ) -> None:
        self._network, self._tokenizer, self._pixels = network, tokenizer, pixels
        self._merge = network.model.merge_size
        two = bool(flags.get('use_two_captions', True))
        self._kinds = 2 if two else 1
        self._weight = image_weight(network.config.use_two_tokens, two)
        self._most = int(flags.get('num_classes', 100))

    def losses(self, batch: Batch) -> Losses:
        """One forward pass over images and texts."""
        network, examples, on = self._network, batch.examples, self._network.device
        vision, grids = self._see(examples)
        shapes = (grids[:, 1:] // self._merge).tolist()
        flag = network.config.use_two_tokens
        rows = [
            self._tokenizer.image(e.prompt + prompts.objects_text(len(e.boxes), flag), height * width)
            for e, (height, width) in zip(examples, shapes, strict=True)
        ]
        ids, mask = padded(rows, self._tokenizer.padding)
        sizes = torch.tensor([[e.image.shape[1], e.image.shape[0]] for e in examples])
        boxes = [torch.from_numpy(e.boxes) for e in examples]
        out = network(ids, mask, None, grids, boxes, sizes, vision=vision)
        mine = processes.Shared(batch.texts, self._texts(prompts.OBJECT_TEXT, batch.texts), batch.first)
        bank = text_bank(mine, processes.exchange(mine), most=self._most, apart=batch.apart)
        objects = Calibration(network.logit_log_scale, network.logit_bias)
        region = region_loss(out.object_embeddings.float(), bank, batch.targets.to(on), batch.mask.to(on), objects)
        iou = iou_loss(out.iou_logits.float(), batch.iou.to(on))
        return combine(region, self._image(out.global_embeddings.float(), examples), iou, self._weight)

    def _image(self, whole: Tensor, examples: Sequence[Example]) -> Tensor:
        if not whole.shape[1]:
            return whole.sum() * 0
        captions, others = zip(*(self._captions(examples, kind) for kind in range(self._kinds)), strict=True)
        blocks = image_blocks(whole, captions, others if processes.count() > 1 else ())
        network = self._network
        return image_loss(blocks, Calibration(network.logit_image_log_scale, network.logit_image_bias))

    def _captions(self, examples: Sequence[Example], kind: int) -> tuple[list[Tensor | None], Tensor]:
        """Each image's caption of a kind, and those of other processes' images."""
        given = [e.captions[kind] for e in examples if e.captions[kind]]
        rows = self._texts(prompts.IMAGE_TEXT, given)
        read = iter(rows)
        mine = processes.Shared(given, rows)
        bank = text_bank(mine, processes.exchange(mine))
        return [next(read) if e.captions[kind] else None for e in examples], bank[len(rows) :]

    def _texts(self, template: str, texts: Sequence[str]) -> Tensor:
        if not texts:
            return self._network.logit_bias.new_zeros(0, self._network.config.hidden)
        ids = [self._tokenizer.text(template, text) for text in texts]
        return self._network.embed_text(*padded(ids, self._tokenizer.padding)).float()

    @torch.no_grad()
    def _see(self, examples: Sequence[Example]) -> tuple[Vision, Tensor]:
        """What the vision tower, which is never trained, makes of the images, and their grids of patches (B, 3)."""
        p, config = self._pixels, self._network.config.qwen.vision_config
        cut, grids = [], []
        for example in examples:
            height, width = example.image.shape[:2]
            width, height = images.resized_size(width, height, p.min_tokens, p.max_tokens)
            pixels = images.resize(torch.tensor(example.image, device=self._network.device), width, height)
            options = {'patch': config.patch_size, 'merge': self._merge, 'frames': config.temporal_patch_size}
            cut.append(images.patches(pixels, mean=p.mean, std=p.std, **options))
            grids.append([1, height // config.patch_size, width // config.patch_size])
        grid = torch.tensor(grids)
        return self._network.encode_image(torch.cat(cut), grid), grid


class Run:
    """One fine-tuning from checkpoint to merged folder.

    Args:
        checkpoint: folder of ObjEmbed.
        sets: checked data sets.
        output: folder to make.
        settings: how to train.
        device: 'auto', 'cpu' or 'cuda'.
        resume: continue the run that was stopped in `output`.

    Raises:
        UserError: as `load_objembed`; or `output` holds something else than `resume` says.
    """

    def __init__(
        self,
        checkpoint: Path,
        sets: Sequence[DataSet],
        output: Path,
        settings: Settings,
        *,
        device: str = 'auto',
        resume: bool = False,
    ) -> None:
        check_output(checkpoint, output, resume=resume)
        self._checkpoint, self._sets, self._output = checkpoint, sets, output
        where, sizes = runtime.torch_device(device), [len(s.records) for s in sets]
        rank, count = processes.rank(), processes.count()
        self._batches = Batches(sizes, settings.batch_size, seed=settings.seed, rank=rank, processes=count)
        self.settings = _resolved(settings, len(self._batches), where)
        self.history: list[dict[str, float]] = []
        self._identity = self._identified()
        self._network, self._passes = self._loaded(where)
        output.mkdir(parents=True, exist_ok=True)
        with _memory_is_a_user_error():
            parameters = self._network.named_parameters()
            self._trainer = Trainer(parameters, lr=self.settings.lr, steps=self.settings.steps)
            if resume:
                self._resume()

    def train(self, until: int | None = None) -> None:
        """Train to the end, or to step `until`, saving the state on the way.

        Raises:
            UserError: too little memory, or a loss or gradient that is not a number; what was saved stays.
        """
        last = min(until or self.settings.steps, self.settings.steps)
        hidden = True if processes.rank() else None
        bar = tqdm(range(len(self.history), last), 'finetune', last, initial=len(self.history), disable=hidden)
        with _memory_is_a_user_error():
            for step in bar:
                self.history.append(self._step(step))
                bar.set_postfix({name: f'{self.history[-1][name]:.3f}' for name in Losses._fields})
                if (step + 1) % self.settings.save_every == 0 or step + 1 == last:
                    self.save()

    def save(self) -> None:
        """Keep what a resumed run needs."""
        if processes.rank():
            return
        state = {'identity': self._identity, 'history': self.history, 'trainer': self._trainer.state()}
        adapters.save_state(self._output / STATE, state)

    def finish(self) -> None:
        """Merge into a folder that loads like the checkpoint, write the report, and drop the training state."""
        if processes.rank():
            return
        new, added = adapters.changed(self._network, self._trainer.weights)
        adapters.write_merged(self._checkpoint, self._output, new, added)
        report = {'settings': asdict(self.settings), 'losses': self.history}
        (self._output / REPORT).write_text(json.dumps(report, indent=1))
        (self._output / STATE).unlink(missing_ok=True)

    def summary(self) -> str:
        """The three losses at the beginning and at the end, means of a tenth of all steps each."""
        part = max(1, len(self.history) // 10)
        means = {
            name: [np.mean([h[name] for h in some]) for some in (self.history[:part], self.history[-part:])]
            for name in Losses._fields
        }
        return ', '.join(f'{name} {first:.4f} -> {last:.4f}' for name, (first, last) in means.items())

    def _loaded(self, where: torch.device) -> tuple[ObjEmbed, Passes]:
        settings, folder = self.settings, self._checkpoint
        tokenizer = prompts.PromptTokenizer(folder)
        dtype = runtime.DTYPES[settings.precision]
        network = load_objembed(folder, tokens=tokenizer.special, device=where, dtype=dtype)
        runtime.check_tokens(network.config, tokenizer)
        adapters.prepare(network, rank=settings.lora_rank, added=settings.added, seed=settings.seed)
        if settings.checkpointing:
            network.model.language_model.gradient_checkpointing_enable({'use_reentrant': False})
        pixels = runtime.read_pixels(folder, settings.min_tokens, settings.max_tokens)
        flags = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
        return network, Passes(network.train(), tokenizer, pixels, flags)

    def _step(self, step: int) -> dict[str, float]:
        parts = self.settings.accumulate
        sums = np.zeros(len(Losses._fields))
        for number in range(step * parts, (step + 1) * parts):
            losses = self._passes.losses(self._batch(number))
            (losses.total / parts).backward()
            self._trainer.collect()
            sums += [float(value.detach()) / parts for value in losses]
        sums = processes.average(torch.tensor(sums, device=self._network.device)).cpu().numpy()
        norm = self._trainer.cut()
        if not np.isfinite([*sums, norm]).all():  # a loss that is finite may still have a gradient that is not
            raise UserError(
                f'the loss of step {step}, or its gradient, is not a number; lower --lr, or take --precision fp32, and '
                'start again'
            )
        self._trainer.step()
        return dict(zip(Losses._fields, sums.tolist(), strict=True)) | {'gradient': norm}

    def _batch(self, number: int) -> Batch:
        drawn, size = self._batches[number], self.settings.batch_size
        source = self._sets[drawn.dataset]
        seeds = [[self.settings.seed, drawn.epoch, drawn.dataset, record] for record in drawn.records]
        examples = [
            source.example(record, extra=(size - 1) * TEXTS, rng=np.random.default_rng(seed))
            for record, seed in zip(drawn.records, seeds, strict=True)
        ]
        return collate(examples, apart=source.task is Task.HUMANREF)

    def _resume(self) -> None:
        path = self._output / STATE
        try:
            state: dict[str, Any] = torch.load(path, map_location='cpu', weights_only=True)
            identity = state['identity']
        except Exception as error:  # torch raises many kinds
            raise UserError(f'{path} cannot be read ({error}); start again with another --output') from error
        if changed := [name for name, value in self._identity.items() if identity.get(name) != value]:
            raise UserError(
                f'{path} was begun with another {changed[0]}: {identity.get(changed[0])}; give the same options and '
                'data, or start again with another --output'
            )
        self._trainer.resume(state['trainer'])
        self.history = state['history']

    def _identified(self) -> dict[str, Any]:
        """What must be the same when a run is continued."""
        digest = hashlib.sha256()
        for source in self._sets:
            for r in source.records:
                content = (r.image, r.labels, r.boxes.tolist(), r.negatives, r.captions)
                digest.update(repr((*content, source.proposals[r.image].tolist())).encode())
            digest.update(repr((source.task.name, source.max_objects, source.vocabulary.weights)).encode())
        free = ('save_every', 'checkpointing')
        options = {name: value for name, value in asdict(self.settings).items() if name not in free}
        weights = runtime.weights_hash(self._checkpoint)
        return options | {'checkpoint': weights, 'data': digest.hexdigest(), 'processes': processes.count()}


def _resolved(settings: Settings, batches: int, where: torch.device) -> Settings:
    """Settings with every default that depends on data or device."""
    # On a CPU 'auto' goes by a measurement, which may turn out otherwise when the run is continued.
    asked = 'fp32' if (settings.precision, where.type) == ('auto', 'cpu') else settings.precision
    dtype = runtime.torch_dtype(asked, where)
    return replace(
        settings,
        steps=settings.steps or math.ceil(EPOCHS * batches / settings.accumulate),
        lr=settings.lr or (LR_LORA if settings.lora_rank else LR_FULL),
        precision=next(name for name, value in runtime.DTYPES.items() if value is dtype),
    )


def check_output(checkpoint: Path, output: Path, *, resume: bool) -> None:
    """Raise UserError when `output` holds something else than `resume` says."""
    if output.resolve() == checkpoint.resolve():
        raise UserError(f'{output} is the checkpoint itself; give another folder as --output')
    begun, done = (output / STATE).exists(), (output / REPORT).exists()
    if resume and not begun:
        why = 'is finished' if done else 'holds no run that was begun'
        raise UserError(f'{output} {why}; leave --resume out' + (', and give another --output' if done else ''))
    if not resume and begun:
        raise UserError(f'{output} holds a run that was stopped; continue it with --resume, or give another --output')
    if not resume and output.is_dir() and (done or any(output.glob('*.safetensors'))):
        raise UserError(f'{output} already holds a model; give another --output')


@contextmanager
def _memory_is_a_user_error() -> Iterator[None]:
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # OutOfMemoryError is a RuntimeError; a CPU's has no class of its own
        full = isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)
        if not full:
            raise
        raise UserError(
            'too little memory for a training step; continue with --resume --checkpointing, or begin anew in another '
            '--output with a lower --batch-size (and a higher --accumulate), --max-objects or --max-tokens, or with '
            '--precision bf16'
        ) from error
