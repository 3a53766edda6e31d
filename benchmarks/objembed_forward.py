# SPDX-License-Identifier: Apache-2.0
"""Our ObjEmbed forward pass against a straightforward use of transformers, on random networks of the same weights.

Run `python benchmarks/objembed_forward.py [--device cuda --sizes 2B] [--threads 2]`. The plain way processes every
frame as the library's examples do: image processor, chat template, tokeniser, padding mask, positions, eager attention,
key-value cache, vocabulary head; and every text with every frame, each on its own as the authors do. The ways take
turns in one process, and their embeddings are compared, so that a fast wrong answer cannot win; peak memory comes from
a process each. What cuts regions out of feature maps is the same code on all sides. On one CPU thread processor
seconds are compared, which other programs disturb less than the clock. Not measured: released weights, and proposals.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import ROOT, write_result
from transformers import PreTrainedTokenizerFast, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

sys.path.insert(0, str(ROOT / 'test'))
import tinyobjembed

from embedder_ros.models import objembed
from embedder_ros.models.objembed import prompts
from embedder_ros.models.objembed.cost import frame_tflop, matmul_tflops
from embedder_ros.models.objembed.embedder import ObjEmbedEmbedder
from embedder_ros.models.objembed.network import Vision
from embedder_ros.types import Boxes, Frame, unit_rows

SIZES: dict[str, dict[str, Any]] = {
    'tiny': {},  # the tests': 0.6 M parameters
    'mid': {  # about 85 M parameters; a frame's work is divided between its parts much as in ObjEmbed-2B
        'vision_config': {
            'depth': 8, 'hidden_size': 256, 'intermediate_size': 1024, 'num_heads': 4, 'out_hidden_size': 512,
            'num_position_embeddings': 2304, 'deepstack_visual_indexes': [1, 3, 5],
        },
        'text_config': {
            'vocab_size': 16384, 'hidden_size': 512, 'intermediate_size': 1536, 'num_hidden_layers': 12,
            'num_attention_heads': 8, 'num_key_value_heads': 4, 'head_dim': 64,
            'rope_scaling': {'mrope_interleaved': True, 'mrope_section': [12, 10, 10], 'rope_type': 'default'},
        },
    },
    '2B': {  # the shape of ObjEmbed-2B; a GPU's
        'vision_config': {
            'depth': 24, 'hidden_size': 1024, 'intermediate_size': 4096, 'num_heads': 16, 'out_hidden_size': 2048,
            'num_position_embeddings': 2304, 'deepstack_visual_indexes': [5, 11, 17],
        },
        'text_config': {
            'vocab_size': 151936, 'hidden_size': 2048, 'intermediate_size': 6144, 'num_hidden_layers': 28,
            'num_attention_heads': 16, 'num_key_value_heads': 8, 'head_dim': 128,
            'rope_scaling': {'mrope_interleaved': True, 'mrope_section': [24, 20, 20], 'rope_type': 'default'},
        },
    },
}  # fmt: skip
WIDTH, HEIGHT, BOXES = 640, 480, 100
TEXT = 'the red mug left of the kettle'
TEXT_COUNTS = (0, 4, 80)  # none is new; a few questions; the classes of COCO


class Plain:
    """The same network as a user of transformers would write it down, sharing the weights."""

    def __init__(self, folder: Path, ours: ObjEmbedEmbedder, *, attention: str = 'eager', head: bool = True) -> None:
        self.ours, self.head = ours.network, head
        config = copy.deepcopy(ours.network.config.qwen)  # it holds the kind of attention, for whoever shares it
        with torch.device('meta'):
            self.model = Qwen3VLForConditionalGeneration._from_config(config, attn_implementation=attention).eval()
        state = ours.network.state_dict()
        state['lm_head.weight'] = state['model.language_model.embed_tokens.weight']
        own = self.model.state_dict().keys()
        self.model.load_state_dict({key: state[key] for key in own}, assign=True)
        for part, name in (
            (self.model.model.visual, 'rotary_pos_emb'),
            (self.model.model.language_model, 'rotary_emb'),
        ):
            setattr(part, name, type(getattr(part, name))(part.config).to(ours.network.device))
        self.tokens = PreTrainedTokenizerFast.from_pretrained(folder)
        self.pad = config.image_token_id
        p = ours.pixels
        size = {'shortest_edge': p.min_tokens * 32**2, 'longest_edge': p.max_tokens * 32**2}
        self.processor = Qwen2VLImageProcessorPil(patch_size=16, image_mean=p.mean, image_std=p.std, size=size)

    @torch.inference_mode()
    def frame(self, frame: Frame, boxes: np.ndarray) -> np.ndarray:
        """(N, D) unit object embeddings."""
        device, body = self.ours.device, self.ours.model
        image = self.processor(images=[frame.image], return_tensors='pt').to(device)
        grid = image['image_grid_thw']
        text = prompts.REC + prompts.objects_text(len(boxes))
        ids, mask = self._tokenised([{'type': 'image'}, {'type': 'text', 'text': text}], int(grid.prod()) // 4)
        seen = self.model.model.get_image_features(image['pixel_values'].to(self.ours.dtype), grid)
        shape = [(int(grid[0, 1]) // 2, int(grid[0, 2]) // 2)]
        vision = Vision(torch.cat(seen.pooler_output), tuple(torch.cat(layer) for layer in seen.deepstack_features))
        inputs = self.model.get_input_embeddings()(ids)
        places = ids == self.pad
        inputs = inputs.masked_scatter(places[..., None], body.image_tokens(vision, shape))
        size = torch.tensor([[frame.width, frame.height]])
        regions = body.box_tokens(vision, shape, [torch.from_numpy(boxes)], size, self.ours.logit_pos_embedding.weight)
        objects = ids == self.ours.object_token_id
        inputs = inputs.masked_scatter(objects[..., None], regions)
        positions, _ = self.model.model.get_rope_index(ids, places.int(), grid, attention_mask=mask)
        hidden = self._language(
            inputs, mask, positions, visual_pos_masks=places, deepstack_visual_embeds=vision.deepstack
        )
        self.ours.logit_iou_proj(hidden[objects][1::2])
        return unit_rows(hidden[objects][::2].float().cpu())

    @torch.inference_mode()
    def text(self, text: str) -> np.ndarray:
        """(D,) unit text embedding."""
        ids, mask = self._tokenised([{'type': 'text', 'text': prompts.OBJECT_TEXT.format(text)}], 0)
        hidden = self._language(self.model.get_input_embeddings()(ids), mask, None)
        return unit_rows(
            hidden[torch.isin(ids, torch.tensor(self.ours.text_token_ids, device=ids.device))].float().cpu()
        )[0]

    def _tokenised(self, content: list[dict[str, str]], cells: int) -> tuple[torch.Tensor, torch.Tensor]:
        turn = self.tokens.apply_chat_template([{'role': 'user', 'content': content}], tokenize=False).strip()
        turn = turn.replace(prompts.IMAGE_PAD, prompts.IMAGE_PAD * cells)
        out = self.tokens([turn], return_tensors='pt', padding=True).to(self.ours.device)
        return out['input_ids'], out['attention_mask']

    def _language(self, inputs: torch.Tensor, mask: torch.Tensor, positions: Any, **more: Any) -> torch.Tensor:
        out = self.model.model.language_model(inputs_embeds=inputs, attention_mask=mask, position_ids=positions, **more)
        if self.head:
            self.model.lm_head(out.last_hidden_state)
        return out.last_hidden_state


def scene(seed: int = 0) -> tuple[Frame, Boxes]:
    """Noise and boxes all over it: what a frame costs does not depend on what it shows."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, [WIDTH - 200, HEIGHT - 200], (BOXES, 2))
    xyxy = np.concatenate([low, low + rng.uniform(10, 200, (BOXES, 2))], axis=1).astype(np.float32)
    pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Frame(pixels, seed, 'camera'), Boxes(xyxy, np.linspace(1, 0, BOXES, dtype=np.float32))


