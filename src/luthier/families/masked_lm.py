"""Masked language modelling: an encoder learns a language, or a domain, from texts without labels; a base for what comes after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError, ModelError
from luthier.core.proof import ProofFunction
from luthier.core.types import HELD_OUT, Example, Record, Scores
from luthier.data.row_reader import RowKind
from luthier.families import masked_lm_proofs, text_defaults, token_proofs
from luthier.families.by_size import affordable_depth, row_for
from luthier.families.causal_lm_proofs import trained_is_served
from luthier.families.choice import Choice
from luthier.families.corpus_family import CorpusFamily, refuse_empty_tokens
from luthier.objectives.masked_lm import MaskedLm

if TYPE_CHECKING:
    from luthier.core.cache import Cache
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
DEPTHS = (
    (1_000_000, 2, "little text: a small network"),
    (30_000_000, 4, "what two cores train in minutes"),
    (300_000_000, 6, "some hundred million tokens"),
    (1 << 62, 8, "much text"),
)
"""Below this many tokens of the whole run, blocks of a network from scratch, and why."""
A_TOKEN, PIECE = 4, 128
"""Characters of a token, about, and tokens of a piece."""
COUNTED = 4_000_000
"""Tokens that are counted at most for the frequencies of words."""
UNSEEN = 0.1
"""Times that a token is counted before any text."""
BATCHES = (32, 16, 8)
STEPS = 200
"""That a run should have."""
RATES = {
    "scratch": (1e-3, "a small network from scratch"),
    "base": (3e-4, "going on with pretraining: the best of 1e-4, 3e-4 and 1e-3 on two texts in few steps (docs/defaults.md)"),
    "adapters": (1e-3, "adapters learn at a higher learning rate than full tuning; not measured"),
}
SHOWN = 5
"""Likeliest words for each gap."""


class MaskedLmFamily(CorpusFamily):
    """See the module."""

    name = "masked_lm"
    Spec = MaskedLm
    kind = RowKind("text", "nothing")
    base = "minilm-l6"
    base_kinds = ("encoder",)
    from_scratch = True
    metrics = ("loss", "perplexity", "masked_accuracy")
    compares_untouched = True
    pipeline_tag = "fill-mask"
    gives = "gaps"

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By how much text there is."""
        rows = _pieces(dataset)
        epochs, why = row_for(EPOCHS, rows)
        return [
            Choice("adaptation.kind", "full", "a language is learned with all weights"),
            *([self.depth(dataset, epochs)] if base is None else []),
            Choice("optimizer.lr", *self.learning_rate(base, "full")),
            Choice("training.epochs", epochs, why),
            self.batch_size(dataset, epochs),
            *text_defaults.schedule(),
            *text_defaults.regularisation(dropout=0.1, decay=0.01),
            *self.metric(dataset, metric),
        ]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """Higher where nothing can be forgotten."""
        return RATES["scratch" if base is None else "adapters" if adaptation == "lora" else "base"]

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """The most rows a step that leave a run as many steps as it should have."""
        return text_defaults.largest_batch(BATCHES, _pieces(dataset) * epochs, STEPS)

    def fit_budget(self, choices: list[Choice], dataset: Dataset, seconds: float) -> list[Choice]:
        """The deepest network of which the budget carries one pass, at most that which suits the text."""
        passed = _characters(dataset) / A_TOKEN
        suits = next(choice for choice in choices if choice.path == "objective.depth")
        depth = affordable_depth(suits, lambda blocks: _operations(blocks) * passed, seconds)
        return [depth if choice is suits else choice for choice in choices]

    def depth(self, dataset: Dataset, epochs: float) -> Choice:
        """Blocks of a network from scratch."""
        tokens = _characters(dataset) / A_TOKEN * epochs
        depth, why = row_for(DEPTHS, tokens)
        return Choice("objective.depth", depth, why)

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> MaskedModel:
        """The base with a head for hidden tokens, or a small network that knows nothing."""
        from luthier.models.masked import load_masked, make_masked

        if base is not None:
            network = load_masked(base, model.dropout, seed)
        else:
            network = make_masked(spec.vocabulary, spec.depth, spec.wide, model.dropout, seed)
        if spec.max_length > network.positions:
            raise ModelError(
                f"this network knows {network.positions} positions, and objective.max_length is {spec.max_length}",
                f"--set objective.max_length={network.positions}: longer texts are learned in pieces",
            )
        return network

    def start_head(
        self, model: Any, objective: Any, fingerprint: str, train: Sequence[Example], validation: Sequence[Example], cache: Cache
    ) -> bool:
        """A head that the base did not bring begins with how frequent each token is: learning that takes hundreds of steps."""
        import torch

        bias = model.output_bias
        if bias is None or (fingerprint and not model.new):
            return False
        counts = count_tokens(train, len(bias))
        with torch.no_grad():
            bias.copy_(torch.from_numpy(np.log(counts / counts.sum())))
        return True

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """Nothing: the texts have no classes."""
        return spec

    def load_processor(self, base: Base | None, spec: Any, dataset: Dataset | None = None) -> Any:
        """The base's tokenizer, or one made from the training texts."""
        if base is not None:
            return super().load_processor(base, spec, dataset)
        from luthier.models.masked import make_tokenizer

        assert dataset is not None
        made = make_tokenizer((self.row_view(record, dataset.spec).text for record in dataset.records["train"]), spec.vocabulary)
        if spec.vocabulary > MaskedLm().vocabulary:  # what is not asked for is a bound
            refuse_empty_tokens(len(made), spec.vocabulary)
        return made

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is read is what is served; what is guessed stood there; hidden tokens are not given away."""
        read, ask = masked_lm_proofs.PROOFS
        return (*read, trained_is_served, token_proofs.control_tokens_stand_once), ask

    def serving_inputs(self, record: Record, objective: Any) -> Any:
        """All pieces of the text, end to end."""
        return {"tokens": [token for piece in objective.prepare([record.select(objective.input)]) for token in piece.tokens]}

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The frequency of each token, and its frequency behind the one before it."""
        return [frequencies(context.objective, train, validation, len(context.processor))]

    def target_text(self, example: Example) -> str:
        """The text itself."""
        return example.facts["read_text"]()

    # use

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """The likeliest words for each gap, and the text with the likeliest of all."""
        import torch

        processor = objective.tokenizer
        found = []
        for record in records:
            texts, words = [], []
            for piece in objective.prepare([record]):
                gaps = [place for place, token in enumerate(piece.tokens) if token == processor.mask_token_id]
                filled = list(piece.tokens)
                if gaps:
                    batch = objective.collate([piece], 0, HELD_OUT)
                    batch.flat["tokens"].copy_(torch.tensor(filled))  # nothing is hidden but the gaps
                    with torch.no_grad():
                        tops = model.guess(model.hidden_states(batch)[torch.tensor(gaps)]).float().softmax(-1).topk(SHOWN)
                    for place, numbers, shares in zip(gaps, tops.indices.tolist(), tops.values.tolist(), strict=True):
                        filled[place] = numbers[0]
                        words.append(
                            [
                                {"word": processor.decode([number]).strip(), "probability": share}
                                for number, share in zip(numbers, shares, strict=True)
                            ]
                        )
                texts.append(processor.decode(filled, skip_special_tokens=True).strip())
            if not words:
                raise DataError(f"row {record.row} has no gap to fill", f"write {processor.mask_token} where a word is to be guessed")
            found.append({"text": " ".join(texts), "words": words})
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


