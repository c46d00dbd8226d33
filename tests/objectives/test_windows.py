"""Rows longer than what is read at once: in pieces while training, one decision a row."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from luthier.core.types import Example, Record
from luthier.evaluation.score import score
from luthier.models.encode import unit_rows
from luthier.models.pretrained import load_tokenizer
from tests.training.test_steps import work_for

WORDS = [f"word{number} of the long contract is here" for number in range(40)]


def rows(count: int = 60) -> list[Record]:
    return [
        Record(number + 1, {"text": " ".join(WORDS[: 1 + number % 30]), "label": "yes" if number % 2 else "no"}) for number in range(count)
    ]


def windowed(bases: Any, **changes: Any) -> Any:
    return work_for(
        bases,
        rows(),
        "classification",
        objective__max_length=32,
        objective__overlap=8,
        objective__long_rows="windows",
        **({"objective__most_windows": 200} | changes),
    )


def test_the_windows_of_a_row_hold_all_of_it_and_overlap_as_asked(bases) -> None:
    work = windowed(bases)
    tokenizer = load_tokenizer(bases("bert"))
    for example in work.train:
        whole = tokenizer(example.record.values["text"], add_special_tokens=False)["input_ids"]
        starts = [number for number, place in enumerate(example.inputs["place"]) if place == 0]
        pieces = [example.tokens[start:stop] for start, stop in zip(starts, [*starts[1:], len(example.tokens)], strict=True)]
        inner = [piece[1:-1] for piece in pieces]  # without [CLS] and [SEP]
        assert all(len(piece) <= 32 for piece in pieces)
        assert all(later[:8] == earlier[-8:] for earlier, later in pairwise(inner))
        assert inner[0] + [token for piece in inner[1:] for token in piece[8:]] == whole
        assert example.facts["cut"] == 0


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_a_row_in_windows_is_judged_by_the_mean_of_what_its_windows_say_alone(bases, pooling: str) -> None:
    work = windowed(bases, objective__pooling=pooling)
    work.model.eval()
    long = max(work.train, key=lambda example: len(example.tokens))
    starts = [number for number, place in enumerate(long.inputs["place"]) if place == 0]
    assert len(starts) > 5
    alone = [
        Example(number, {"tokens": long.tokens[start:stop], "place": list(range(stop - start))}, 0, long.record, stop - start)
        for number, (start, stop) in enumerate(zip(starts, [*starts[1:], len(long.tokens)], strict=True))
    ]
    with torch.no_grad():
        together = work.model.vectors(work.objective.collate([work.train[0], long, work.train[3]], 0, 0), pooling)[1]
        one_by_one = torch.cat([work.model.vectors(work.objective.collate([piece], 0, 0), pooling) for piece in alone])
    assert torch.allclose(together, one_by_one.mean(0), atol=1e-5)


def test_a_row_that_fits_is_read_exactly_as_before(bases) -> None:
    short = [Record(number, {"text": "a short row", "label": "yes"}) for number in range(60)]
    found = []
    for way in ("windows", "cut"):
        work = work_for(bases, short, "classification", objective__long_rows=way)
        found.append(score(work.model, work.objective, work.validation).probabilities)
    assert np.array_equal(found[0], found[1])


def test_what_lies_behind_the_last_window_is_counted(bases) -> None:
    work = windowed(bases, objective__most_windows=2)
    long = max(work.train, key=lambda example: example.facts["cut"])
    whole = load_tokenizer(bases("bert"))(long.record.values["text"])["input_ids"]
    assert long.facts["cut"] == len(whole) - len(long.tokens) + 8 + 2  # the second window repeats 8 and has its own [CLS] and [SEP]
    assert long.inputs["place"].count(0) == 2


def test_the_end_of_a_long_row_has_a_say_in_windows_and_none_when_cut(bases) -> None:
    text = " ".join(WORDS)
    said = {}
    for way in ("windows", "cut"):
        work = work_for(bases, rows(), "classification", objective__max_length=32, objective__most_windows=200, objective__long_rows=way)
        pair = work.objective.prepare([Record(1, {"text": text}), Record(2, {"text": text + " but not in the end"})])
        vectors = unit_rows(work.model.eval(), work.objective.collate(pair, 0, 0))
        said[way] = float(np.abs(vectors[0] - vectors[1]).max())
    assert said["cut"] == 0
    assert said["windows"] > 1e-4


def test_a_decoder_reads_windows_too(bases) -> None:
    from luthier.training.assemble import assemble
    from tests.training.test_steps import experiment

    base = bases("qwen2")
    asked = experiment("classification", base.name, objective__max_length=32, objective__long_rows="windows")
    given = [Record(number, {"text": " ".join(WORDS[: 1 + number % 9]), "label": "yes"}) for number in range(60)]
    work = assemble(asked, base, load_tokenizer(base), {"train": given[:40], "validation": given[40:]})
    assert np.isfinite(score(work.model, work.objective, work.validation).loss).all()