def ways(folder: Path, options: argparse.Namespace) -> dict[str, Callable[[], np.ndarray]]:
    """Every way to embed one frame, and one text; each gives its unit rows."""
    ours = objembed.load(folder, device=options.device, precision=options.precision, threads=options.threads)
    frame, boxes = scene()

    def our_frame() -> np.ndarray:
        return ours.embed([frame], ours.encode([frame]), [boxes])[0].embeddings

    def plainly(**how: Any) -> Callable[[], np.ndarray]:
        plain = Plain(folder, ours, **how)
        return lambda: plain.frame(frame, boxes.xyxy)

    plain = Plain(folder, ours)
    return {
        'ours': our_frame,
        'plain eager': plainly(),
        'plain eager without vocabulary head': plainly(head=False),
        'plain sdpa': plainly(attention='sdpa'),
        'our text, kept': lambda: ours.embed_text([TEXT]),
        'plain text': lambda: plain.text(TEXT)[None],
    }


def timed(runs: dict[str, Callable[[], np.ndarray]], repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of each way, taken in turn, after one unmeasured round that compares their results."""
    results = {name: run() for name, run in runs.items()}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            begin = time.perf_counter(), time.process_time()
            run()  # ends with a copy to the host
            taken[name].append((time.perf_counter() - begin[0], time.process_time() - begin[1]))
    return {
        name: {
            'best_s': min(wall for wall, _ in seconds),
            'median_s': float(np.median([wall for wall, _ in seconds])),
            'best_processor_s': min(used for _, used in seconds),
            'largest_difference': float(np.abs(results[name] - results[_reference(name)]).max()),
        }
        for name, seconds in taken.items()
    }


def _reference(name: str) -> str:
    return 'our text, kept' if 'text' in name else 'ours'


def peak(folder: str, name: str, options: argparse.Namespace, answer: Any) -> None:
    """In a process of its own: MiB that one way takes beyond the loaded network."""
    run = ways(Path(folder), options)[name]
    if options.device == 'cuda':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        answer.put((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    Path('/proc/self/clear_refs').write_text('5')  # the peak starts anew
    before = memory('VmRSS')
    run()
    answer.put(memory('VmHWM') - before)


def memory(what: str) -> float:
    """MiB of this process, as the kernel counts them."""
    lines = Path('/proc/self/status').read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(what))


def peaks(folder: Path, names: list[str], options: argparse.Namespace) -> dict[str, float]:
    """Peak MiB of each way, one process after the other."""
    context, out = multiprocessing.get_context('spawn'), {}
    for name in names:
        answer = context.Queue()
        process = context.Process(target=peak, args=(str(folder), name, options, answer))
        process.start()
        out[name] = round(answer.get(), 1)
        process.join()
    return out


def peak_rate(ours: ObjEmbedEmbedder, clock: str) -> float:
    """TFLOP a second of a large matrix product, by the clock that the ways are compared by."""
    time_of = time.process_time if clock == 'best_processor_s' else time.perf_counter
    side = 8192 if ours.device == 'cuda' else 2048
    return matmul_tflops(ours.device, ours.network.dtype, side, 5, time_of)


def measure(size: str, options: argparse.Namespace) -> dict[str, Any]:
    """All numbers of one network."""
    with tempfile.TemporaryDirectory() as temporary:
        base = tinyobjembed.config(tinyobjembed.tokenizer())
        changed = {part: base[part] | values for part, values in SIZES[size].items()}
        folder = tinyobjembed.write(Path(temporary), **changed)
        ours = objembed.load(folder, device=options.device, precision=options.precision, threads=options.threads)
        grid = ours.encode([scene()[0]])[0]
        cells = grid.rows * grid.columns
        tokens = len(ours._tokenizer.image(prompts.REC + prompts.objects_text(BOXES), cells))
        tflop = frame_tflop(ours.network.config, cells, BOXES, tokens)
        clock = 'best_processor_s' if options.device == 'cpu' and options.threads == 1 else 'best_s'
        before = peak_rate(ours, clock)
        result = timed(ways(folder, options), options.repeats)
        rate = max(before, peak_rate(ours, clock))
        for name, mib in peaks(folder, ['ours', 'plain eager', 'plain sdpa'], options).items():
            result[name]['peak_mib_beyond_the_weights'] = mib
        frame, text = result['ours'][clock], result['plain text'][clock]
        for name in [name for name in result if 'text' not in name]:
            values, known = result[name], name == 'ours'
            values['share_of_matmul_peak'] = tflop / values[clock] / rate
            for count in TEXT_COUNTS:
                values[f'times_ours_with_{count}_texts'] = (values[clock] + (0 if known else count * text)) / frame
        return {
            'parameters': sum(p.numel() for p in ours.network.parameters()), 'dtype': str(ours.network.dtype),
            'image_tokens': cells, 'tokens': tokens, 'objects': BOXES,
            'tflop_per_frame': tflop, 'matmul_peak_tflops': rate, 'compared_by': clock, 'ways': result,
        }  # fmt: skip


def main() -> None:
    """Measure, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--device', default='cpu', choices=('cpu', 'cuda'))
    parser.add_argument('--precision', default='auto')
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--sizes', nargs='+', default=['tiny', 'mid'], choices=tuple(SIZES))
    options = parser.parse_args()
    measured: dict[str, Any] = {'device': options.device, 'threads': options.threads, 'repeats': options.repeats}
    for size in options.sizes:
        measured[size] = measure(size, options)
        for name, value in measured[size].items():
            print(size, name, value if name != 'ways' else '')
        for name, values in measured[size]['ways'].items():
            print(f'    {name:36}', {key: float(f'{v:.4g}') for key, v in values.items()})
    print('written to', write_result(f'objembed_forward_{options.device}', measured))


if __name__ == '__main__':
    main()
