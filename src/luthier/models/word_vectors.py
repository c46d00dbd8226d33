"""Word vectors: a table of words, a table of contexts, and the vocabulary that says which row is which word."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from luthier.core.errors import ModelError
from luthier.models.dropout import attach
from luthier.models.kernels.word_kernels import WordKernels

if TYPE_CHECKING:
    from luthier.core.types import Batch
    from luthier.models.base import Base

WORD = re.compile(r"[^\W_]+(?:['’_][^\W_]+)*")
KIND = "word_vectors"
"""As `model_type` in config.json."""
VOCABULARY = "vocabulary.json"


class Vocabulary:
    """The words that have a vector, the most frequent first, and how often each stands in the training rows.

    Args:
        words: each once.
        counts: of each.
        lowercase: whether texts are read in lower case.
        total: words of the training rows, those without a vector included.
    """

    def __init__(self, words: Sequence[str], counts: Sequence[int], lowercase: bool, total: int) -> None:
        self.words = list(words)
        self.counts = np.asarray(counts, dtype=np.int64)
        self.lowercase, self.total = lowercase, total
        self.numbers = {word: number for number, word in enumerate(self.words)}
        self.trained_on: tuple[str, int] | None = None
        """File and line of the first training row, where the rows are known: not shipped."""

    def __len__(self) -> int:
        return len(self.words)

    def split(self, text: str) -> list[str]:
        """The words of a text: runs of letters and digits; an apostrophe or underscore inside a word belongs to it."""
        return WORD.findall(text.lower() if self.lowercase else text)

    def encode(self, text: str) -> np.ndarray:
        """The words of a text that have a vector, # (words,) int32"""
        known = self.numbers
        return np.fromiter((known[word] for word in self.split(text) if word in known), dtype=np.int32)

    def decode(self, numbers: Iterable[int]) -> str:
        """The words with these numbers."""
        return " ".join(self.words[number] for number in numbers)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write it into a bundle."""
        about = {"lowercase": self.lowercase, "total": self.total, "words": self.words, "counts": self.counts.tolist()}
        (Path(folder) / VOCABULARY).write_text(json.dumps(about, ensure_ascii=False))


def load_vocabulary(folder: Path) -> Vocabulary:
    """The vocabulary of a bundle.

    Raises:
        ModelError: there is none.
    """
    try:
        about = json.loads((folder / VOCABULARY).read_text())
        return Vocabulary(about["words"], about["counts"], about["lowercase"], about["total"])
    except (OSError, ValueError, KeyError) as problem:
        raise ModelError(
            f"{folder} holds no vocabulary of word vectors ({problem})", "give the bundle of a word2vec or glove run"
        ) from None


def count_words(texts: Iterable[str], lowercase: bool) -> Counter[str]:
    """How often each word stands in the texts."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(WORD.findall(text.lower() if lowercase else text))
    return counts


def make_vocabulary(counts: Counter[str], least: int, most: int, lowercase: bool) -> Vocabulary:
    """The words that are frequent enough, the most frequent first, equal ones by the alphabet.

    Args:
        counts: of every word.
        least: times that a word stands there.
        most: words at most; 0 for all.
        lowercase: whether texts are read in lower case.
    """
    frequent = sorted(((word, count) for word, count in counts.items() if count >= least), key=lambda pair: (-pair[1], pair[0]))
    frequent = frequent[:most] if most else frequent
    return Vocabulary([word for word, _ in frequent], [count for _, count in frequent], lowercase, counts.total())


class Tables(nn.Module):
    """The vectors of words, of the same words as contexts, and a number for each where they are fitted to counts.

    Args:
        vocabulary: words.
        width: numbers a vector.
        biases: whether each word has a number besides.
    """

    def __init__(self, vocabulary: int, width: int, biases: bool) -> None:
        super().__init__()
        self.config = TablesConfig(vocabulary, width, biases)
        self.words = nn.Embedding(vocabulary, width, sparse=True)
        self.contexts = nn.Embedding(vocabulary, width, sparse=True)
        if biases:
            self.word_biases = nn.Embedding(vocabulary, 1, sparse=True)
            self.context_biases = nn.Embedding(vocabulary, 1, sparse=True)


