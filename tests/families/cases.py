"""One row a family: its tiny data, its tiny base, and what is asked of its bundle. A family of the table without a row here fails the contract suite."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.randomness import mix
from tests.conftest import BAD, GOOD, make_base, make_image_base, rows
from tests.families.test_image_classification import write as write_shapes

QUICK = ("training.steps=16", "optimizer.lr=0.003", "training.checkpoint_seconds=0")


@dataclass(frozen=True)
class Case:
    """How a family is tried.

    Args:
        write: a folder → the rows, as a file or folder in it.
        base: the architecture of a tiny base, "images" for one that reads them, or "scratch".
        options: of `luthier.run`.
        changes: to the experiment.
        ask: what `luthier.predict` is given.
        layers: of the base.
    """

    write: Callable[[Path], Path]
    base: str
    ask: Sequence[Any]
    options: dict[str, Any] = field(default_factory=dict)
    changes: tuple[str, ...] = ()
    layers: int = 2


def write_lines(folder: Path, table: Sequence[dict[str, Any]]) -> Path:
    """Rows as a file."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in table))
    return file


def texts() -> list[dict[str, Any]]:
    """Rows with a class that a word tells, no two alike."""
    return [{**row, "text": f"{row['text']} {number}"} for number, row in enumerate(rows(240))]


PLACES = ("river", "stone", "garden", "window", "market", "doctor", "engine", "violin", "pepper", "castle", "ladder")
TOPICS = {"food": ("pizza", "soup", "bread"), "music": ("piano", "drum", "choir")}


def numbers() -> list[dict[str, Any]]:
    """Rows with a number that lies about 1 or about 5, as a word tells."""
    made = []
    for number, row in enumerate(texts()):
        word = row["text"].split(" was ")[1].split()[0]
        text = f"{PLACES[number % 11]} {number} {word} {word} {word}"
        made.append({"text": text, "stars": (5 if row["label"] == "yes" else 1) + number % 7 / 10})
    return made


