"""Sentence embeddings: an encoder learns vectors of texts, so that those which belong together are near each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import DataError, ExperimentError
from luthier.core.proof import ProofFunction
from luthier.core.types import Example, Record, Scores
from luthier.data.check.numbers import find_far
from luthier.data.near_duplicates import clusters
from luthier.data.row_reader import Columns, RowKind, RowView
from luthier.data.rows import Rejected, Rows
from luthier.data.spec import Data
from luthier.evaluation.metric_choice import AUTO
from luthier.families import embedding_proofs, text_defaults, token_proofs
from luthier.families.by_size import row_for
from luthier.families.choice import Choice
from luthier.families.embedding_report import cosine_of_words, describe_neighbours
from luthier.families.family import Family
from luthier.families.text_family import WIDE
from luthier.objectives.embedding import Embedding, same_text
from luthier.objectives.regression import number_of

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.models.base import Base
    from luthier.models.embedding import EmbeddingModel
    from luthier.models.spec import Model

PAIRS = (("anchor", "positive"), ("query", "passage"), ("query", "positive"))
"""Columns that hold pairs for embeddings and nothing else, as well-known data sets name them: such tables are recognised unasked."""
INSISTED = (
    *PAIRS, ("query", "document"), ("query", "answer"), ("question", "answer"), ("question", "passage"), ("sentence1", "sentence2"), ("question1", "question2"),
    ("premise", "hypothesis"), ("text1", "text2"), ("word1", "word2"),
)  # fmt: skip
"""Further ones, where a person insists."""
NEGATIVES = ("negative", "hard_negative")
SCORES = ("score", "similarity", "cosine", "label", "relatedness")
"""Columns that say how near two texts are, where they hold numbers and a person insists."""
EPOCHS = (
    (2_000, 4, "few pairs: more passes, each with other negatives beside a row"),
    (20_000, 2, "some thousand pairs"),
    (1 << 62, 1, "many pairs: one pass, as sentence-transformers"),
)
"""Below this many training rows, epochs, and why."""
BATCHES = (64, 32, 16)
"""Rows a step: each row's negatives are the others', so more of them teach more."""
STEPS = 40
"""That a run should have."""
LONELY = 5.0
"""Interquartile ranges from the median from which on a score may be a slip: on a whole scale the ends are at most about two away."""
SHOWN_LINES = 5
"""Rows that a message names."""
RATES = {
    ("small encoder", "full"): (1e-4, "small encoders: 2e-5 to 1e-4 (docs/embeddings.md)"),
    ("encoder", "full"): (2e-5, "sentence-transformers' own recipes for encoders of BERT's size"),
    ("small encoder", "lora"): (1e-3, "adapters learn at about ten times the learning rate of full tuning"),
    ("encoder", "lora"): (2e-4, "adapters learn at about ten times the learning rate of full tuning"),
}
"""(what the base is, adaptation) → learning rate and where it comes from; what is not named is as full tuning."""


class EmbeddingFamily(Family):
    """See the module."""

    name = "embedding"
    embeds = True
    kind = RowKind("text", "nothing")
    specificity = 2
    Spec = Embedding
    base = "minilm-l6"
    base_kinds = ("encoder",)
    metrics = ("mrr", "recall_at_1", "recall_at_10", "spearman")
    compares_untouched = True
    structured = ("vector", "other_vector")
    pipeline_tag = "sentence-similarity"
    gives = "vector"
    library = "sentence-transformers"

    # rows

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Two columns of texts that belong together, perhaps one of texts that do not, or a score."""
        insists = asked.task == self.name
        if not insists and (asked.task is not None or asked.target is not None):
            return None
        input = asked.input or _find_pair(rows, asked.target, INSISTED if insists else PAIRS)
        if not insists:
            return Columns(self.name, input, None, _reason(input, None)) if _is_known(input) else None
        if len(input) not in (2, 3):
            raise DataError(
                f"{path}: embeddings learn from two columns of texts (and perhaps a third of texts that do not belong), and {_which(input, rows)}",
                "name them: --input anchor,positive (or --input anchor,positive,negative; or --input sentence1,sentence2 --target score)",
            )
        target = asked.target or (None if _is_known(input) else _find_score(rows, input))
        if target is None and not asked.input and (said := _find_judgement(rows, input)):
            raise DataError(
                f"{path}: the column {said!r} holds no numbers, and without a score all pairs are learned as belonging together",
                f"write it as numbers; or keep the rows that do belong together, and name the texts: --input {','.join(input)}",
            )
        if target is not None and len(input) == 3:
            raise DataError(
                f"{path}: a score says how near two texts are, and three columns were named", "name two with --input, or leave --target out"
            )
        if target is not None and all(math.isnan(number_of(row.get(target))) for row in rows.values):
            raise DataError(
                f"{path}: the column {target!r} holds no numbers",
                "name the column of the scores with --target, or leave it out: then all pairs belong together",
            )
        return Columns(self.name, input, target, _reason(input, target))

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """A text that says nothing, a pair of one text, a negative that is the positive, or no score."""
        texts = [record.values.get(name) for name in columns.input]
        for name, text in zip(columns.input, texts, strict=True):
            if isinstance(text, dict | list):
                return f"{name} holds a {type(text).__name__}, not a text"
            if not same_text(text):
                return f"{name} says nothing"
        if columns.target is not None:
            cell = record.values.get(columns.target)
            return f"{columns.target} is {str(cell)[:40]!r}, which is not a finite number" if math.isnan(number_of(cell)) else ""
        for other in columns.input[1:]:
            if same_text(record.values.get(other)) == same_text(texts[0]):
                return f"{columns.input[0]} and {other} are the same text"
        if len(texts) == 3 and same_text(texts[1]) == same_text(texts[2]):
            return f"{columns.input[1]} and {columns.input[2]} are the same text: what belongs to the anchor cannot also not belong to it"
        return ""

    def row_view(self, record: Record, data: Data) -> RowView:
        """The anchor, and the positive as what is learned; of a scored pair both texts, and the score."""
        texts = [str(record.values.get(name) or "") for name in data.input]
        if data.target is not None:
            return RowView("\n\n".join(texts), str(record.values.get(data.target)))
        return RowView(texts[0], texts[1])

    def clusters(self, records: Sequence[Record], data: Data) -> Sequence[int]:
        """Rows with like anchors stay together, and with the rows whose positive is that anchor; the same positive alone does not tie rows, for a catalogue of answers has few."""
        if data.target is not None:
            return super().clusters(records, data)
        sides = [[str(record.values.get(name) or "") for record in records] for name in data.input[:2]]
        kind = list(clusters([*sides[0], *sides[1]]))
        anchors, positives = kind[: len(records)], kind[len(records) :]
        root = {each: each for each in anchors}

        def top(each: int) -> int:
            while root[each] != each:
                each = root[each]
            return each

        for one, other in zip(anchors, positives, strict=True):
            if other in root:
                root[top(one)] = top(other)
        return [top(each) for each in anchors]

    def identity(self, record: Record, data: Data) -> str:
        """All of its texts."""
        return "\n".join(same_text(record.values.get(name)) for name in data.input)

    def fit(self, parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
        """There are no classes; where all rows have the same text or score, nothing can be told apart."""
        name = columns.target or columns.input[1]
        kinds = {same_text(record.values.get(name)) for record in parts["train"]}
        if len(kinds) == 1:
            raise DataError(
                f"{path}: every row has the same {name} ({kinds.pop()[:40]!r}): there is nothing to tell apart", "give rows with others too"
            )
        return ()

    # starting point

    def role(self, base: Base | None) -> str:
        """A small encoder, or one of BERT's size."""
        return "encoder" if base is not None and base.width >= WIDE else "small encoder"

    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """By the number of rows and the base's size."""
        rows = len(dataset.records["train"])
        epochs, why = row_for(EPOCHS, rows)
        return [
            Choice("adaptation.kind", "full", "a base of this size is tuned whole"),
            Choice("optimizer.lr", *self.learning_rate(base, "full")),
            Choice("training.epochs", epochs, why),
            self.batch_size(dataset, epochs),
            *text_defaults.schedule(),
            *text_defaults.regularisation(dropout=0.1, decay=0.01),
            Choice("training.dtype", "float32", "vectors are kept and compared elsewhere: bfloat16 would move them by hundredths"),
            *self.metric(dataset, metric),
        ]

    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """By the base's size and how it is adapted."""
        role = self.role(base)
        return RATES.get((role, adaptation), RATES[role, "full"])

    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """The most rows a step that leave a run as many steps as it should have."""
        return text_defaults.largest_batch(BATCHES, len(dataset.records["train"]) * epochs, STEPS)

    def metric(self, dataset: Dataset, asked: str) -> list[Choice]:
        """Of pairs the mean reciprocal rank, of scores the rank correlation."""
        scored = dataset.spec.target is not None
        if asked in self.metrics and (asked == "spearman") != scored:
            raise ExperimentError(
                f"the metric {asked} needs {'pairs that belong together' if scored else 'scores'}, and these rows have {'scores' if scored else 'none'}",
                f"take {'spearman' if scored else 'mrr, recall_at_1 or recall_at_10'}, or leave --metric out",
            )
        name = ("spearman" if scored else "mrr") if asked == AUTO else asked
        why = (
            "the order of the cosines is what counts, not their size"
            if scored
            else "how near the first place the right text is, among all held-out ones"
        )
        return [Choice("training.metric", name, why)]

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> EmbeddingModel:
        """The base without a head."""
        from luthier.models.embedding import load_embedding

        assert base is not None
        return load_embedding(base, spec.pooling, spec.max_length, model.dropout, seed)

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """What scores mean a cosine of 0 and of 1: they themselves where they lie between -1 and 1, else the lowest and the highest training score."""
        target = dataset.spec.target
        if target is None:
            return spec
        numbers = [(number_of(record.values.get(target)), record) for record in dataset.records["train"]]
        lowest, highest = (extreme(number for number, _ in numbers) for extreme in (min, max))
        own = lowest >= -1 and highest <= 1
        if spec.low is None or spec.high is None:
            refuse_lonely_scores(numbers)
        low = spec.low if spec.low is not None else 0.0 if own else lowest
        high = spec.high if spec.high is not None else 1.0 if own else highest
        if high <= low:
            raise ExperimentError(
                f"objective.low is {low:g} and objective.high {high:g}: the scale has no length", "set low below high, or leave both out"
            )
        outside = next(
            ((number, record) for number, record in numbers if not (own and spec.low is None) and not low <= number <= high), None
        )
        if outside is not None:
            number, record = outside
            raise DataError(
                f"{record.source}, line {record.row}: the score {number:g} lies outside the scale from {low:g} to {high:g}",
                "mend the row, or set objective.low and objective.high",
            )
        return spec.model_copy(update={"low": low, "high": high})

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """What is read is what is served; vectors and loss are those of their definitions, and no text is its own negative."""
        return token_proofs.READ, embedding_proofs.ASK

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The cosine of TF-IDF vectors."""
        return [cosine_of_words(train, validation, context.objective)]

    def target_text(self, example: Example) -> str:
        """The text that belongs to the row, or the cosine that its score asks for."""
        if example.target is not None:
            return f"{example.target:.3f}"
        return str(list(example.record.values.values())[1] if len(example.record.values) > 1 else "")

    def predicted_text(self, scores: Scores, position: int) -> str:
        """The cosine; of a pair also the place of the right text and the nearest wrong one."""
        cosine, rank = scores.more["predicted"][position], scores.more["rank"][position]
        if math.isnan(rank):
            return f"{cosine:.3f}"
        return f"place {rank:g} (cosine {cosine:.2f}); nearest other: {scores.more['wrong'][position]} ({scores.more['wrong_cosine'][position]:.2f})"

    def details(self, scores: Scores, spec: Any) -> dict[str, Any]:
        """The wrong texts that are nearer than the right one, the farthest first; and at which place the right ones are."""
        return describe_neighbours(scores)

    # use

    def write_files(self, folder: Path, model: Any, processor: Any) -> list[str]:
        """What sentence-transformers reads."""
        from luthier.models.embedding import write_sentence_transformers

        return write_sentence_transformers(folder, model)

    def optional_columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        """All but the first: a text alone gets its vector."""
        return tuple(columns[1:])

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """The vector of a row's first text; where there is a second one, its vector too, and their cosine."""
        names = objective.input[:2]
        texts = [(row, str(record.values.get(name) or "")) for row, record in enumerate(records) for name in names]
        texts = [(row, text) for row, text in texts if text.strip()]
        if not texts:
            return []
        vectors = model.embed_tokens([tokens for tokens, _ in objective.encode([text for _, text in texts])])
        by_row: list[list[Any]] = [[] for _ in records]
        for (row, _), vector in zip(texts, vectors, strict=True):
            by_row[row].append(vector)
        predictions = []
        for of_row in by_row:
            more = {"similarity": float(of_row[0] @ of_row[1]), "other_vector": of_row[1].tolist()} if len(of_row) == 2 else {}
            predictions.append({"vector": of_row[0].tolist(), **more})
        return predictions

    def texts_read(self, record: Record, objective: Any) -> list[list[str]]:
        """Each text of a row by itself."""
        return [[str(record.values.get(name) or "")] for name in objective.input]

    def usage(self, bundle: str) -> str:
        """A file of texts whose vectors are wanted; and what such a model is for."""
        return f"luthier predict {bundle} texts.csv --out vectors.parquet   or, as a base: luthier run labelled.csv --base {bundle}"

    def without_luthier(self) -> str:
        """Sentence-transformers itself."""
        return 'from sentence_transformers import SentenceTransformer; SentenceTransformer("PATH").encode("your text")'


def refuse_lonely_scores(numbers: Sequence[tuple[float, Record]]) -> None:
    """Refuse scores so far from all others that they would decide the scale alone: a 99 for "not known" on a scale from 0 to 5.

    Args:
        numbers: the training scores with their rows.

    Raises:
        DataError: some are far from the median, and the gap before them is wider than all other scores together reach.
    """
    scores = [number for number, _ in numbers]
    far = find_far(scores, scores, LONELY)
    others = [score for place, score in enumerate(scores) if place not in {*far}]
    lowest, highest, lonely = min(others), max(others), list[int]()
    for place in reversed(far):  # the nearest first: a long tail is a scale too
        if max(lowest - scores[place], scores[place] - highest) > highest - lowest:
            lonely.append(place)
        else:
            lowest, highest = min(lowest, scores[place]), max(highest, scores[place])
    lonely.sort()
    if not lonely:
        return
    named = ", ".join(f"line {numbers[place][1].row} ({scores[place]:g})" for place in lonely[:SHOWN_LINES])
    more = f" and {len(lonely) - SHOWN_LINES:,} more" if len(lonely) > SHOWN_LINES else ""
    raise DataError(
        f"{numbers[lonely[0]][1].source}, {named}{more}: far from all other scores, which lie between {lowest:g} and {highest:g}, and the lowest and the highest decide what a cosine of 0 and of 1 means",
        f"correct these rows or take them out; if the scale does reach so far, set objective.low={min(scores):g} and objective.high={max(scores):g}",
    )


def _is_known(input: tuple[str, ...]) -> bool:
    """Whether columns hold pairs for embeddings and nothing else."""
    return tuple(name.lower() for name in input[:2]) in PAIRS


def _find_pair(rows: Rows, target: str | None, known: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """The columns of a well-known pair, and of the negatives where there are some."""
    there = {name.lower(): name for name in rows.columns if name != target}
    for pair in known:
        if set(pair) <= set(there):
            return (*(there[name] for name in pair), *[there[name] for name in NEGATIVES if name in there][:1])
    return ()


def _find_score(rows: Rows, input: tuple[str, ...]) -> str | None:
    """The column that says how near two texts are, where one of a known name holds numbers."""
    there = {name.lower(): name for name in rows.columns if name not in input}
    names = [there[name] for name in SCORES if name in there]
    return next((name for name in names if len(input) == 2 and any(not math.isnan(number_of(row.get(name))) for row in rows.values)), None)


def _find_judgement(rows: Rows, input: tuple[str, ...]) -> str | None:
    """A column called like a score that says different things of two texts, and none of them as a number."""
    names = [name for name in rows.columns if name.lower() in SCORES and name not in input and len(input) == 2]
    return next((name for name in names if len({str(row.get(name) or "").strip() for row in rows.values} - {""}) > 1), None)


def _which(input: tuple[str, ...], rows: Rows) -> str:
    if input:
        return f"{len(input)} {'was' if len(input) == 1 else 'were'} named ({', '.join(input)})"
    return f"none of the columns {', '.join(rows.columns)} are known to hold some"


def _reason(input: tuple[str, ...], target: str | None) -> str:
    """Why these columns, for a person."""
    if target is not None:
        return f"{target!r} says how near {input[0]!r} and {input[1]!r} are"
    more = f", and {input[2]!r} does not" if len(input) == 3 else ""
    return f"{input[1]!r} belongs to {input[0]!r}{more}: vectors of texts are learned"


FAMILY = EmbeddingFamily()
