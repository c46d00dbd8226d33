"""Masked language modelling: an encoder learns a language, or a domain, from texts without labels; a base for what comes after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError
from luthier.core.proof import Proof, ProofContext, ProofFunction, row_of
from luthier.core.types import HELD_OUT, Example, Record, Scores
from luthier.families import text_defaults, token_proofs
from luthier.families.corpus_family import TextsFamily
from luthier.families.family import Choice
from luthier.objectives.masked_lm import MaskedLm

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base
    from luthier.models.masked import MaskedModel
    from luthier.models.spec import Model

EPOCHS = (
    (2_000, 10, "few texts: more passes, each with other words hidden"),
    (20_000, 5, "each pass hides other words"),
    (1 << 62, 3, "many texts"),
)
"""Below this many training rows, epochs, and why."""
BATCHES = (32, 16, 8)
STEPS = 200
"""That a run should have."""
RATES = {
    "scratch": (1e-3, "a small network from scratch"),
    "base": (1e-4, "going on with pretraining: below the peak of the first (Gururangan et al. 2020)"),
}
SHOWN = 5
"""Likeliest words for each gap."""


class MaskedLmFamily(TextsFamily):
    """See the module."""

    name = "masked_lm"
    Spec = MaskedLm
    base = "minilm-l6"
    base_kinds = ("encoder",)
    from_scratch = True
    metrics = ("loss", "perplexity", "masked_accuracy")
    compares_untouched = True
    pipeline_tag = "fill-mask"
    gives = "gaps"

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By the number of texts."""
        rows = len(dataset.records["train"])
        epochs, why = next((epochs, why) for limit, epochs, why in EPOCHS if rows < limit)
        return [
            Choice("adaptation.kind", "full", "a language is learned with all weights"),
            Choice("optimizer.lr", *self.learning_rate(base, "full")),
            Choice("training.epochs", epochs, why),
            self.batch_size(dataset, epochs),
            *text_defaults.schedule(),
            *text_defaults.regularisation(dropout=0.1, decay=0.01),
            *self.metric(dataset, metric),
        ]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """Higher where nothing can be forgotten."""
        lr, why = RATES["base" if base is not None else "scratch"]
        return (lr, why) if adaptation != "lora" else (10 * lr, "adapters learn at about ten times the learning rate of full tuning")

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """The most rows a step that leave a run as many steps as it should have."""
        return text_defaults.largest_batch(BATCHES, len(dataset.records["train"]) * epochs, STEPS)

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> MaskedModel:
        """The base with a head for hidden tokens, or a small network that knows nothing."""
        from luthier.models.masked import load_masked, make_masked

        if base is not None:
            return load_masked(base, model.dropout, seed)
        return make_masked(spec.vocabulary, spec.layers, spec.width, model.dropout, seed)

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """Nothing: the texts have no classes."""
        return spec

    def load_processor(self, base: Base | None, spec: Any, dataset: Dataset | None = None) -> Any:
        """The base's tokenizer, or one made from the training texts."""
        if base is not None:
            return super().load_processor(base, spec, dataset)
        from luthier.models.masked import make_tokenizer

        assert dataset is not None
        return make_tokenizer((self.row_view(record, dataset.spec).text for record in dataset.records["train"]), spec.vocabulary)

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is read is what is served; hidden tokens are not given away."""
        return (something_is_learned, token_proofs.trained_is_served, token_proofs.control_tokens_stand_once), (hidden_is_hidden,)

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The frequency of each token, and its frequency behind the one before it."""
        return [frequencies(context.objective, train, validation, len(context.processor))]

    def target_text(self, example: Example) -> str:
        """The text itself."""
        return example.facts["text"]

    # use

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """The likeliest words for each gap, and the text with the likeliest of all."""
        import torch

        processor = objective.tokenizer

        found = []
        for record, example in zip(records, objective.prepare(records), strict=True):
            gaps = [place for place, token in enumerate(example.tokens) if token == processor.mask_token_id]
            if not gaps:
                raise DataError(f"row {record.row} has no gap to fill", f"write {processor.mask_token} where a word is to be guessed")
            batch = objective.collate([example], 0, HELD_OUT)
            batch.flat["tokens"].copy_(torch.tensor(example.tokens))  # nothing is hidden but the gaps
            with torch.no_grad():
                shares = model.guess(model.hidden(batch)[torch.tensor(gaps)]).float().softmax(-1)
            filled = list(example.tokens)
            words = []
            for place, row in zip(gaps, shares, strict=True):
                top = row.topk(SHOWN)
                filled[place] = int(top.indices[0])
                words.append(
                    [
                        {"word": processor.decode([token]).strip(), "probability": value}
                        for token, value in zip(top.indices.tolist(), top.values.tolist(), strict=True)
                    ]
                )
            found.append({"text": processor.decode(filled, skip_special_tokens=True).strip(), "words": words})
        return found

    def example_row(self, objective: Any) -> dict[str, Any]:
        """A text with a gap."""
        return dict.fromkeys(objective.input, f"the {objective.tokenizer.mask_token} is late")

    def usage(self, bundle: str) -> str:
        """A gap to fill; and what such a model is for."""
        return f'luthier predict {bundle} "the [MASK] is late"   or, as a base: luthier run labelled.csv --base {bundle}'

    def without_luthier(self) -> str:
        """A pipeline of transformers."""
        return 'from transformers import pipeline; pipeline("fill-mask", "PATH")("the [MASK] is late")'


