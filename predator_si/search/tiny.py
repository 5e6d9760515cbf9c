"""Tiny seeded models, made on the spot: for tests and for demos that must run in seconds without a download.

What belongs here: a random BERT cross-encoder with its own small vocabulary, and an embedder that hashes words. What must not: anything served to
people. A tiny cross-encoder knows nothing until it is trained, and hashed words know no synonyms; neither says anything about search quality.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from predator_si.errors import BadInput

EMBEDDER_FILE = "hashing_embedder.json"
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_PIECE = re.compile(r"\w+|[^\w\s]")
_HEAD = 16
"""Hidden units per attention head."""
_SPREAD = 0.2
"""Standard deviation of the random weights: with BERT's 0.02 so small a model gives every pair the same score."""


def tiny_cross_encoder(folder: Path, texts: Iterable[str], seed: int, layers: int = 2, hidden: int = 64, words: int = 4000, max_length: int = 512) -> Path:
    """Write an untrained BERT cross-encoder as a Hugging Face folder (safetensors, config, tokenizer) and return the folder.

    The same arguments give the same bytes. Nothing is downloaded.

    Parameters
    ----------
    texts
        Whose most frequent words, and whose characters, become the WordPiece vocabulary.
    layers, hidden
        Encoder layers, and their width: a multiple of 16.
    words
        At most so many whole words in the vocabulary.
    max_length
        Position embeddings, and so the longest input in tokens.

    Raises
    ------
    BadInput
        ``hidden`` is not a multiple of 16.
    """
    if hidden <= 0 or hidden % _HEAD:
        raise BadInput(f"hidden={hidden}: the width of a tiny model is a multiple of {_HEAD}, such as 64.")
    import torch
    from safetensors.torch import save_file
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = _vocabulary(texts, words)
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("cls", "sep", "pad", "unk", "mask")}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": max_length, "model_input_names": inputs, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // _HEAD,
        intermediate_size=2 * hidden,
        max_position_embeddings=max_length,
        num_labels=1,
        initializer_range=_SPREAD,
        pad_token_id=0,
        architectures=["BertForSequenceClassification"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    config.save_pretrained(str(folder))
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, str(folder / "model.safetensors"), metadata={"format": "pt"})
    return folder


def _vocabulary(texts: Iterable[str], words: int) -> dict[str, int]:
    """Special tokens, every character (alone and inside a word), then the most frequent words; ties by spelling."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_PIECE.findall(text.lower()))
    characters = sorted({character for word in counts for character in word} | set("abcdefghijklmnopqrstuvwxyz0123456789"))
    frequent = [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:words]]
    pieces = [*_SPECIAL, *characters, *(f"##{character}" for character in characters), *frequent]
    return {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}


class HashingEmbedder:
    """Bags of words, hashed to signed dimensions and scaled to unit length (Weinberger et al. 2009): equal words are near, nothing else is."""

    def __init__(self, dimension: int = 128) -> None:
        if dimension < 1:
            raise BadInput(f"dimension={dimension}: an embedder has at least one.")
        self.dimension = dimension
        self.name = f"hashing@{dimension}"

    def encode(self, texts: Sequence[str], on_progress: Callable[[int, int], None] | None = None) -> npt.NDArray[np.float32]:
        """Unit vectors (texts x dimension), float32; a text without words gets a fixed one."""
        out = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for word, count in Counter(_PIECE.findall(text.casefold())).items():
                place, sign = _place(word, self.dimension)
                out[row, place] += sign * np.sqrt(count)
            if not out[row].any():
                out[row, 0] = 1.0
            if on_progress:
                on_progress(row + 1, len(texts))
        return out / np.linalg.norm(out, axis=1, keepdims=True) if len(texts) else out

    def save(self, folder: Path) -> Path:
        """Write what ``load`` needs and return the folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / EMBEDDER_FILE).write_text(json.dumps({"dimension": self.dimension}) + "\n")
        return folder

    @classmethod
    def load(cls, folder: Path) -> HashingEmbedder:
        """The embedder saved in ``folder``.

        Raises
        ------
        BadInput
            The folder does not hold one.
        """
        path = Path(folder) / EMBEDDER_FILE
        try:
            return cls(int(json.loads(path.read_text())["dimension"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{path}: not a hashing embedder ({error}). Make one with HashingEmbedder(dimension).save(folder).") from error


@lru_cache(maxsize=200_000)
def _place(word: str, dimension: int) -> tuple[int, float]:
    number = int.from_bytes(hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=8).digest(), "big")
    return (number >> 1) % dimension, 1.0 if number & 1 else -1.0
