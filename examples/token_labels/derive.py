"""Make questions.jsonl: which words of a question to a table are what, told by the query that answers it (WikiSQL, as mlx-examples has it)."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

ROW = re.compile(r"table: (?P<table>[^\n]*)\ncolumns: (?P<columns>[^\n]*)\nQ: (?P<question>[^\n]*)\nA: (?P<query>.*)", re.DOTALL)
QUERY = re.compile(r"SELECT (?:(?:MAX|MIN|COUNT|SUM|AVG) )?(?P<asked>.*?) FROM (?:\S+)(?: WHERE (?P<where>.*))?")
CONDITION = re.compile(r"(?P<column>.+?) [=<>] (?P<value>.+)")


def fetch_wanted(query: str) -> list[tuple[str, str]]:
    """What the query names, as (kind, words): values first, then the columns of conditions, then the column that is asked for."""
    found = QUERY.fullmatch(query.strip())
    if found is None:
        return []
    conditions = [CONDITION.fullmatch(part) for part in (found["where"] or "").split(" AND ") if part]
    told = [part for part in conditions if part]
    return [
        *(("value", part["value"].strip("'")) for part in told),
        *(("condition", part["column"]) for part in told),
        ("asked", found["asked"]),
    ]


def spans(question: str, query: str) -> list[dict[str, object]]:
    """Where the question says in whole words what the query names, whatever their case; each once, none inside another."""
    found: list[tuple[int, int, str]] = []
    for kind, words in fetch_wanted(query):
        place = re.search(rf"(?<!\w){re.escape(words)}(?!\w)", question, re.IGNORECASE) if words.strip() else None
        if place and all(place.end() <= start or place.start() >= end for start, end, _ in found):
            found.append((place.start(), place.end(), kind))
    return [{"start": start, "end": end, "label": kind} for start, end, kind in sorted(found)]


def main(folder: Path, out: Path) -> None:
    """Write one row for each different question.

    Args:
        folder: with train.jsonl, valid.jsonl and test.jsonl of mlx-examples, lora/data.
        out: questions.jsonl.
    """
    rows: dict[str, str] = {}
    for name in ("train", "valid", "test"):
        for line in (folder / f"{name}.jsonl").read_text().splitlines():
            found = ROW.fullmatch(json.loads(line)["text"])
            if found:
                question = found["question"].strip()
                row = {"text": question, "spans": spans(question, found["query"]), "table": found["table"]}
                rows.setdefault(question, json.dumps(row, ensure_ascii=False))
    out.write_text("\n".join(rows.values()) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).with_name("questions.jsonl"))