def frequencies(objective: Any, train: Sequence[Example], validation: Sequence[Example], vocabulary: int) -> Baseline:
    """Each hidden token by how often it follows the one before it in the training rows, mixed with how often it is there at all.

    Source: Jelinek & Mercer 1980 (the mixture); its share is chosen on the validation rows.
    """
    from luthier.evaluation.baselines import Baseline

    alone, pairs, before = np.full(vocabulary, 0.1), Counter[tuple[int, int]](), np.zeros(vocabulary)
    for example in train:
        np.add.at(alone, example.tokens, 1)
        pairs.update(zip(example.tokens, example.tokens[1:], strict=False))
        np.add.at(before, example.tokens[:-1], 1)
    common = alone / alone.sum()
    likeliest = int(common.argmax())

    def score(examples: Sequence[Example], share: float) -> Scores:
        losses, counts, right = [], [], []
        for example in examples:
            shown, hidden = objective.hide(example)
            places = np.flatnonzero(hidden >= 0)
            left, token = shown[np.maximum(places - 1, 0)], hidden[places]
            seen = np.array([pairs[one, two] for one, two in zip(left.tolist(), token.tolist(), strict=True)]) / np.maximum(before[left], 1)
            losses.append(-np.log((1 - share) * common[token] + share * seen).sum())
            counts.append(float(len(places)))
            right.append(float((token == likeliest).sum()))
        return Scores(np.array(losses), np.array(counts), more={"right": np.array(right)})

    tried = {share: score(validation, share) for share in (0.0, 0.2, 0.4, 0.6)}
    best = min(tried, key=lambda share: tried[share].loss.sum())
    return Baseline("word frequencies behind the word before", lambda examples: score(examples, best), tried[best])


def something_is_learned(context: ProofContext) -> Proof:
    """Rows have tokens that can be hidden; they are counted."""
    train = context.train
    empty = [example for example in train if not example.units]
    tokens = sum(int(example.units) for example in train)
    return Proof(held=not empty, claim=f"{len(train):,} rows have {tokens:,} tokens that may be hidden" if not empty else f"{len(empty):,} rows have no token that could be hidden",
                 evidence={"rows": len(train), "tokens": tokens, **(row_of(empty[0]) if empty else {})})  # fmt: skip


def hidden_is_hidden(context: ProofContext) -> Proof:
    """Most guessed tokens stand behind the mask token, and a model that knows nothing hesitates among all tokens."""
    import torch

    from luthier.models.modes import eval_mode

    model: Any = context.model
    batch = context.batch(context.rows)
    shown = batch.flat["tokens"][batch.flat["hidden"] >= 0]
    masked = int((shown == context.tokenizer.mask_token_id).sum())
    with eval_mode(model), torch.no_grad():
        logits = model.guess(model.hidden(batch)[:1])
        began = float(context.objective.score(model, batch).loss.sum() / max(len(shown), 1))
    knows_nothing = float(np.log(logits.shape[-1]))
    held = masked > 0 and began <= knows_nothing + 2
    return Proof(held=held, claim=f"{masked} of {len(shown)} guessed tokens stand behind the mask token; the loss begins at {began:.3f} (knowing nothing: {knows_nothing:.3f})",
                 evidence={"masked": masked, "guessed": len(shown), "loss": began, "knowing_nothing": knows_nothing})  # fmt: skip


FAMILY = MaskedLmFamily()
