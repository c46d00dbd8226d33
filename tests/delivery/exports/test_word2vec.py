"""Word vectors in word2vec's formats are read back as they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luthier
from luthier.core.errors import ModelError
from luthier.delivery.exports.word2vec_files import read_binary, read_text
from luthier.models.word_vectors import write_word2vec
from tests.delivery.conftest import write_rows
from tests.families.cases import word_salad

WORDS = ["a", "naïve", "größer", "x-1"]
VECTORS = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)


def test_both_files_are_read_back(tmp_path: Path) -> None:
    write_word2vec(tmp_path, WORDS, VECTORS)
    for words, vectors in (read_text(tmp_path / "vectors.txt"), read_binary(tmp_path / "vectors.bin")):
        assert words == WORDS and np.allclose(vectors, VECTORS, atol=1e-6)


@pytest.mark.parametrize(("name", "read"), [("vectors.txt", read_text), ("vectors.bin", read_binary)])
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, name: str, read: Any) -> None:
    write_word2vec(tmp_path, WORDS, VECTORS)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-9])
    with pytest.raises(ModelError, match=name):
        read(tmp_path / name)


def test_an_export_is_proven_and_another_table_is_found(tmp_path: Path) -> None:
    changes = ["objective.width=8", "objective.least_count=1", "training.batch_size=1", "training.steps=2"]
    run = luthier.run(write_rows(tmp_path, word_salad()), task="glove", out=tmp_path / "run", set=changes, force=True)
    done = luthier.export(run.folder, to="word2vec", out=tmp_path / "out")
    assert done.parity is not None and done.parity["same"]
    words, vectors = read_binary(done.folder / "vectors.bin")
    write_word2vec(done.folder, words, vectors + 0.3 * np.roll(vectors, 1, 0))
    assert luthier.parity(run.folder, done.folder)["stage"] == "log-probabilities"
    write_word2vec(done.folder, [*words[1:], words[0]], vectors)
    assert luthier.parity(run.folder, done.folder)["stage"] == "token ids"
