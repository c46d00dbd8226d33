"""BLEU as sacreBLEU computes it: words as the 13a tokenizer cuts them, corpus counts, exponential smoothing."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

ORDER = 4
"""The longest runs of words that are counted."""
_ENTITIES = (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">"))
_CUTS = (
    (re.compile(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])"), r" \1 "),
    (re.compile(r"([^0-9])([\.,])"), r"\1 \2 "),
    (re.compile(r"([\.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def words_13a(text: str) -> list[str]:
    """A text in words and marks, as mteval-v13a cuts it.

    >>> words_13a("A dog's ball, 3.5 m.")
    ['A', "dog's", 'ball', ',', '3.5', 'm', '.']
    """
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, sign in _ENTITIES:
        text = text.replace(entity, sign)
    text = f" {text.rstrip()} "
    for pattern, cut in _CUTS:
        text = pattern.sub(cut, text)
    return text.split()


def bleu_counts(said: str, reference: str) -> np.ndarray:
    """What BLEU is made of; the counts of many rows are added up before it is taken, so a resample of rows is a sum.

    Args:
        said: the translation.
        reference: what was to be said.

    Returns:
        The words of each, then for each length of run how many are shared and how many the translation has, # (2 + 2 × ORDER,)
    """
    one, two = words_13a(said), words_13a(reference)
    shared, there = [], []
    for order in range(1, ORDER + 1):
        ours, theirs = (Counter(tuple(words[at : at + order]) for at in range(len(words) - order + 1)) for words in (one, two))
        shared.append((ours & theirs).total())
        there.append(ours.total())
    return np.array([len(one), len(two), *shared, *there], dtype=np.float64)


def bleu_of(counts: np.ndarray) -> np.ndarray:
    """Turn counts that are added up into BLEU between 0 and 100, # (..., 2 + 2 × ORDER) → (...)

    Source: Papineni et al. 2002; Post 2018, "A Call for Clarity in Reporting BLEU Scores".
    """
    length, reference_length = counts[..., 0], counts[..., 1]
    shared, there = counts[..., 2 : 2 + ORDER], counts[..., 2 + ORDER :]
    halvings = np.cumsum(shared == 0, axis=-1)
    precision = np.where(shared > 0, shared, 0.5**halvings) / np.maximum(there, 1)
    logs = np.where(there > 0, np.log(precision), -np.inf).mean(-1)
    shorter = np.minimum(0.0, 1 - reference_length / np.maximum(length, 1))
    return np.where(shared.sum(-1) > 0, 100 * np.exp(logs + shorter), 0.0)
