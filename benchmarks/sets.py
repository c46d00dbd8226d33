"""The classified texts that several scripts measure on."""

from __future__ import annotations

import csv
from pathlib import Path

from luthier.core.randomness import permutation
from luthier.data.read_rows import read

SENTENCES = {
    "subj": "subj.all",
    "trec": "TREC.train.all",
    "polarity": "rt-polarity.all",
    "customers": "custrev.all",
    "stars": "stsa.fine.train",
}
"""Files of the folder `sentence_sets`: a label, a space and a text in each line."""


def pairs(data: Path, name: str) -> list[tuple[str, str]]:
    """Text and label."""
    if name in SENTENCES:
        lines = [line for line in (data / "sentence_sets" / SENTENCES[name]).read_bytes().decode("latin-1").split("\n") if " " in line]
        return [(text.strip(), label) for label, text in (line.split(" ", 1) for line in lines)]
    if name == "sst2":
        rows = read(data / "sst2" / "train.tsv", header=False).values
        return [(row["column_1"], row["column_2"]) for row in rows]
    if name == "agnews":
        rows = read(data / "ag_news_test" / "test.csv", header=False).values
        return [(f"{row['column_2']} {row['column_3']}", row["column_1"]) for row in rows]
    if name == "reviews":
        lines = [
            line
            for file in sorted((data / "uci_sentiment_sentences").glob("*.txt"))
            for line in file.read_text().split("\n")
            if "\t" in line
        ]
        return [tuple(line.rsplit("\t", 1)) for line in lines]  # type: ignore[misc]
    if name == "hate":
        with (data / "davidson_hate" / "data" / "labeled_data.csv").open(newline="") as handle:
            return [(row["tweet"], row["class"]) for row in csv.DictReader(handle)]
    if name == "spam":
        rows = read(data / "sms_spam" / "sms.tsv", header=False).values
        return [(row["column_2"], row["column_1"]) for row in rows]
    if name == "counterfactual":
        rows = read(data / "amazon_counterfactual" / "data" / "EN_train.tsv").values
        return [(row["sentence"], row["is_counterfactual"]) for row in rows]
    rows = read(data / "banking77" / "train.csv").values
    kept = sorted({row["category"] for row in rows})[:20]
    return [(row["text"], row["category"]) for row in rows if row["category"] in kept]


def files(data: Path, out: Path, name: str, rows: int, tested: int = 1500) -> tuple[Path, Path]:
    """A subset to train on, and other rows to test on, as files of the folder `out`."""
    every = pairs(data, name)
    chosen = [every[place] for place in permutation(len(every), 0, name)]
    found = []
    for part, taken in (("train", chosen[:rows]), ("test", chosen[rows : rows + tested])):
        path = out / f"{name}-{rows}-{part}.csv"
        with path.open("w", newline="") as handle:
            csv.writer(handle).writerows([("text", "label"), *taken])
        found.append(path)
    return found[0], found[1]
