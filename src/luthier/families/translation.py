"""Translation: an encoder–decoder learns to write one text for another, from scratch or going on from a base; every bundle is a base."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError
from luthier.core.finding import Finding
from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Record, Scores
from luthier.core.words import several
from luthier.data.groups import Groups
from luthier.data.infer import mean_length, refuse_empty
from luthier.data.near_duplicates import clusters, normalise
from luthier.data.row_reader import Columns, RowKind
from luthier.data.rows import Rejected, Rows
from luthier.data.spec import Data
from luthier.evaluation.metric_choice import AUTO
from luthier.families import text_defaults, token_proofs, translation_proofs
from luthier.families.by_size import row_for
from luthier.families.choice import Choice
from luthier.families.family import Family
from luthier.objectives.translation import Translation

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base
    from luthier.models.encoder_decoder import EncoderDecoder
    from luthier.models.spec import Model

SIDES = (("source", "target"), ("src", "tgt"), ("src", "trg"), ("from", "to"), ("original", "translation"))
"""What well-known sets call their two columns."""
LANGUAGES = frozenset(
    "ar bg bn ca cs da de el en es et eu fa fi fr ga gl he hi hr hu hy id is it ja ka ko la lt lv mk ms nb nl no pl pt ro ru sk sl sq sr sv sw ta th tr uk ur vi zh".split()
)
"""Codes of languages (ISO 639-1) that name a column of texts."""
LEAST = 4
"""Mean characters of a column of texts."""
EPOCHS = (
    (3_000, 40, "few pairs: many passes"),
    (15_000, 25, "some thousand pairs"),
    (60_000, 20, "about as many pairs as Multi30k, where the score hardly rises after twenty passes"),
    (200_000, 10, "about as many pairs as Tatoeba's English and Spanish, where most is learned in ten passes"),
    (1 << 62, 6, "many pairs"),
)
"""Below this many training rows, epochs from scratch, and why."""
GOING_ON = 0.25
"""Of those epochs, where a base knows how to translate already."""
VOCABULARIES = ((3_000, 1_000), (10_000, 2_000), (20_000, 4_000), (1 << 62, 8_000))
"""Below this many training rows, tokens of a tokenizer from scratch: of few rows only short pieces are seen often enough to be learned (Sennrich & Zhang 2019)."""
BATCHES = (128, 64, 32)
STEPS = 1_500
"""That a run should have."""
LOOKS = 15
"""Evaluations that a run has."""
LARGE = 100_000
"""Training rows from which on less dropout is needed."""
SCRATCH = "norms before their layers: 3e-3 learned steadily (300 steps of 64 pairs of Tatoeba); Wu et al. 2021 take 5e-3 at this width"
RATES: dict[str, tuple[float, str]] = {
    "scratch": (3e-3, SCRATCH),
    "small": (7e-4, "going on with a small network: a quarter of the learning rate from scratch"),
    "t5": (3e-4, "T5 with AdamW: 1e-4 to 3e-4 (Hugging Face's notes on T5)"),
    "mt5": (3e-4, "as T5"),
    "base": (5e-5, "a pretrained encoder–decoder: the usual 2e-5 to 5e-5"),
}
SMALL = 256
"""Width up to which a base counts as a small network from scratch."""
TOGETHER = 64
"""Rows that are translated at once."""
REPEATS = 3
"""Times in a row that the same words make a repeated output."""
NOTICED = 0.02
"""Share of empty or repeated outputs from which on they are a warning."""


class TranslationFamily(Family):
    """See the module."""

    name = "translation"
    kind = RowKind("text", "answer", names=("source", "target"), english_base=False)
    specificity = 1
    Spec = Translation
    base = None
    from_scratch = True
    base_kinds = ("encoder-decoder",)
    metrics = ("chrf", "bleu", "loss")
    compares_untouched = True
    generates = True
    pipeline_tag = "translation"
    gives = "sequence"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Two columns named for languages or for the two sides; any others where a person insists and names them."""
        insists = asked.task == self.name
        if not insists and (asked.task or asked.input or asked.target):
            return None
        sides, why = (asked.input, asked.target), "task and columns as given"
        if not (asked.input and asked.target):
            sides, why = find_sides(rows, asked)
        input, target = sides
        if not input or not target:
            if not insists:
                return None
            for name in rows.columns:
                refuse_empty(rows, path, name)
            raise DataError(
                f"{path}: no pair of texts found among the columns {', '.join(rows.columns)}", "name them: --input en --target de"
            )
        if target in input:
            raise DataError(f"{path}: {target!r} is both read and learned", "name two columns: --input en --target de")
        return Columns(self.name, input, target, f"{why}: {' + '.join(input)} → {target}")

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """A row of which one side is empty, or no text."""
        for side, names in (("source", columns.input), ("target", (columns.target or "",))):
            cells = [record.values.get(name) for name in names]
            other = next((name for name, cell in zip(names, cells, strict=True) if isinstance(cell, dict | list)), None)
            if other is not None:
                return f"{other} holds a {type(record.values[other]).__name__}, not a text"
            if not any(str(cell if cell is not None else "").strip() for cell in cells):
                return f"the {side} is empty ({' and '.join(map(repr, names))})"
        return ""

    def fit(self, parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
        """There are no classes; a target that only repeats its source teaches to copy."""
        data = Data(path=path, input=columns.input, target=columns.target)
        views = [self.row_view(record, data) for record in parts["train"]]
        if views and all(view.text.strip() == view.target.strip() for view in views):
            raise DataError(
                f"{path}: source and target are the same text in all {len(views):,} rows", "name another column: --input en --target de"
            )
        return ()

    def clusters(self, records: Sequence[Record], data: Data) -> Sequence[int]:
        """Rows stay together whose sources, or whose targets, are near-duplicates: a known target gives a source away, too."""
        views = [self.row_view(record, data) for record in records]
        together = Groups(len(views))
        for texts in ([view.text for view in views], [view.target for view in views]):
            for row, first in enumerate(clusters(texts)):
                together.join(row, first)
        return [together.find(row) for row in range(len(views))]

    def identity(self, record: Record, data: Data) -> str:
        """Both sides: one source may have several translations."""
        view = self.row_view(record, data)
        return f"{normalise(view.text)}\n{normalise(view.target)}"

    # starting point

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By the number of pairs."""
        rows = len(dataset.records["train"])
        epochs, why = row_for(EPOCHS, rows)
        if base is not None:
            epochs, why = max(2, round(GOING_ON * epochs)), f"{why}; a quarter of that, for the base can translate already"
        dropout = (0.3, "small networks on few pairs (Wu et al. 2021)") if rows < LARGE else (0.1, "many pairs")
        if base is not None and base.width > SMALL:
            dropout = (0.1, "the base's own")
        return [
            Choice("adaptation.kind", "full", "a network of this size is trained whole"),
            Choice("optimizer.lr", *self.learning_rate(base, "full")),
            Choice("optimizer.betas", (0.9, 0.98), "Vaswani et al. 2017, section 5.3"),
            Choice("training.epochs", epochs, why),
            self.batch_size(dataset, epochs),
            *text_defaults.schedule(),
            Choice(
                "training.evaluations_per_epoch", round(LOOKS / epochs, 3), f"about {LOOKS} evaluations in all: each of them translates"
            ),
            Choice("model.dropout", *dropout),
            Choice("optimizer.weight_decay", 1e-4, "fairseq's recipe for small translation sets"),
            *self.metric(dataset, metric),
        ]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """Higher where nothing can be forgotten."""
        kind = "scratch" if base is None else "small" if base.width <= SMALL else base.family if base.family in RATES else "base"
        rate, why = RATES[kind]
        return (
            (rate, why)
            if adaptation != "lora"
            else (min(10 * rate, 1e-2), "adapters learn at about ten times the learning rate of full tuning")
        )

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """The most rows a step that leave a run as many steps as it should have."""
        return text_defaults.largest_batch(BATCHES, len(dataset.records["train"]) * epochs, STEPS)

    def metric(self, dataset: Dataset, asked: str) -> list[Choice]:
        """chrF, beside which BLEU is given."""
        why = "of the metrics that compare strings it agrees best with people (Kocmi et al. 2021); BLEU stands beside it"
        return [Choice("training.metric", self.metrics[0] if asked == AUTO else asked, why)]

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> EncoderDecoder:
        """The base, or a small network that knows nothing."""
        from luthier.models.encoder_decoder import load_translator, make_translator

        if base is not None:
            return load_translator(base, model.dropout)
        return make_translator(spec.vocabulary, spec.layers, spec.width, model.dropout, seed)

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """Tokens by the number of pairs, or as many as the training texts hold where they are fewer than were asked for."""
        rows = len(dataset.records["train"])
        size = spec.vocabulary or row_for(VOCABULARIES, rows)[0]
        return spec.model_copy(update={"vocabulary": len(_tokenizer(self._texts(dataset), size))})

    def load_processor(self, base: Base | None, spec: Any, dataset: Dataset | None = None) -> Any:
        """The base's tokenizer, or one for both languages made from the training texts."""
        if base is not None:
            return super().load_processor(base, spec, dataset)
        assert dataset is not None
        return _tokenizer(self._texts(dataset), spec.vocabulary)

    def _texts(self, dataset: Dataset) -> tuple[str, ...]:
        views = (self.row_view(record, dataset.spec) for record in dataset.records["train"])
        return tuple(text for view in views for text in (view.text, view.target))

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """The encoder knows nothing of the target, the decoder nothing of what comes; the end is learned, and padding is not."""
        read = (
            token_proofs.something_is_learned,
            token_proofs.trained_is_served,
            translation_proofs.the_target_is_hidden_from_the_encoder,
            translation_proofs.each_word_is_learned_behind_those_before_it,
            translation_proofs.the_end_is_learned_and_padding_is_not,
        )
        return read, (translation_proofs.no_word_sees_those_behind_it, translation_proofs.padding_changes_nothing)

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The source itself, and the target of the nearest training source."""
        from luthier.families.translation_baselines import copy_of_source, nearest_target

        copied = copy_of_source(train, validation, context)
        context.poll()
        return [copied, nearest_target(train, validation, context)]

    def target_text(self, example: Example) -> str:
        """The translation that was given."""
        return str(example.facts["reference"])

    def predicted_text(self, scores: Scores, position: int) -> str:
        """The translation that was written."""
        return str(scores.outputs[position]) if scores.outputs is not None and scores.outputs[position] is not None else ""

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """Outputs that are empty or say the same again and again."""
        if scores.outputs is None:
            return {}
        faults = find_faults(scores)
        written = sum(output is not None for output in scores.outputs)
        rows = [(name, len(faulty), f"{len(faulty) / max(written, 1):.1%}", str(scores.outputs[faulty[0]])[:120] if faulty else "–")
                for name, faulty in faults.items()]  # fmt: skip
        head = ("fault", "translations", f"of {written:,}", "the first")
        return {"tables": [{"title": "Translations that went wrong visibly", "head": head, "rows": rows}]}

    def findings(self, scores: Scores, spec: Any) -> list[Finding]:
        """Empty and repeated outputs, where there are some."""
        if scores.outputs is None:
            return []
        written = sum(output is not None for output in scores.outputs)
        results = []
        for name, rows in find_faults(scores).items():
            if rows:
                severity = "warning" if len(rows) > NOTICED * written else "note"
                claim = f"{several(len(rows), 'translation', f'of {written:,} are {name}') if len(rows) != 1 else f'1 of {written:,} translations is {name}'}"
                results.append(Finding(check=f"translation.{name}", severity=severity, claim=claim, evidence={"written": written, "faulty": len(rows), "first": str(scores.outputs[rows[0]])[:200]},
                                     remedy="more training or more pairs; look at the longest sources first"))  # fmt: skip
        return results

    # use

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """The likeliest translation of each."""
        examples = objective.prepare(records)
        order = sorted(range(len(examples)), key=lambda row: len(examples[row].tokens))
        translations = [""] * len(examples)
        for start in range(0, len(order), TOGETHER):
            part = order[start : start + TOGETHER]
            most = min(limit, objective.spec.max_length)
            for row, text in zip(part, objective.translate(model, [examples[row].tokens for row in part], most), strict=True):
                translations[row] = text
        return [{"text": text} for text in translations]

    def usage(self, bundle: str) -> str:
        """A text; and what else such a bundle is for."""
        return f'luthier predict {bundle} "your text"   or, for other pairs: luthier run more.tsv --task {self.name} --base {bundle}'

    def without_luthier(self) -> str:
        """A few lines of transformers."""
        return (
            'from transformers import AutoModelForSeq2SeqLM, AutoTokenizer; tokenizer = AutoTokenizer.from_pretrained("PATH"); '
            'tokenizer.decode(AutoModelForSeq2SeqLM.from_pretrained("PATH").generate(**tokenizer("…", return_tensors="pt"))[0], skip_special_tokens=True)'
        )


@lru_cache(maxsize=2)
def _tokenizer(texts: tuple[str, ...], vocabulary: int) -> Any:
    """Made once for the same texts: a run asks for it several times."""
    from luthier.models.encoder_decoder import LONGEST
    from luthier.models.translation_tokenizer import make_pair_tokenizer

    return make_pair_tokenizer(texts, vocabulary, LONGEST)


def find_sides(rows: Rows, asked: Data) -> tuple[tuple[tuple[str, ...], str | None], str]:
    """The two columns that are a text and its translation, and why.

    Args:
        rows: of the table.
        asked: with one of the two columns, perhaps.
    """
    by_name = {name.lower(): name for name in rows.columns}
    for one, two in SIDES:
        if one in by_name and two in by_name and asked.input in ((), (by_name[one],)) and asked.target in (None, by_name[two]):
            return ((by_name[one],), by_name[two]), "the columns are named for the two sides of a translation"
    texts = [name for name in rows.columns if name.lower() in LANGUAGES and mean_length(rows, name) >= LEAST]
    if asked.task is not None and len(texts) < 2:
        texts = [name for name in rows.columns if mean_length(rows, name) >= LEAST]
    if asked.input or asked.target:
        others = [name for name in texts if name not in asked.input and name != asked.target]
        if len(others) == 1:
            return (asked.input or (others[0],), asked.target or others[0]), "one column as given, the other is the only text beside it"
        return ((), None), ""
    if len(texts) == 2:
        return ((texts[0],), texts[1]), "two columns of texts"
    return ((), None), ""


def find_faults(scores: Scores) -> dict[str, list[int]]:
    """The rows whose translation is empty, or repeats the same words.

    Args:
        scores: with outputs; None where a row was not translated.
    """
    assert scores.outputs is not None
    outputs = {row: str(text) for row, text in enumerate(scores.outputs) if text is not None}
    return {
        "empty": [row for row, text in outputs.items() if not text.strip()],
        "repeated": [row for row, text in outputs.items() if repeats(text)],
    }


def repeats(text: str) -> bool:
    """Whether one to four words come three times in a row.

    >>> repeats("a dog a dog a dog runs"), repeats("a very very good dog")
    (True, False)
    """
    words = text.lower().split()
    for size in range(1, 5):
        for start in range(len(words) - REPEATS * size + 1):
            if words[start : start + size] * REPEATS == words[start : start + REPEATS * size]:
                return True
    return False


FAMILY = TranslationFamily()
