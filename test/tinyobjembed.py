# SPDX-License-Identifier: Apache-2.0
"""A random ObjEmbed checkpoint small enough for tests, in the files of a released one, so that the real loader runs.

Its tokenizer is a byte-level BPE like Qwen's, trained on a few sentences, with the same special tokens.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from embedder_ros.models.objembed import prompts
from embedder_ros.models.objembed.config import ObjEmbedConfig
from embedder_ros.models.objembed.network import ObjEmbed

torch.set_num_threads(1)  # so small a network only waits for more

QWEN_TOKENS = (
    '<|endoftext|>', '<|im_start|>', '<|im_end|>',
    '<|vision_start|>', '<|vision_end|>', '<|image_pad|>', '<|video_pad|>',
)  # fmt: skip
PLAIN_TOKENS = ('<think>', '</think>')  # added, but not special, as in Qwen3's tokenizer
OWN_TOKENS = ('<object>', '<local_text>', '<global>', '<global_text>')
# As Qwen's: contractions, words with one leading sign, single digits, signs, line ends, spaces.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with Qwen's and ObjEmbed's special tokens and a chat template."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(WORDS), 'isolated')
    core.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = [prompts.REC, prompts.DET, prompts.OBJECT_TEXT, prompts.objects_text(12), 'user\nthe red mug']
    core.train_from_iterator(words, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    core.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in QWEN_TOKENS])
    core.add_tokens([AddedToken(t, normalized=False) for t in PLAIN_TOKENS])
    core.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in OWN_TOKENS])
    fast = PreTrainedTokenizerFast(tokenizer_object=core, pad_token='<|endoftext|>', eos_token='<|im_end|>')
    fast.chat_template = CHAT_TEMPLATE
    return fast


def config(tokens: PreTrainedTokenizerFast, **flags: Any) -> dict[str, Any]:
    """config.json of a network of 0.6 M parameters."""
    ids = {name: tokens.convert_tokens_to_ids(f'<|{name}|>') for name in ('image_pad', 'video_pad')}
    vision = {
        'depth': 4, 'hidden_size': 32, 'hidden_act': 'gelu_pytorch_tanh', 'intermediate_size': 64, 'num_heads': 4,
        'in_channels': 3, 'patch_size': 16, 'spatial_merge_size': 2, 'temporal_patch_size': 2, 'out_hidden_size': 64,
        'num_position_embeddings': 64, 'deepstack_visual_indexes': [0, 1, 2], 'model_type': 'qwen3_vl',
    }  # fmt: skip
    text = {
        'vocab_size': 512, 'hidden_size': 64, 'intermediate_size': 128, 'num_hidden_layers': 4,
        'num_attention_heads': 4, 'num_key_value_heads': 2, 'head_dim': 16, 'hidden_act': 'silu',
        'max_position_embeddings': 4096, 'rms_norm_eps': 1e-6, 'rope_theta': 5000000, 'model_type': 'qwen3_vl_text',
        'rope_scaling': {'mrope_interleaved': True, 'mrope_section': [4, 2, 2], 'rope_type': 'default'},
    }  # fmt: skip
    return {
        'architectures': ['ObjectEmbed'], 'model_type': 'qwen3_vl', 'tie_word_embeddings': True,
        'vision_config': vision, 'text_config': text, 'transformers_version': '4.57.1',
        'image_token_id': ids['image_pad'], 'video_token_id': ids['video_pad'],
        'vision_start_token_id': tokens.convert_tokens_to_ids('<|vision_start|>'),
        'vision_end_token_id': tokens.convert_tokens_to_ids('<|vision_end|>'),
        'num_classes': 100, 'use_global_caption': True, 'use_two_tokens': 2, 'use_two_captions': True, **flags,
    }  # fmt: skip


def network(values: dict[str, Any], tokenizer_: prompts.PromptTokenizer, seed: int = 0) -> ObjEmbed:
    """Every weight random, also those that a fresh network has at zero."""
    ids = tokenizer_.special
    net = ObjEmbed(
        ObjEmbedConfig.from_dict(values),
        object_token_id=ids.object_token_id,
        global_token_id=ids.global_token_id,
        local_text_token_id=ids.local_text_token_id,
        global_text_token_id=ids.global_text_token_id,
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if value.ndim > 1:
                value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
            elif name.endswith('bias') and 'logit' not in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return net.eval()


def write(folder: Path, seed: int = 0, **flags: Any) -> Path:
    """All files of a checkpoint; flags change config.json, for example use_two_tokens=1."""
    folder.mkdir(parents=True, exist_ok=True)
    tokens = tokenizer()
    tokens.save_pretrained(folder)
    values = config(tokens, **flags)
    (folder / 'config.json').write_text(json.dumps(values))
    preprocessor = {'image_mean': [0.5] * 3, 'image_std': [0.5] * 3, 'patch_size': 16, 'merge_size': 2}
    (folder / 'preprocessor_config.json').write_text(json.dumps(preprocessor))
    net = network(values, prompts.PromptTokenizer(folder), seed)
    state = {name: value.contiguous() for name, value in net.state_dict().items()}
    save_file(state, folder / 'model.safetensors', metadata={'format': 'pt'})
    return folder
