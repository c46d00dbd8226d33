"""The linear probe is scikit-learn's logistic regression; a temperature in the head is one behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from luthier.core.types import Example, Record
from luthier.evaluation.baselines import LENGTH, REGULARISATION, fit_probe
from luthier.evaluation.score import score
from luthier.models.encode import base_views
from luthier.models.linear_probe import AveragedModel, LinearProbe, divide_logits
from luthier.models.pretrained import load_classifier, load_tokenizer
from luthier.objectives.classification import Classification
from luthier.objectives.multi_label import MultiLabel
from tests.conftest import DECODERS, ENCODERS, PADDED, rows

LABELS = ("bad", "good", "never", "so-so")


def prepare(bases: Any, family: str, count: int, labels: int) -> tuple[Any, Any, list[Example]]:
    """An untouched network, its objective, and rows of all classes but "never"."""
    base = bases(family)
    model = load_classifier(base, list(LABELS), "mean", 0.0, 0).eval()
    objective = Classification(labels=LABELS).open(load_tokenizer(base), ("text",), "label")
    names = [name for name in LABELS if name != "never"][:labels]
    records = [Record(number, {"text": row["text"], "label": names[number % labels]}) for number, row in enumerate(rows(count))]
    return model, objective, objective.prepare(records)


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("family", ["bert", "mpnet", "llama"])
def test_the_probe_says_what_scikit_learn_says(bases, family: str, labels: int) -> None:
    model, objective, examples = prepare(bases, family, 120, labels)
    train, held = examples[:80], examples[80:]

    def features(some: Sequence[Example]) -> np.ndarray:
        return base_views(model, objective.collate(some, 0, 0)).reshape(len(some), -1)

    fitted = fit_probe(features, train, held, len(LABELS))
    ours = score(LinearProbe(model, torch.from_numpy(fitted.weight), torch.from_numpy(fitted.bias)), objective, held)
    assert ours.probabilities is not None
    seen, sealed = features(train), features(held)
    centre, spread = seen.mean(0, dtype=np.float64), seen.std(0, dtype=np.float64)
    scale = LENGTH / np.sqrt(seen.shape[1]) / np.maximum(spread, 1e-6 + 1e-3 * spread.mean())
    even = [((part - centre.astype(np.float32)) * scale.astype(np.float32)) for part in (seen, sealed)]
    target = [example.target for example in train]
    theirs = [LogisticRegression(C=strength, max_iter=300).fit(even[0], target) for strength in REGULARISATION]
    shares = [np.insert(each.predict_proba(even[1]), [2], 0.0, 1) if labels == 3 else each.predict_proba(even[1]) for each in theirs]
    right = [example.target for example in held]
    best = min(shares, key=lambda each: -np.log(each[np.arange(len(right)), right]).mean())
    assert ours.probabilities[:, : best.shape[1]] == pytest.approx(best, abs=1e-5)
    assert ours.probabilities[:, 2].max() < 1e-8  # no training row was of that class
    assert fitted.validation.probabilities == pytest.approx(ours.probabilities, abs=1e-5)


def test_the_average_is_the_mean_of_the_probabilities(bases) -> None:
    model, objective, examples = prepare(bases, "bert", 30, 3)
    draws = torch.Generator().manual_seed(0)
    probe = LinearProbe(model, torch.randn(4, 64, generator=draws), torch.randn(4, generator=draws), 1.5)
    one, two, both = (score(each, objective, examples) for each in (model, probe, AveragedModel(model, probe)))
    assert one.probabilities is not None and two.probabilities is not None
    assert both.probabilities == pytest.approx((one.probabilities + two.probabilities) / 2, abs=1e-6)


def test_the_average_of_labels_is_the_mean_of_each_label_s_probabilities(bases) -> None:
    model, _, _ = prepare(bases, "bert", 4, 3)
    objective = MultiLabel(labels=LABELS).open(load_tokenizer(bases("bert")), ("text",), "labels")
    examples = objective.prepare([Record(number, {"text": row["text"], "labels": ["bad"]}) for number, row in enumerate(rows(30))])
    draws = torch.Generator().manual_seed(0)
    probe = LinearProbe(model, torch.randn(4, 64, generator=draws), torch.randn(4, generator=draws), 1.5)
    one, two, both = (score(each, objective, examples) for each in (model, probe, AveragedModel(model, probe, link="sigmoid")))
    assert both.more["predicted"] == pytest.approx((one.more["predicted"] + two.more["predicted"]) / 2, abs=1e-6)


@pytest.mark.parametrize("family", [*ENCODERS, *PADDED, *DECODERS])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_logits_are_divided_in_the_head_of_every_family(bases, family: str, pooling: str) -> None:
    model, objective, examples = prepare(bases, family, 12, 2)
    model.pooling = pooling
    with torch.no_grad():
        before = model(objective.collate(examples, 0, 0))
        divide_logits(model, 1.7)
        after = model(objective.collate(examples, 0, 0))
    assert torch.allclose(after, before / 1.7, rtol=1e-4, atol=1e-6)
    assert before.abs().max() > 1e-3