class TablesConfig:
    """What config.json of a bundle says.

    Args:
        vocabulary: words.
        width: numbers a vector.
        biases: whether each word has a number besides.
    """

    def __init__(self, vocabulary: int, width: int, biases: bool) -> None:
        self.vocabulary, self.hidden_size, self.biases = vocabulary, width, biases

    def to_json_string(self) -> str:
        """As JSON."""
        return json.dumps({"model_type": KIND, "vocab_size": self.vocabulary, "hidden_size": self.hidden_size, "biases": self.biases})


class WordVectors(nn.Module):
    """Word vectors, as the loop, the adaptations and the checkpoints see them.

    Args:
        network: the tables.
    """

    packs = False
    """No row goes through a network of blocks."""
    causal = False

    def __init__(self, network: Tables) -> None:
        super().__init__()
        self.network = network
        self.dropout_keys = attach(network, 0.0)
        self.frozen_cache: Any = None
        self.kernels: WordKernels | None = None
        self.blocks = nn.ModuleList()
        self.head: list[nn.Module] = []

    def load_kernels(self) -> WordKernels:
        """Compute by compiled code while training; it is compiled first where it is not kept.

        Raises:
            ModelError: it cannot be had.
        """
        self.kernels = WordKernels()
        return self.kernels

    def micro_batches(self, batch: Batch, limit: int) -> list[Batch]:
        """The batch in micro-batches that cost at most so much."""
        return batch.split(limit)

    def vectors(self) -> Tensor:
        """What is looked up in the end: the vector of each word; where they are fitted to counts, plus its vector as a context, # (vocabulary, width)

        Source: Pennington et al. 2014, "GloVe", section 4.2 (the sum of both).
        """
        words = self.network.words.weight.detach()
        return words + self.network.contexts.weight.detach() if self.network.config.biases else words


def make_tables(vocabulary: int, width: int, biases: bool, seed: int) -> WordVectors:
    """Vectors that know nothing: small random ones for words, zero for contexts (word2vec's), or small random ones for both where they are fitted to counts (GloVe's).

    Args:
        vocabulary: words.
        width: numbers a vector.
        biases: whether each word has a number besides.
        seed: of the first vectors.
    """
    torch.manual_seed(seed)
    tables = Tables(vocabulary, width, biases)
    with torch.no_grad():
        tables.words.weight.uniform_(-0.5 / width, 0.5 / width)
        if biases:
            tables.contexts.weight.uniform_(-0.5 / width, 0.5 / width)
            tables.word_biases.weight.zero_()
            tables.context_biases.weight.zero_()
        else:
            tables.contexts.weight.zero_()
    return WordVectors(tables)


def load_tables(base: Base, biases: bool | None = None) -> WordVectors:
    """The vectors of a bundle.

    Args:
        base: the bundle.
        biases: whether each word has a number besides; None where either will do.

    Raises:
        ModelError: the base is something else, or vectors that were learned otherwise.
    """
    if base.kind != "vectors":
        raise ModelError(f"{base.name} holds no word vectors", "give the bundle of a word2vec or glove run, or leave --base out")
    state = load_file(base.folder / "model.safetensors")
    known = "word_biases.weight" in state
    if biases not in (known, None):
        task = (base.bundle or {}).get("task", "another task")
        raise ModelError(
            f"{base.name} holds vectors of a {task} run, which are learned otherwise", f"go on with --task {task}, or leave --base out"
        )
    tables = Tables(*state["words.weight"].shape, biases=known)
    tables.load_state_dict(state)
    return WordVectors(tables)


def write_word2vec(folder: Path, words: Sequence[str], vectors: np.ndarray) -> list[str]:
    """Write vectors in word2vec's two formats, `vectors.txt` and `vectors.bin`, which gensim and others read; the names of both.

    Args:
        folder: they go there.
        words: each with a row of `vectors`.
        vectors: # (words, width)
    """
    vectors = np.ascontiguousarray(vectors, dtype="<f4")
    head = f"{len(words)} {vectors.shape[1]}\n"
    with (folder / "vectors.txt").open("w", encoding="utf-8") as text, (folder / "vectors.bin").open("wb") as binary:
        text.write(head)
        binary.write(head.encode())
        for word, vector in zip(words, vectors, strict=True):
            text.write(f"{word} {' '.join(f'{value:.6g}' for value in vector.tolist())}\n")
            binary.write(word.encode() + b" " + vector.tobytes() + b"\n")
    return ["vectors.txt", "vectors.bin"]
