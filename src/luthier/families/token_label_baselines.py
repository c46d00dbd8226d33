"""The trivial models of labels inside a text: none at all, and those of the training rows found again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from luthier.core.types import Example, Scores
from luthier.objectives.token_labels import Words, scores_of_words

if TYPE_CHECKING:
    from luthier.evaluation.baselines import Baseline

OFTEN = 0.5
"""A form is taken for a span where at least this share of its places in the training rows are spans of its kind."""
LONGEST = 12
"""Words of a span that is looked up."""
SURE = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
"""How sure the dictionary is of its labels; the validation rows choose."""

Form = tuple[str, ...]


def no_span(train: Sequence[Example], validation: Sequence[Example]) -> Baseline:
    """No word is in a span; the probabilities are the shares of the labels in the training rows."""
    from luthier.evaluation.baselines import Baseline

    kinds = train[0].facts["kinds"]
    counts = np.ones(1 + 2 * len(kinds))
    for example in train:
        counts += np.bincount(example.facts["words"].tags, minlength=len(counts))
    logged = np.log(counts / counts.sum())
    likeliest = int(counts.argmax())

    def score(examples: Sequence[Example]) -> Scores:
        return scores_of_words(
            [(np.tile(logged, (len(example.facts["words"].tags), 1)), example.facts["words"]) for example in examples], kinds
        )

    return Baseline("no span" if not likeliest else "the most frequent label for every word", score, score(validation))


def dictionary_of_spans(train: Sequence[Example], validation: Sequence[Example]) -> Baseline:
    """The longest forms of the training rows' spans, wherever they stand again, with the kind that the form has most often.

    A form that stands in the training rows more often without this kind than with it is left out: else every "the" of one title would be a span.
    """
    from luthier.evaluation.baselines import Baseline

    kinds = train[0].facts["kinds"]
    forms = _forms(train)

    def log_scores(example: Example, sure: float) -> tuple[np.ndarray, Words]:
        words: Words = example.facts["words"]
        tags = look_up(_words(example), forms)
        values = np.full((len(tags), 1 + 2 * len(kinds)), np.log((1 - sure) / (2 * len(kinds))))
        values[np.arange(len(tags)), tags] = np.log(sure)
        return values, words

    def score(examples: Sequence[Example], sure: float) -> Scores:
        return scores_of_words([log_scores(example, sure) for example in examples], kinds)

    tried = {sure: score(validation, sure) for sure in SURE}
    best = min(tried, key=lambda sure: tried[sure].loss.sum())
    return Baseline("dictionary of the training spans", lambda examples: score(examples, best), tried[best])


def _words(example: Example) -> list[str]:
    """The words of a row, without their case."""
    words, text = example.facts["words"], example.facts["text"].lower()
    return [text[start:end] for start, end in zip(words.starts.tolist(), words.ends.tolist(), strict=True)]


def _forms(train: Sequence[Example]) -> dict[Form, int]:
    """The forms that are taken for spans, with the number of their kind."""
    from luthier.objectives.token_labels import spans_said

    labelled: dict[Form, Counter[int]] = {}
    for example in train:
        words = _words(example)
        for span in spans_said(example.facts["words"].tags.tolist()):
            if span.last - span.first < LONGEST:
                labelled.setdefault(tuple(words[span.first : span.last + 1]), Counter())[span.kind] += 1
    places: Counter[Form] = Counter()
    longest = max((len(form) for form in labelled), default=0)
    for example in train:
        words = _words(example)
        places.update(
            form for start in range(len(words)) for size in range(1, longest + 1) if start + size <= len(words) and (form := tuple(words[start : start + size])) in labelled
        )  # fmt: skip
    chosen = {form: counts.most_common(1)[0] for form, counts in labelled.items()}
    return {form: kind for form, (kind, count) in chosen.items() if count >= OFTEN * places[form]}


def look_up(words: Sequence[str], forms: dict[Form, int]) -> np.ndarray:
    """The labels of words where known forms are found, the longest first.

    >>> look_up(["in", "new", "york"], {("new",): 0, ("new", "york"): 1}).tolist()
    [0, 3, 4]
    """
    tags, at = np.zeros(len(words), dtype=np.int64), 0
    longest = max((len(form) for form in forms), default=0)
    while at < len(words):
        size = next((size for size in range(min(longest, len(words) - at), 0, -1) if tuple(words[at : at + size]) in forms), 0)
        if size:
            kind = forms[tuple(words[at : at + size])]
            tags[at : at + size] = 2 + 2 * kind
            tags[at] = 1 + 2 * kind
        at += size or 1
    return tags