def _operations(depth: int) -> float:
    """Floating-point operations to learn from one token, of a network from scratch: six for each weight that it passes."""
    spec = MaskedLm(depth=depth)
    return 6 * (12 * depth * spec.wide**2 + spec.mask_share * spec.vocabulary * spec.wide)


def _characters(dataset: Dataset) -> int:
    """Of the training texts."""
    return sum(len(str(record.values.get(name) or "")) for record in dataset.records["train"] for name in dataset.spec.input)


def _pieces(dataset: Dataset) -> int:
    """Of the training texts, about; as many as there are rows, at least."""
    return max(len(dataset.records["train"]), _characters(dataset) // (A_TOKEN * PIECE))


def rows_to_count(train: Sequence[Example]) -> Iterator[Example]:
    """The training rows that are counted: all, or evenly so many that their tokens are few enough."""
    every = max(1, round(sum(example.size for example in train) / COUNTED))
    return (train[number] for number in range(0, len(train), every))


def count_tokens(train: Sequence[Example], vocabulary: int) -> np.ndarray:
    """How often each token is there in the training rows, and a little more, so that none is ruled out, # (vocabulary,)"""
    counts = np.full(vocabulary, UNSEEN)
    for example in rows_to_count(train):
        counts += np.bincount(example.tokens, minlength=vocabulary)
    return counts


def frequencies(objective: Any, train: Sequence[Example], validation: Sequence[Example], vocabulary: int) -> Baseline:
    """Each hidden token by how often it follows the one before it in the training rows, mixed with how often it is there at all.

    Source: Jelinek & Mercer 1980 (the mixture); its share is chosen on the validation rows.
    """
    from luthier.evaluation.baselines import Baseline

    alone, pairs, before = count_tokens(train, vocabulary), Counter[tuple[int, int]](), np.zeros(vocabulary)
    for example in rows_to_count(train):
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


FAMILY = MaskedLmFamily()