def several_labels() -> list[dict[str, Any]]:
    """Rows with none, one or two labels, which their words tell."""
    made = []
    for number in range(240):
        topics = [topic for place, topic in enumerate(TOPICS) if number >> place & 1]
        words = [TOPICS[topic][number // 4 % 3] for topic in topics] * 2
        made.append({"text": " ".join([PLACES[number % 11], PLACES[number * 3 // 11 % 11], str(number), *words]), "topics": topics})
    return made


def labelled_spans() -> list[dict[str, Any]]:
    """Rows in which places and dishes are labelled, some of two words."""
    made = []
    for number in range(240):
        place = PLACES[number % 11] + (" street" if number % 3 == 0 else "")
        dish = (*TOPICS["food"], "")[number // 11 % 4]
        text = f"in the {place} we had {dish} {number}"
        spans = [{"start": 7, "end": 7 + len(place), "label": "place"}]
        if dish:
            spans.append({"start": text.index(dish), "end": text.index(dish) + len(dish), "label": "food"})
        made.append({"text": text, "spans": spans})
    return made


def write_numbers(folder: Path, count: int = 120) -> Path:
    """Images of discs and crosses, and a table with how wide each was drawn: a number that the image tells."""
    write_shapes(folder, count=count)
    files = sorted((folder / "shapes").rglob("*.png"), key=lambda file: file.name)
    rows = [f"{file.relative_to(folder / 'shapes')},{(8 if number % 2 else 2) + number * 7 % 11 / 10}" for number, file in enumerate(files)]
    (folder / "shapes" / "widths.csv").write_text("image,width_drawn\n" + "\n".join(rows) + "\n")
    return folder / "shapes" / "widths.csv"


def word_salad() -> list[dict[str, Any]]:
    """Rows of words that stand beside each other at random, the first ones more often."""
    drawn = mix("salad", np.arange(240 * 20)).reshape(240, 20) % np.uint64(1 << 20)
    return [{"text": " ".join(f"word{int(64 * (value / (1 << 20)) ** 2)}" for value in row)} for row in drawn.astype(float)]


def pairs() -> list[dict[str, Any]]:
    """A prompt with a kind and an unkind answer, of which the kind one is better."""
    made = []
    for number in range(120):
        better, worse = (f"it was {words[number % 5]}" + " indeed" * (number // step % 3) for words, step in ((GOOD, 1), (BAD, 3)))
        made.append({"prompt": f"what about the {PLACES[number % 11]} {number}?", "chosen": better, "rejected": worse})
    return made


def judge() -> list[dict[str, Any]]:
    """A prompt with one answer, kind or unkind, and whether it was good."""
    made = []
    for number, row in enumerate(pairs()):
        good = number * 7 % 5 < 3
        made.append({"prompt": row["prompt"], "completion": row["chosen" if good else "rejected"], "label": good})
    return made


WORDS: dict[str, str] = dict(
    zip(
        "a the dog cat house bird fish sees finds likes red big small".split(),
        "ein der hund katze haus vogel fisch sieht findet mag rot gross klein".split(),
        strict=True,
    )
)


def sentence_pairs() -> list[dict[str, Any]]:
    """Sentences of a small language and the same, word for word, in another one; no two alike."""
    articles, nouns, verbs, adjectives = (list(WORDS)[start:stop] for start, stop in ((0, 2), (2, 7), (7, 10), (10, 13)))
    made = []
    for number in range(240):
        picked = (
            articles[number % 2],
            adjectives[number // 2 % 3],
            nouns[number // 6 % 5],
            verbs[number // 30 % 3],
            nouns[number * 7 // 11 % 5],
        )
        words = [*picked, str(number)][: 4 + number % 3]
        made.append({"en": " ".join(words) + f" {number}", "de": " ".join(WORDS.get(word, word) for word in words) + f" {number}"})
    return made


def questions() -> list[dict[str, Any]]:
    """A question and the one of few that it is another way of asking."""
    made = []
    for number in range(240):
        place, topic = PLACES[number % 11], list(TOPICS)[number // 11 % 2]
        words = [TOPICS[topic][number % 3], GOOD[number % len(GOOD)], str(number * 7919 % 1000)]
        made.append({"anchor": f"{words[0]} {words[2]} {words[1]} {place} {words[2]}", "positive": f"the {place} and its {topic}"})
    return made


CASES: dict[str, Case] = {
    "classification": Case(lambda folder: write_lines(folder, texts()), "bert", ["the phone was great", "an awful meal"]),
    "chat": Case(
        lambda folder: write_lines(
            folder, [{"prompt": f"what about {number}?", "completion": row["text"]} for number, row in enumerate(rows(90))]
        ),
        "llama",
        ["what about 3?"],
    ),
    "causal_lm": Case(
        lambda folder: write_lines(folder, [{"text": f"{row['text']}, and so was the {row['text'].split()[1]} before"} for row in texts()]),
        "scratch",
        ["the phone number"],
        {"task": "causal_lm"},
        ("objective.vocabulary=300", "objective.depth=2", "objective.width=32", "objective.heads=2", "objective.context=16"),
    ),
    "image_classification": Case(
        lambda folder: write_shapes(folder, count=90),
        "scratch",
        [str(Path(__file__).parents[2] / "docs" / "images" / "report.png")],
        changes=("objective.side=16", "objective.width=8"),
    ),
    "image_regression": Case(
        lambda folder: write_numbers(folder, count=90),
        "scratch",
        [str(Path(__file__).parents[2] / "docs" / "images" / "report.png")],
        changes=("objective.side=16", "objective.width=8"),
    ),
    "autoencoder": Case(
        lambda folder: write_shapes(folder, count=120),
        "scratch",
        [str(Path(__file__).parents[2] / "docs" / "images" / "report.png")],
        {"task": "autoencoder"},
        ("data.normal=disc", "objective.side=16", "objective.width=8", "objective.code=4"),
    ),
    "feature_autoencoder": Case(
        lambda folder: write_shapes(folder, count=120),
        "images",
        [str(Path(__file__).parents[2] / "docs" / "images" / "report.png")],
        {"task": "feature_autoencoder"},
        ("data.normal=disc", "objective.side=32", "objective.code=4", "objective.hidden=16"),
    ),
    "masked_lm": Case(
        lambda folder: write_lines(folder, [{"text": row["text"]} for row in texts()]),
        "scratch",
        ["the phone was [MASK]"],
        {"task": "masked_lm"},
        ("objective.vocabulary=400", "objective.depth=2", "objective.width=32"),
    ),
    "word2vec": Case(
        lambda folder: write_lines(folder, [{"text": row["text"]} for row in texts()]),
        "scratch",
        ["phone", "phone - great + awful"],
        {"task": "word2vec"},
        ("objective.width=8", "objective.least_count=1", "training.batch_size=32"),
    ),
    "glove": Case(
        lambda folder: write_lines(folder, word_salad()),
        "scratch",
        ["word3"],
        {"task": "glove"},
        ("objective.width=8", "objective.least_count=1", "training.batch_size=1"),
    ),
    "preference": Case(lambda folder: write_lines(folder, pairs()), "llama", ["what about the river 3?"]),
    "unpaired_preference": Case(lambda folder: write_lines(folder, judge()), "llama", ["what about the river 3?"]),
    "regression": Case(lambda folder: write_lines(folder, numbers()), "bert", ["the phone was great", "an awful meal"]),
    "embedding": Case(lambda folder: write_lines(folder, questions()), "bert", ["pizza at the river", "a drum"]),
    "token_labels": Case(lambda folder: write_lines(folder, labelled_spans()), "bert", ["the river saw pizza", "nothing here"]),
    "translation": Case(
        lambda folder: write_lines(folder, sentence_pairs()),
        "scratch",
        ["the dog sees a cat", "a big house"],
        {"task": "translation"},
        ("objective.vocabulary=400", "objective.layers=1", "objective.width=32", "objective.beams=2"),
    ),
    "text_autoencoder": Case(
        lambda folder: write_lines(folder, [{"text": text["text"], "kind": text["label"]} for text in texts()]),
        "bert",
        ["the phone was great", "an awful meal"],
        {"task": "text_autoencoder", "target": "kind"},
        ("data.normal=yes", "objective.code=4", "objective.hidden=16"),
    ),
    "multi_label": Case(lambda folder: write_lines(folder, several_labels()), "bert", ["pizza and a choir", "a window"]),
}


def base_of(case: Case, folder: Path) -> str:
    """The name of a case's base, made where it has to be."""
    if case.base == "scratch":
        return "scratch"
    place = folder / f"{case.base}-{case.layers}"
    if not (place / "config.json").exists():
        make_image_base(place) if case.base == "images" else make_base(place, case.base, layers=case.layers)
    return str(place)
