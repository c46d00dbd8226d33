"""From a data specification to clean records, split three ways."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError
from luthier.core.finding import Finding
from luthier.core.run import file_hash
from luthier.core.types import Record
from luthier.data.chat import conversation
from luthier.data.infer import Shape, infer
from luthier.data.rows import Rejected, Rows, read
from luthier.data.spec import Data
from luthier.data.split import PARTS, split

FEWEST_ROWS = 30
FEWEST_OF_A_CLASS = 3
ENGLISH = frozenset(
    [
        "the",
        "and",
        "of",
        "to",
        "is",
        "that",
        "it",
        "was",
        "for",
        "with",
        "this",
        "you",
        "i",
        "my",
        "not",
        "be",
        "are",
        "have",
        "on",
        "but",
        "they",
        "at",
        "from",
        "we",
        "or",
        "an",
        "as",
        "your",
        "can",
        "what",
        "how",
    ]
)
LEAST_ENGLISH = 0.08
"""Running English text has 25 to 40 % of these words; Italian, German, Spanish and French have under 5 %."""


@dataclass(frozen=True)
class Intake:
    """The rows of a run.

    Args:
        spec: with task, columns and fingerprints filled in.
        reason: why this task and these columns.
        records: part → rows.
        labels: the classes, sorted; empty for chat.
        rejected: what was set aside.
        findings: what a person should know about the rows.
    """

    spec: Data
    reason: str
    records: dict[str, list[Record]]
    labels: tuple[str, ...]
    rejected: list[Rejected]
    findings: list[Finding] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Rows that are used."""
        return sum(len(rows) for rows in self.records.values())


def take_in(spec: Data) -> Intake:
    """Read, check and split.

    Args:
        spec: at least the path; a folder with train, validation (or dev) and test files is three files.

    Raises:
        DataError: the files cannot be read, or too little is left of them.
    """
    spec = _three_files(spec)
    files = {
        name: str(Path(path).absolute())
        for name, path in (("train", spec.path), ("validation", spec.validation), ("test", spec.test))
        if path
    }
    tables = {name: read(Path(path), spec.format, spec.encoding, spec.header) for name, path in files.items()}
    shape = infer(tables["train"], spec.path, spec.task, spec.input, spec.target)
    rejected = [row for rows in tables.values() for row in rows.rejected]
    parts = {name: _usable(rows, files[name], shape, rejected) for name, rows in tables.items()}
    labels = _classes(parts, shape, rejected, spec.path) if shape.task == "classification" else ()
    if sum(len(rows) for rows in parts.values()) < FEWEST_ROWS:
        left = sum(len(rows) for rows in parts.values())
        first = f"; the first of {len(rejected)} set aside is line {rejected[0].line}: {rejected[0].reason}" if rejected else ""
        raise DataError(f"{spec.path}: {left} usable rows are too few (at least {FEWEST_ROWS} are needed){first}", "give more rows")
    found = _observations(parts, shape, rejected)
    records = _split(parts, shape, spec)
    found += _leaks(records, shape) if len(files) > 1 else []
    fingerprint = {name: file_hash(Path(path)) for name, path in files.items()}
    if spec.fingerprint and spec.fingerprint != fingerprint:
        changed = next(name for name in fingerprint if spec.fingerprint.get(name) != fingerprint[name])
        found_hash, expected = fingerprint[changed], spec.fingerprint.get(changed, "none")
        raise DataError(
            f"{files[changed]} is not the file this experiment was made for (SHA-256 {found_hash[:12]}…, expected {expected[:12]}…)",
            "put the old file back, or start a new run with the new one",
        )
    places = {"path": files["train"], "validation": files.get("validation"), "test": files.get("test")}
    found_out = {"task": shape.task, "input": shape.input, "target": shape.target, "header": tables["train"].header}
    filled = spec.model_copy(update={**places, **found_out, "fingerprint": fingerprint})
    return Intake(filled, shape.reason, records, labels, rejected, found)


def _three_files(spec: Data) -> Data:
    folder = Path(spec.path)
    if not folder.is_dir():
        return spec
    found: dict[str, str] = {}
    for part, names in (("path", ("train",)), ("validation", ("validation", "valid", "dev", "val")), ("test", ("test",))):
        for file in sorted(folder.iterdir()):
            if file.stem in names and file.suffix.lower() in (".csv", ".tsv", ".json", ".jsonl"):
                found.setdefault(part, str(file))
    if "path" not in found:
        raise DataError(
            f"the folder {folder} holds no train.csv, .tsv, .json or .jsonl",
            "give the file itself, or a folder with train, validation and test files",
        )
    return spec.model_copy(update=found)


def _usable(rows: Rows, path: str, shape: Shape, rejected: list[Rejected]) -> list[Record]:
    """Rows that say something and have something to be learned."""
    missing = [name for name in (*shape.input, shape.target) if name not in rows.columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}", f"it has {', '.join(rows.columns)}; all files need the same columns")
    kept = []
    for record in rows.records(path):
        reason = _unusable(record, shape)
        if reason:
            rejected.append(Rejected(path, record.row, reason, dict(record.values)))
        else:
            kept.append(record)
    return kept


