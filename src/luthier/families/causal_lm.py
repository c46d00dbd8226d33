"""Causal language modelling (GPT): a decoder learns a language, or a domain, from texts without labels; a base for what comes after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import ModelError
from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Record, Scores
from luthier.data.near_duplicates import clusters
from luthier.data.row_reader import RowView
from luthier.data.sources.passages import POSITION
from luthier.data.spec import Data
from luthier.evaluation.metric_choice import AUTO
from luthier.families import causal_lm_defaults, text_defaults
from luthier.families.causal_lm_proofs import PROOFS
from luthier.families.choice import Choice
from luthier.families.corpus_family import PASSAGES, CorpusFamily, refuse_empty_tokens
from luthier.objectives.causal_lm import SEPARATOR, CausalLm

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base
    from luthier.models.pretrained import Generator
    from luthier.models.spec import Model

EXCERPT = 600
"""Characters of a long text's beginning, middle and end that checks look at."""
COMPARED = 32_000_000
"""Characters of all texts together up to which near-duplicates are looked for in whole texts; above, in excerpts."""
TOKENIZER_READS = 50_000_000
"""Characters that a tokenizer is made from at most, evenly from all training texts."""
COUNTED = 4_000_000
"""Training tokens that the n-gram model counts at most."""
SHOWN, ASKED, SAID = 2, 16, 64
"""Samples at each evaluation, the tokens that they begin with, and the tokens that are added."""
TEMPERATURE = 0.8


