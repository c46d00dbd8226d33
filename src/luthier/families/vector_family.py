"""What families of word vectors share: they read texts, keep a table of words, and are asked for the words nearest to a word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import DataError, ExperimentError, nearest
from luthier.core.types import Example, Record
from luthier.evaluation import words as known_words
from luthier.families.corpus_family import CorpusFamily

if TYPE_CHECKING:
    from luthier.data.dataset import Dataset
    from luthier.models.base import Base
    from luthier.models.spec import Model
    from luthier.models.word_vectors import WordVectors

CHARACTERS_A_WORD = 5.7
"""Of English, the space included: how many words there are is estimated before they are counted."""
NEAREST = 10
"""Words that a prediction names."""
SHOWN_WORDS, SHOWN_NEAREST = 12, 6
SKIPPED = 100
"""The most frequent words, which stand beside all others, are not shown in the report."""
MAPPED, CLUSTERS = 150, 8
SIGNS = re.compile(r"(?<!\S)[+-](?!\S)")
"""A plus or minus that stands alone."""


class VectorFamily(CorpusFamily):
    """The parts of a family of word vectors that do not depend on how they are learned."""

    base = None
    base_kinds = ("vectors",)
    from_scratch = True
    metrics = ("loss",)
    compares_untouched = True
    pipeline_tag = "feature-extraction"
    gives = "words"
    library = "gensim"
    biases = False
    """Whether each word has a number beside its vector."""

    # starting point

    def why_not(self, base: Base | None, adaptation: str) -> str:
        """There are no blocks to freeze or to put adapters into."""
        if adaptation == "full":
            return ""
        return f"a table of word vectors has no blocks that {'adapters could go into' if adaptation == 'lora' else 'could be frozen'}"

    # model and loss

    def load(self, spec: Any, model: Model, base: Base | None, seed: int) -> WordVectors:
        """The vectors of a bundle, or new ones that know nothing."""
        from luthier.models.word_vectors import load_tables, make_tables

        return load_tables(base, self.biases) if base is not None else make_tables(spec.words, spec.width, self.biases, seed)

    def fit_spec(self, spec: Any, dataset: Dataset) -> Any:
        """How many words have a vector.

        Raises:
            ExperimentError: a vocabulary is asked for that is larger than the rows hold, or a file to judge the vectors by cannot be read.
            DataError: too few words are frequent enough.
        """
        return spec.model_copy(update={"words": len(self.load_processor(None, spec, dataset))})

    def load_processor(self, base: Base | None, spec: Any, dataset: Dataset | None = None) -> Any:
        """The bundle's vocabulary, or the words of the training rows that are frequent enough.

        Raises:
            ExperimentError: a vocabulary is asked for that is larger than the rows hold, or a file to judge the vectors by cannot be read.
            DataError: too few words are frequent enough.
        """
        from luthier.models.word_vectors import load_vocabulary, make_vocabulary

        if dataset is not None:
            _check_files(spec)
        if base is not None:
            return _with_first_row(load_vocabulary(base.folder), dataset)
        assert dataset is not None
        counts = _word_counts(dataset, spec.lowercase)
        made = make_vocabulary(counts, spec.least_count, spec.vocabulary, spec.lowercase)
        if len(made) < FEWEST_WORDS:
            raise DataError(
                f"{dataset.spec.path}: {len(made):,} of {len(counts):,} different words of the training rows are there {spec.least_count} times or more: too few for vectors",
                "give more text, or lower objective.least_count",
            )
        if spec.vocabulary > len(made):
            raise ExperimentError(
                f"objective.vocabulary is {spec.vocabulary:,}, and the training rows hold {len(made):,} words that are there {spec.least_count} times or more",
                "set objective.vocabulary=0 to take all of these, or lower objective.least_count",
            )
        return _with_first_row(made, dataset)

    # judging

    def target_text(self, example: Example) -> str:
        """Which part of the row a piece is."""
        return f"{len(example.tokens):,} words with vectors, from word {example.facts.get('at', 0) + 1:,} on"

    def describe_model(self, model: Any, objective: Any) -> dict[str, Any]:
        """What the vectors know: words near each other, a map, analogies, similarities."""
        vocabulary, spec = objective.tokenizer, objective.spec
        words = known_words.Words.of(vocabulary.words, model.vectors().cpu().numpy())
        tables = [_nearest_table(words), _analogy_table(words, spec, vocabulary.lowercase)]
        if spec.similarities:
            rank, count = known_words.compare_similarities(
                words, known_words.read_similarities(Path(spec.similarities)), vocabulary.lowercase
            )
            head = ("pairs with vectors", "rank correlation with people's judgements")
            tables.append({"title": f"Similarity: {Path(spec.similarities).name}", "head": head, "rows": [(count, f"{rank:.3f}")]})
        clusters = known_words.draw_map(words, SKIPPED, MAPPED, CLUSTERS)
        about = "The first two principal components; a cluster is named for the words nearest to its middle."
        figure = {"kind": "map", "title": "Words on a map", "about": about, "clusters": clusters}
        return {"tables": [table for table in tables if table], "figures": [figure] if clusters else []}

    # use

    def write_files(self, folder: Path, model: Any, processor: Any) -> list[str]:
        """The vectors as word2vec's own two formats."""
        from luthier.models.word_vectors import write_word2vec

        return write_word2vec(folder, processor.words, model.vectors().cpu().numpy())

    def predict(self, model: Any, objective: Any, records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        """The words nearest to the words of each row; words behind a minus that stands alone are taken away. A row without a known word gets no words, and a note; so does one of which some words are not known.

        Raises:
            DataError: no row has a word with a vector.
        """
        vocabulary = objective.tokenizer
        words = known_words.Words.of(vocabulary.words, model.vectors().cpu().numpy())
        predictions = []
        for record in records:
            signs = _signed_words(record.text(objective.input), vocabulary)
            indices = [vocabulary.numbers.get(word) for word, _ in signs]
            unknown = [word for (word, _), index in zip(signs, indices, strict=True) if index is None]
            if not signs or len(unknown) == len(signs):
                predictions.append({"text": "", "words": [], "unknown": unknown, "note": _no_vector(unknown)})
                continue
            vector = np.zeros(words.vectors.shape[1])
            for (_, sign), index in zip(signs, indices, strict=True):
                if index is not None:
                    vector += sign * words.vectors[index]
            near = words.nearest(vector, NEAREST, [index for index in indices if index is not None])
            prediction = {"text": ", ".join(word for word, _ in near), "words": [{"word": word, "cosine": cosine} for word, cosine in near]}
            left = {
                "unknown": unknown,
                "note": f"without {', '.join(unknown[:5])}, which {'has' if len(unknown) == 1 else 'have'} no vector",
            }
            predictions.append(prediction | (left if unknown else {}))
        if predictions and not any(row["words"] for row in predictions):
            raise DataError(_unknown(records[0], predictions[0]["unknown"], vocabulary), "ask for words of the training rows")
        return predictions

    def example_row(self, objective: Any) -> dict[str, Any]:
        """Its most frequent word."""
        return dict.fromkeys(objective.input, objective.tokenizer.words[0])

    def usage(self, bundle: str) -> str:
        """A word whose neighbours are wanted."""
        return f'luthier predict {bundle} "king"   or a sum: luthier predict {bundle} "king - man + woman"'

    def without_luthier(self) -> str:
        """Gensim's reader."""
        return 'from gensim.models import KeyedVectors; KeyedVectors.load_word2vec_format("PATH/vectors.bin", binary=True)'


FEWEST_WORDS = 8
"""That a vocabulary has, at least."""
_last: dict[str, Any] = {}


def _word_counts(dataset: Dataset, lowercase: bool) -> Any:
    """How often each word stands in the training rows; asked for several times of the same rows, counted once."""
    from luthier.models.word_vectors import count_words

    key = dataset.spec.model_dump_json(exclude={"path"}) + str((lowercase, len(dataset.records["train"])))
    if _last.get("key") != key:
        _last.update(key=key, counts=count_words((record.text(dataset.spec.input) for record in dataset.records["train"]), lowercase))
    return _last["counts"]


def _with_first_row(vocabulary: Any, dataset: Dataset | None) -> Any:
    """The vocabulary, with the place of the first training row."""
    if dataset is not None and dataset.records["train"]:
        first = dataset.records["train"][0]
        vocabulary.trained_on = first.source, first.row
    return vocabulary


def _check_files(spec: Any) -> None:
    """Refuse files to judge the vectors by that cannot be read, before anything is trained.

    Raises:
        ExperimentError: there is no such file, or a line is something else.
    """
    for name, read in (("analogies", known_words.read_questions), ("similarities", known_words.read_similarities)):
        file = getattr(spec, name)
        try:
            content = read(Path(file)) if file else True
        except DataError as problem:
            raise ExperimentError(f"objective.{name}: {problem.message}", problem.remedy) from None
        if not content:
            raise ExperimentError(f"objective.{name}: {file} holds no line that asks anything", "give another file, or leave it out")


def estimate_words(dataset: Dataset) -> tuple[float, float]:
    """About how many words the training rows have together, and in the mean."""
    rows = dataset.records["train"]
    characters = sum(len(record.text(dataset.spec.input)) for record in rows)
    return characters / CHARACTERS_A_WORD, characters / CHARACTERS_A_WORD / max(len(rows), 1)


def _signed_words(text: str, vocabulary: Any) -> list[tuple[str, int]]:
    """The words of a text, each with 1, or with -1 where it stands behind a minus."""
    signs: list[tuple[str, int]] = []
    sign, start = 1, 0
    for mark in [*SIGNS.finditer(text), None]:
        stop = mark.start() if mark else len(text)
        signs += [(word, sign) for word in vocabulary.split(text[start:stop])]
        if mark:
            sign, start = -1 if mark.group() == "-" else 1, mark.end()
    return signs


def _no_vector(unknown: Sequence[str]) -> str:
    """Why a row among others gets no answer."""
    return f"none of its words ({', '.join(unknown[:5])}) has a vector" if unknown else "it holds no word"


def _unknown(record: Record, unknown: Sequence[str], vocabulary: Any) -> str:
    if not unknown:
        return f"row {record.row} holds no word"
    return f"row {record.row}: none of its words ({', '.join(unknown[:5])}) is among the {len(vocabulary):,} that have a vector; {nearest(unknown[0], vocabulary.words[:5_000])}"


def _nearest_table(words: known_words.Words) -> dict[str, Any]:
    """Some frequent words, each with those nearest to it."""
    skip = SKIPPED if len(words.words) >= 4 * SKIPPED else 0
    step = max(1, (min(len(words.words), 10 * SKIPPED) - skip) // SHOWN_WORDS)
    indices = range(skip, min(len(words.words), skip + step * SHOWN_WORDS), step)
    rows = []
    for index in indices:
        near = words.nearest(words.vectors[index], SHOWN_NEAREST, [index])
        rows.append((words.words[index], ", ".join(f"{word} {cosine:.2f}" for word, cosine in near)))
    return {"title": "Words near each other (cosine)", "head": ("word", "nearest"), "rows": rows}


def _analogy_table(words: known_words.Words, spec: Any, lowercase: bool) -> dict[str, Any] | None:
    """How many analogies are answered rightly: those of the person's file, or a small set of our own."""
    questions = known_words.read_questions(Path(spec.analogies)) if spec.analogies else known_words.own_questions()
    results = known_words.answer_analogies(words, questions, lowercase)
    if not spec.analogies and sum(covered for _, _, covered, _ in results) < known_words.FEWEST:
        return None
    results.append(("all", *(sum(each[column] for each in results) for column in (1, 2, 3))))  # type: ignore[arg-type]
    rows = [(name, covered, count, f"{100 * right / covered:.1f} %" if covered else "") for name, count, covered, right in results]
    title = f"Analogies: {Path(spec.analogies).name}" if spec.analogies else "Analogies: a small set of our own"
    return {"title": title, "head": ("section", "questions with vectors", "of", "right"), "rows": rows}