def _unusable(record: Record, shape: Shape) -> str:
    if shape.task == "chat":
        try:
            conversation(record.values, shape.input, shape.target)
        except ValueError as problem:
            return str(problem)
        return ""
    for name in shape.input:
        if isinstance(record.values.get(name), dict | list):
            return f"{name} holds a {type(record.values[name]).__name__}, not a text"
    if not any(str(record.values.get(name) or "").strip() for name in shape.input):
        return "there is no text"
    label = record.values.get(shape.target)
    if label is None or str(label).strip() == "":
        return "there is no label"
    return ""


def _classes(parts: dict[str, list[Record]], shape: Shape, rejected: list[Rejected], path: str) -> tuple[str, ...]:
    def label(record: Record) -> str:
        return str(record.values[shape.target])

    counts = Counter(label(record) for rows in parts.values() for record in rows)
    total = sum(counts.values())
    few = {name for name, count in counts.items() if count < FEWEST_OF_A_CLASS}
    kept = sorted(set(counts) - few)
    if len(counts) == 1:
        raise DataError(
            f"{path}: every row has the label {next(iter(counts))!r}",
            "a classifier needs rows of at least 2 classes; is this the right --target?",
        )
    if len(kept) < 2:
        shown = f"{len(counts)} different values over {total} rows"
        raise DataError(
            f"{path}: fewer than 2 classes have {FEWEST_OF_A_CLASS} rows or more ({shape.target!r} takes {shown})",
            "is it an id? Name the column with --target",
        )
    if len(parts) > 1:
        known = {label(record) for record in parts["train"]}
        kept = [name for name in kept if name in known]
        few |= set(counts) - set(kept)
    for name, rows in parts.items():
        for record in rows:
            if label(record) in few:
                reason = (
                    f"the label {label(record)!r} is there {counts[label(record)]} times only"
                    if counts[label(record)] < FEWEST_OF_A_CLASS
                    else f"the label {label(record)!r} is not in the training rows"
                )
                rejected.append(Rejected(record.source, record.row, reason, dict(record.values)))
        parts[name] = [record for record in rows if label(record) not in few]
    return tuple(kept)


def text_of(record: Record, shape: Shape | Data) -> str:
    """What makes two rows duplicates: what is read, without the spaces around it."""
    return json.dumps([str(record.values.get(name)).strip() for name in shape.input], ensure_ascii=False)


def _split(parts: dict[str, list[Record]], shape: Shape, spec: Data) -> dict[str, list[Record]]:
    if len(parts) == 3:
        return {part: parts[part] for part in PARTS}
    rows = parts["train"]
    shares = {"validation": spec.validation_share, "test": spec.test_share}
    if "test" in parts:
        shares["test"] = 0.0
    if "validation" in parts:
        shares["validation"] = 0.0

    def pick(record: Record) -> Any:
        return str(record.values[shape.target]) if shape.task == "classification" else ""

    chosen = split([text_of(record, shape) for record in rows], [pick(record) for record in rows], shares, spec.split_seed)
    return {part: parts[part] if part != "train" and part in parts else [rows[row] for row in chosen[part]] for part in PARTS}


def _observations(parts: dict[str, list[Record]], shape: Shape, rejected: list[Rejected]) -> list[Finding]:
    found = []
    if rejected:
        reasons = Counter(row.reason if len(row.reason) < 60 else row.reason[:57] + "…" for row in rejected)
        found.append(Finding(check="rows", severity="warning", claim=f"{len(rejected):,} rows were set aside",
                             evidence={"reasons": dict(reasons.most_common(5)), "first": f"{rejected[0].file}, line {rejected[0].line}"},
                             remedy="look at rejected.jsonl in the run folder"))  # fmt: skip
    rows = [record for part in parts.values() for record in part]
    twice = len(rows) - len({text_of(record, shape) for record in rows})
    if twice:
        found.append(Finding(check="duplicates", claim=f"{twice:,} of {len(rows):,} rows repeat another's text; they are kept in one part",
                             evidence={"repeated": twice, "rows": len(rows)}))  # fmt: skip
    words = re.findall(r"[^\W\d_]+", " ".join(text_of(record, shape) for record in rows[:300]).lower())
    english = sum(word in ENGLISH for word in words) / max(len(words), 1)
    if len(words) >= 200 and english < LEAST_ENGLISH:
        found.append(
            Finding(
                check="language",
                severity="warning",
                claim=f"the text does not look English: {english:.1%} of its words are the most frequent English ones",
                evidence={"share": english, "words": len(words)},
                remedy="the embedded bases read English; give a base of the data's language with --base",
            )
        )
    return found


def _leaks(records: dict[str, Sequence[Record]] | dict[str, list[Record]], shape: Shape) -> list[Finding]:
    seen = {text_of(record, shape) for record in records["train"]}
    leaked = [record for record in records["test"] if text_of(record, shape) in seen]
    if not leaked:
        return []
    first = leaked[0]
    return [Finding(check="leakage", severity="warning", claim=f"{len(leaked):,} of {len(records['test']):,} given test rows are also training rows",
                    evidence={"leaked": len(leaked), "first": f"{first.source}, line {first.row}"},
                    remedy="the test score flatters the model; take them out of one of the two files")]  # fmt: skip