class CausalLmFamily(CorpusFamily):
    """See the module."""

    name = "causal_lm"
    Spec = CausalLm
    base = None
    base_kinds = ("decoder",)
    from_scratch = True
    known_as = ("pt",)
    metrics = ("bits_per_byte", "loss", "perplexity")
    compares_untouched = True
    pipeline_tag = "text-generation"
    gives = "text"

    # rows

    def row_view(self, record: Record, data: Data) -> RowView:
        """The text; of a long one its beginning, middle and end."""
        return RowView(_excerpt(super().row_view(record, data).text), "")

    def clusters(self, records: Sequence[Record], data: Data) -> Sequence[int]:
        """Near-duplicates by whole texts; of a very large corpus by excerpts."""
        whole = [super(CausalLmFamily, self).row_view(record, data).text for record in _while_short(records, data)]
        return clusters(whole) if len(whole) == len(records) else super().clusters(records, data)

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By how much text there is; from a base as decoders are tuned."""
        adaptation = Choice("adaptation.kind", "full", "a language is learned with all weights")
        if base is None:
            return [adaptation, *causal_lm_defaults.from_scratch(_characters(dataset)), *self.metric(dataset, metric)]
        epochs = 1
        return [
            adaptation,
            Choice("objective.context", *causal_lm_defaults.CONTEXT["base"]),
            Choice("optimizer.lr", *self.learning_rate(base, "full")),
            Choice("training.epochs", epochs, "one pass: a base forgets, and learns a domain soon"),
            self.batch_size(dataset, epochs),
            *text_defaults.schedule(),
            *text_defaults.regularisation(dropout=0.0, decay=0.0),
            *self.metric(dataset, metric),
        ]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """That of decoders; from scratch the highest that small networks bear, which the defaults lower by the Step Law."""
        if base is None:
            return causal_lm_defaults.HIGHEST_RATE, "a small network from scratch"
        return text_defaults.learning_rate("decoder", base, adaptation)

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """Blocks a step, by the Step Law."""
        return causal_lm_defaults.batch_size(causal_lm_defaults.tokens_in(_characters(dataset)) * epochs)

    def fit_budget(self, choices: list[Choice], dataset: Dataset, seconds: float) -> list[Choice]:
        """From scratch the deepest network of which the budget carries one pass, at most that which suits the text; rate and batch by the tokens that it carries."""
        if all(choice.path != "objective.depth" for choice in choices):
            return choices
        fitting = {choice.path: choice for choice in causal_lm_defaults.from_scratch(_characters(dataset), seconds)}
        return [fitting.get(choice.path, choice) for choice in choices]

    def follow_set(
        self, spec: Any, epochs: float, paths: Sequence[str], dataset: Dataset, base: Base | None, seconds: float | None
    ) -> list[Choice]:
        """From scratch the Step Law's learning rate and batch, where size or passes were set."""
        if base is not None or not set(causal_lm_defaults.DIALS) & {*paths}:
            return []
        return causal_lm_defaults.reckon_again(spec, _characters(dataset), epochs, seconds)

    def metric(self, dataset: Dataset, asked: str) -> list[Choice]:
        """Bits for each byte of the text: comparable between tokenizers, and with compressors."""
        return [
            Choice("training.metric", "bits_per_byte" if asked == AUTO else asked, "comparable between tokenizers, and with compressors")
        ]

    def adaptations(self, base: Base | None) -> tuple[str, ...]:
        """Those whose learning rates are known; a network from scratch learns with all its weights."""
        return ("full",) if base is None else text_defaults.adaptations("decoder")

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> Generator:
        """The base with its own head, or a small network that knows nothing."""
        if base is not None:
            from luthier.models.pretrained import load_generator

            return load_generator(base, model.dropout)
        from luthier.models.causal import make_generator

        width, heads = spec.size
        if width % (2 * heads):
            raise ModelError(
                f"a width of {width} cannot be divided among {heads} heads in pairs",
                f"choose heads so that {width} is a multiple of twice their number",
            )
        return make_generator(spec.vocabulary, spec.depth, width, heads, spec.context, model.dropout, seed)

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """Whether rows are whole documents, whose end can be learned."""
        return spec.model_copy(update={"ends": dataset.spec.format != PASSAGES or dataset.spec.time != POSITION})

    def load_processor(self, base: Base | None, spec: Any, dataset: Dataset | None = None) -> Any:
        """The base's tokenizer, or one made from the training texts.

        Raises:
            ModelError: the base is an encoder.
        """
        if base is not None and base.kind not in self.base_kinds:
            raise ModelError(f"{base.name} is an {base.kind}: it cannot write text", "use a decoder, such as --base smollm2-135m")
        if base is not None:
            return super().load_processor(base, spec, dataset)
        from luthier.models.causal import make_bpe

        assert dataset is not None
        share = min(1.0, TOKENIZER_READS / max(_characters(dataset), 1))
        made = make_bpe(_texts(dataset, share), spec.vocabulary, SEPARATOR)
        refuse_empty_tokens(len(made), spec.vocabulary)
        return made

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """Each token of a document is predicted once, and what is read is what is served."""
        return PROOFS

    def serving_inputs(self, record: Record, objective: Any) -> Any:
        """The text behind the token that stands before each document."""
        return {"tokens": objective.prompt(record)}

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """What counting predicts, and a general compressor."""
        return [n_grams(train, validation, context), xz(train, validation, context)]

    def samples(self, model: Any, objective: Any, validation: Sequence[Example]) -> list[dict[str, Any]]:
        """How it goes on with the first words of two validation texts."""
        from luthier.models.generate import continuations

        step = max(1, len(validation) // SHOWN)
        examples = [validation[index] for index in range(0, len(validation), step)][:SHOWN]
        prompts = [np.asarray(example.tokens)[:ASKED].astype(np.int64).tolist() for example in examples]
        continued = continuations(model, objective.tokenizer, prompts, SAID, objective.end, TEMPERATURE)
        beginnings = [objective.tokenizer.decode(prompt, skip_special_tokens=True) for prompt in prompts]
        return [
            {"row": example.record.row, "asked": one, "said": other}
            for example, one, other in zip(examples, beginnings, continued, strict=True)
        ]

    def target_text(self, example: Example) -> str:
        """Which block of its document it is."""
        return f"{example.size:,} tokens, from token {example.facts['at']:,} of the document on"

    # use

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """How each text goes on: tokens are drawn, the same ones each time."""
        from luthier.models.generate import continuations

        prompts = [objective.prompt(record)[-objective.spec.context :] for record in records]
        continued = continuations(model, objective.tokenizer, prompts, limit, objective.end, TEMPERATURE)
        return [{"text": text} for text in continued]

    def usage(self, bundle: str) -> str:
        """A text to go on with; and what such a model is for."""
        return f'luthier predict {bundle} "It was"   or, as a base: luthier run rows.csv --base {bundle}'

    def serve_elsewhere(self, bundle: str, dtype: str) -> str:
        """VLLM; it completes texts."""
        return text_defaults.vllm_command(bundle, dtype)

    def without_luthier(self) -> str:
        """A pipeline of transformers."""
        return 'from transformers import pipeline; pipeline("text-generation", "PATH")("It was")'


def _excerpt(text: str) -> str:
    """A text, or of a long one its beginning, middle and end."""
    if len(text) <= 3 * EXCERPT:
        return text
    middle = len(text) // 2
    return "\n".join((text[:EXCERPT], text[middle - EXCERPT // 2 : middle + EXCERPT // 2], text[-EXCERPT:]))


def _while_short(records: Sequence[Record], data: Data) -> Iterator[Record]:
    """The records, as long as all their texts together are not too long to be compared whole."""
    characters = 0
    for record in records:
        characters += sum(len(str(record.values.get(name) or "")) for name in data.input)
        if characters > COMPARED:
            return
        yield record


def _characters(dataset: Dataset) -> int:
    """Of the training texts."""
    return sum(len(str(record.values.get(name) or "")) for record in dataset.records["train"] for name in dataset.spec.input)


def _texts(dataset: Dataset, share: float) -> Iterator[str]:
    """This share of the training texts, evenly."""
    for number, record in enumerate(dataset.records["train"]):
        if int((number + 1) * share) > int(number * share):
            yield record.text(dataset.spec.input)


def _scores(losses: Sequence[float], examples: Sequence[Example]) -> Scores:
    """What blocks lose, as scores."""
    return Scores(
        loss=np.array(losses, dtype=np.float64),
        count=np.array([example.units for example in examples]),
        bytes=np.array([float(example.facts["bytes"]) for example in examples]),
        groups=np.array([example.facts["document"] for example in examples]),
    )


def n_grams(train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> Baseline:
    """A 5-gram model with modified Kneser–Ney smoothing, on the same tokens and behind the same past."""
    from luthier.data.blocks import join_blocks
    from luthier.evaluation.baselines import Baseline
    from luthier.evaluation.ngrams import ORDER, KneserNey, few_of

    total = sum(example.size for example in train)
    chosen = few_of(max((example.facts["document"] for example in train), default=0) + 1, COUNTED / max(total, 1))
    counted = sum(example.size for example in train if chosen[example.facts["document"]])
    model = KneserNey(join_blocks(example for example in train if chosen[example.facts["document"]]), len(context.processor))

    def score(examples: Sequence[Example]) -> Scores:
        return _scores([float(model.losses(np.append(each.tokens, each.target[-1:])).sum()) for each in examples], examples)

    part = f" (on {counted:,} of {total:,} tokens)" if counted < total else ""
    return Baseline(f"{ORDER}-gram with Kneser-Ney smoothing{part}", score, score(validation))


def xz(train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> Baseline:
    """The compressor xz, which has read the end of the training texts before."""
    from luthier.evaluation.baselines import Baseline
    from luthier.evaluation.compressor import PRIMED, xz_bits

    characters, before = 0, []
    for record in reversed(list({example.facts["document"]: example.record for example in train}.values())):
        before.append(context.objective.text_of(record).encode())
        characters += len(before[-1])
        if characters > PRIMED:
            break
    primed = b"\n".join(reversed(before))

    def score(examples: Sequence[Example]) -> Scores:
        records = {example.facts["document"]: example.record for example in examples}
        texts = [context.objective.text_of(record).encode() for record in records.values()]
        bits = dict(zip(records, xz_bits(texts, primed) / [max(len(text), 1) for text in texts], strict=True))
        return _scores([bits[each.facts["document"]] * each.facts["bytes"] * np.log(2) for each in examples], examples)

    return Baseline("xz, behind the training text", score, score(validation))


FAMILY = CausalLmFamily()
