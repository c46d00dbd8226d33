"""What a translation model has to beat: the source as it is, and the translation of the nearest known source."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.types import Example, Scores
from luthier.evaluation.baselines import Baseline, copy_prompts
from luthier.evaluation.generated_answers import references_of

if TYPE_CHECKING:
    from luthier.evaluation.baselines import BaselineContext

SHARES = (0.0, 0.1, 0.2, 0.4, 0.6)
"""Of the other text's tokens in the mixture; the validation rows choose."""
CHUNK = 256
FREQUENT = 0.1
"""Words that more than this share of the sources have tell no two of them apart."""


def copy_of_source(train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> Baseline:
    """The source again; its loss is that of word frequencies mixed with the source's own tokens.

    Args:
        train: rows whose targets are counted.
        validation: rows that choose the mixture.
        context: knows the objective.
    """
    objective = context.objective
    return _mix_frequencies("copy of the source", train, validation, context, lambda rows: [row.tokens for row in rows],
                  lambda rows: copy_prompts(objective, rows))  # fmt: skip


def nearest_target(train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> Baseline:
    """The target of the training row whose source is nearest by TF-IDF; its loss is that of word frequencies mixed with that target's tokens.

    Args:
        train: rows to search in.
        validation: rows that choose the mixture.
        context: knows the objective.
    """
    objective = context.objective
    search = nearest_rows([objective.prompt_text(example) for example in train], context.poll)
    known: dict[tuple[str, int], int] = {}

    def find(rows: Sequence[Example]) -> list[int]:
        new = [row for row in rows if (row.record.source, row.record.row) not in known]
        for row, index in zip(new, search([objective.prompt_text(row) for row in new]), strict=True):
            known[row.record.source, row.record.row] = index
        return [known[row.record.source, row.record.row] for row in rows]

    def outputs(rows: Sequence[Example]) -> np.ndarray:
        answers = np.full(len(rows), None, dtype=object)
        answered, places = objective.rows_to_answer(rows, objective.answered_at_verdict), find(rows)
        for row in answered:
            answers[row] = objective.reference(train[places[row]])
        return answers

    return _mix_frequencies("translation of the nearest training source", train, validation, context,
                  lambda rows: [train[index].target for index in find(rows)], outputs)  # fmt: skip


def nearest_rows(texts: Sequence[str], poll: Callable[[], None]) -> Callable[[Sequence[str]], list[int]]:
    """A search for the nearest of some texts by TF-IDF of words and word pairs.

    Args:
        texts: to search in; two or more.
        poll: called between chunks; it may raise to stop.

    Returns:
        Texts → for each the place of the nearest.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    vectors: Any = vectorizer.fit_transform([text or "empty" for text in [*texts, "empty"]])[: len(texts)]
    often = np.asarray((vectors > 0).sum(0)).ravel() > max(FREQUENT * len(texts), 10)

    def search(queries: Sequence[str]) -> list[int]:
        if not queries:
            return []
        vectors_asked: Any = vectorizer.transform(queries)
        vectors_asked.data[often[vectors_asked.indices]] *= 1e-3  # they decide only where nothing else does
        nearest = []
        for start in range(0, len(queries), CHUNK):
            poll()
            near = (vectors_asked[start : start + CHUNK] @ vectors.T).toarray()
            nearest += near.argmax(1).tolist()
        return nearest

    return search


def _mix_frequencies(
    name: str,
    train: Sequence[Example],
    validation: Sequence[Example],
    context: BaselineContext,
    others: Callable[[Sequence[Example]], list[Sequence[int]]],
    outputs: Callable[[Sequence[Example]], np.ndarray],
) -> Baseline:
    """A baseline whose loss is that of a cache model: the frequency of each token in the training targets, mixed with its share in another text.

    Source: Kuhn & De Mori 1990.
    """
    vocabulary = len(context.processor)
    common = np.full(vocabulary, 0.1)
    for example in train:
        np.add.at(common, example.target, 1)
    common /= common.sum()

    def losses(examples: Sequence[Example], texts: Sequence[Sequence[int]], share: float) -> np.ndarray:
        results = np.zeros(len(examples))
        for row, (example, text) in enumerate(zip(examples, texts, strict=True)):
            tokens, other = np.array(example.target, dtype=int), np.array(text, dtype=int)
            own = (tokens[:, None] == other[None]).mean(1) if len(other) and len(tokens) else np.zeros(len(tokens))
            results[row] = -np.log((1 - share) * common[tokens] + share * own).sum()
        return results

    texts = others(validation)
    best = min(SHARES, key=lambda share: losses(validation, texts, share).sum())

    def score(examples: Sequence[Example]) -> Scores:
        return Scores(
            losses(examples, others(examples), best),
            np.array([example.units for example in examples]),
            bytes=np.array([float(example.facts["bytes"]) for example in examples]),
            outputs=outputs(examples),
            references=references_of(context.objective, examples),
        )

    return Baseline(name, score, score(validation))
