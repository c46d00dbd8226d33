"""Word vectors in word2vec's two formats, text and binary, which gensim, spaCy and others read."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import ModelError
from luthier.delivery.exports.exporter import METRIC, WEIGHTS, Encoded, Runtime, Say, WeightDifference, facts_of
from luthier.delivery.exports.facts import read_facts
from luthier.families import family_of
from luthier.models.base import Base

FILES = {"binary": "vectors.bin", "text": "vectors.txt"}
"""Precision → the file that holds the numbers so."""


class Word2vecFiles:
    """See the module."""

    name = __name__.rpartition(".")[2].removesuffix("_files")
    about = "vectors.txt and vectors.bin, for gensim and all that read word2vec's formats"
    packages: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("text",)

    def refuse(self, bundle: Base, precision: str) -> str:
        """Only tables of words."""
        task = facts_of(bundle)["task"]
        return "" if family_of(task).gives == "words" else f"{task} models hold no table of words"

    def losses(self, bundle: Base, precision: str) -> list[str]:
        """What the format has no place for."""
        lower = (
            ", and that texts are read in lower case: whoever looks a word up has to do so"
            if facts_of(bundle)["objective"].get("lowercase")
            else ""
        )
        return [f"how often each word was counted{lower}"]

    def write(self, bundle: Base, folder: Path, precision: str, say: Say) -> None:
        """Both files."""
        from luthier.delivery.parity.trainer import open_trainer
        from luthier.models.word_vectors import write_word2vec

        trainer = open_trainer(bundle)
        spaced = next((word for word in trainer.tokenizer.words if not word or any(letter.isspace() for letter in word)), None)
        if spaced is not None:
            raise ModelError(f"the word {spaced!r} has a space in it, by which the format tells where a word ends", "use the bundle itself")
        write_word2vec(folder, trainer.tokenizer.words, trainer.model.vectors().cpu().numpy())

    def usage(self, bundle: Base, folder: Path) -> str:
        """Gensim."""
        return f'python -c \'from gensim.models import KeyedVectors; print(KeyedVectors.load_word2vec_format("{folder}/vectors.bin", binary=True).most_similar("WORD"))\''

    def open(self, folder: Path) -> Runtime:
        """By gensim where it is installed, else by a reader that follows word2vec's own description of its files."""
        return Word2vecReader(folder)


class Word2vecReader:
    """Both files, read back; where they differ by more than the text's digits, the binary one is what is said.

    Args:
        folder: of the export.
    """

    def __init__(self, folder: Path) -> None:
        read_facts(folder)
        binary, text = read_binary(folder / FILES["binary"]), read_text(folder / FILES["text"])
        if binary[0] != text[0] or not np.allclose(binary[1], text[1], rtol=1e-4, atol=1e-6):
            raise ModelError(f"{folder}: vectors.txt and vectors.bin hold other words or numbers", "export again")
        self._words, self._vectors = text
        self.about = "a reader of word2vec's text and binary files"
        if importlib.util.find_spec("gensim") is not None:
            gensim: Any = importlib.import_module("gensim")
            loaded = gensim.models.KeyedVectors.load_word2vec_format(str(folder / FILES["binary"]), binary=True)
            self.about, self._words, self._vectors = f"gensim {gensim.__version__}", list(loaded.index_to_key), np.asarray(loaded.vectors)
        self.precision = "text"
        self.unseen: Mapping[str, str] = {
            WEIGHTS: "the vectors themselves are looked at",
            METRIC: "word vectors are judged by the words that are near",
        }

    def words(self) -> Sequence[str]:
        """In the order of their vectors."""
        return self._words

    def vectors(self) -> np.ndarray:
        """One a word, # (words, width)"""
        return self._vectors

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The number of each word."""
        return Encoded([self._words.index(word) for word in texts[0].split() if word in self._words])

    def compare_weights(self, bundle: Path) -> list[WeightDifference]:
        """Not asked: see `unseen`."""
        return []

    def close(self) -> None:
        """Nothing is held."""


def read_text(file: Path) -> tuple[list[str], np.ndarray]:
    """Words and vectors of a text file.

    Raises:
        ModelError: it is not whole.
    """
    lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    count, width = (int(number) for number in lines[0].split())
    rows = [line.split(" ") for line in lines[1:]]
    wrong = next((line_number for line_number, row in enumerate(rows, 2) if len(row) != width + 1), None)
    if len(rows) != count or wrong is not None:
        raise ModelError(f"{file}, line {wrong or len(rows) + 1}: {count:,} words of {width} numbers were promised", "export again")
    return [row[0] for row in rows], np.array([[float(number) for number in row[1:]] for row in rows], dtype=np.float32)


def read_binary(file: Path) -> tuple[list[str], np.ndarray]:
    """Words and vectors of a binary file.

    Raises:
        ModelError: it is not whole.
    """
    content = file.read_bytes()
    at = content.index(b"\n") + 1
    count, width = (int(number) for number in content[:at].split())
    words, vectors = [], np.empty((count, width), dtype="<f4")
    for row in range(count):
        space = content.find(b" ", at)
        if space < 0 or space + 4 * width > len(content):
            raise ModelError(f"{file} ends in word {row + 1} of {count:,}", "export again")
        words.append(content[at:space].lstrip(b"\n").decode())
        vectors[row] = np.frombuffer(content, dtype="<f4", count=width, offset=space + 1)
        at = space + 1 + 4 * width
    return words, vectors
