"""BLEU is sacreBLEU's, also where counts of rows are added up."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest
import sacrebleu

from luthier.core.types import Scores
from luthier.evaluation.bleu import bleu_counts, bleu_of, words_13a
from luthier.evaluation.compare import interval, paired_interval
from luthier.evaluation.metrics import measure

WORDS = "A dog's ball, 3.5 m. x-ray 10-12 (foo) &quot;hi&quot; it's % $5,000.00 end! ü ß «q» -".split()


def texts(rng: random.Random, count: int, least: int) -> list[str]:
    return [" ".join(rng.choices(WORDS[: rng.choice([2, 5, 18])], k=rng.randint(least, 9))) for _ in range(count)]


@pytest.mark.parametrize("count", [1, 2, 5, 40])
def test_it_is_sacrebleus_to_the_last_digit(count: int) -> None:
    rng = random.Random(count)
    for _ in range(50):
        said, meant = texts(rng, count, 0), texts(rng, count, 1)
        ours = float(bleu_of(np.sum([bleu_counts(one, two) for one, two in zip(said, meant, strict=True)], axis=0)))
        assert ours == pytest.approx(sacrebleu.corpus_bleu(said, [meant], force=True).score, abs=1e-6)


def test_words_are_cut_as_sacrebleu_cuts_them() -> None:
    cut = sacrebleu.metrics.bleu.BLEU(tokenize="13a").tokenizer
    for text in texts(random.Random(3), 200, 1):
        assert words_13a(text) == cut(text.rstrip()).split()


def scores(said: Sequence[str | None], meant: Sequence[str]) -> Scores:
    outputs, references = np.array(said, dtype=object), np.array(meant, dtype=object)
    return Scores(np.ones(len(said)), np.ones(len(said)), outputs=outputs, references=references)


def test_rows_that_were_not_answered_are_left_out_and_the_interval_holds_the_value() -> None:
    rng = random.Random(9)
    meant = texts(rng, 60, 4)
    said: list[str] = [text if number % 3 else texts(rng, 1, 3)[0] for number, text in enumerate(meant)]
    whole = scores(said, meant)
    value = measure(whole, ("bleu",))["bleu"]
    low, high = interval("bleu", whole)
    assert low < value < high
    assert measure(scores([*said, None], [*meant, "never said"]), ("bleu",))["bleu"] == pytest.approx(value)
    worse = scores(texts(rng, 60, 3), meant)
    gain, least, most = paired_interval("bleu", whole, worse)
    assert 0 < least < gain < most
