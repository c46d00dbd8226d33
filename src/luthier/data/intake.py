"""From a data specification to clean records, split three ways."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, nearest
from luthier.core.finding import Finding
from luthier.core.run import file_hash
from luthier.core.types import Record
from luthier.core.words import several
from luthier.data import pictures
from luthier.data.chat import conversation
from luthier.data.check import CHECKS, OF_IMAGES
from luthier.data.check.sheet import Sheet
from luthier.data.infer import Shape, infer
from luthier.data.near import clusters, normal
from luthier.data.rows import ENDINGS, Rejected, Rows, read
from luthier.data.spec import CLASSES, Data
from luthier.data.split import PARTS, joined, split, split_by_time

FEWEST_ROWS = 30
FEWEST_OF_A_CLASS = 3
MOST_LEAKED = 0.01
"""Share of the given test rows that may also be training rows before the run is refused."""
LARGEST = 0.1
"""Share of the rows that one cluster of near-duplicates may hold and still be kept together."""
QUICK = (
    "lengths",
    "duplicates",
    "conflicts",
    "leakage",
    "balance",
    "spellings",
    "language",
    "characters",
    "personal",
    "shortcuts",
    "images",
    "conversations",
)
"""The checks that need no model: every run makes them."""


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
        clusters: (file, line) → the number of its cluster of near-duplicates.
        together: (file, line) → what keeps it in one part with others: its cluster, its group.
    """

    spec: Data
    reason: str
    records: dict[str, list[Record]]
    labels: tuple[str, ...]
    rejected: list[Rejected]
    findings: list[Finding] = field(default_factory=list)
    clusters: dict[tuple[str, int], int] = field(default_factory=dict)
    together: dict[tuple[str, int], Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Rows that are used."""
        return sum(len(rows) for rows in self.records.values())

    def sheet(self, **model: Any) -> Sheet:
        """All rows side by side, for the checks.

        Args:
            model: `encode`, `tokens`, `context` and `control` of a `Sheet`, where a base is at hand.
        """
        rows = [(record, part) for part in PARTS for record in self.records[part]]
        pairs = [_said(record, self.spec) for record, _ in rows]
        given = bool(self.spec.validation or self.spec.test or self.spec.time)
        firsts: dict[int, int] = {}
        known = [firsts.setdefault(self.clusters[record.source, record.row], number) for number, (record, _) in enumerate(rows)]
        return Sheet([record for record, _ in rows], [part for _, part in rows], given, self.spec.task or "", [text for text, _ in pairs],
                     [label for _, label in pairs], known_clusters=known, **model)  # fmt: skip


def take_in(spec: Data, checks: Sequence[str] = QUICK) -> Intake:
    """Read, check and split.

    Args:
        spec: at least the path; a folder with train, validation (or dev) and test files is three files.
        checks: names in `data.check.CHECKS` of those to be made at once; none where the caller makes them itself.

    Raises:
        DataError: the files cannot be read, too little is left of them, or given test rows are also training rows.
    """
    spec = _three_files(spec)
    files = {
        name: str(Path(path).absolute())
        for name, path in (("train", spec.path), ("validation", spec.validation), ("test", spec.test))
        if path
    }
    twice = next((name for name in list(files)[1:] if files[name] == files["train"]), None)
    if twice:
        raise DataError(
            f"{files[twice]} is given for training and as the {twice} file", f"give another {twice} file, or none: the rows are split then"
        )
    tables = {
        name: read(Path(path), spec.format, spec.encoding, spec.header, spec.most_rows, spec.split_seed) for name, path in files.items()
    }
    rejected = [row for rows in tables.values() for row in rows.rejected]
    _enough({name: rows.values for name, rows in tables.items()}, rejected, spec.path)
    shape = infer(tables["train"], spec.path, spec.task, spec.input, spec.target)
    for column in (spec.group, spec.time):
        if column and column not in tables["train"].columns:
            raise DataError(f"{spec.path} has no column {column!r}", nearest(column, tables["train"].columns))
    parts = {name: _usable(rows, files[name], shape, rejected) for name, rows in tables.items()}
    _enough(parts, rejected, spec.path)
    labels = _classes(parts, shape, rejected, spec.path) if shape.task in CLASSES else ()
    _enough(parts, rejected, spec.path)
    fingerprint = {name: file_hash(Path(path)) for name, path in files.items()}
    if spec.fingerprint and spec.fingerprint != fingerprint:
        changed = next(name for name in fingerprint if spec.fingerprint.get(name) != fingerprint[name])
        found_hash, expected = fingerprint[changed], spec.fingerprint.get(changed, "none")
        raise DataError(
            f"{files[changed]} is not the file this experiment was made for (SHA-256 {found_hash[:12]}…, expected {expected[:12]}…)",
            "put the old file back, start a new run with the new one, or go on all the same: `luthier resume RUN --allow-inexact`",
        )
    places = {"path": files["train"], "validation": files.get("validation"), "test": files.get("test")}
    found_out = {"task": shape.task, "input": shape.input, "target": shape.target, "header": tables["train"].header}
    filled = spec.model_copy(update={**places, **found_out, "fingerprint": fingerprint})
    rows = [record for part in parts.values() for record in part]
    images = filled.task == "image_classification"
    numbers = pictures.clusters([r.values["thumbnail"] for r in rows]) if images else clusters([_said(r, filled)[0] for r in rows])
    known = {(record.source, record.row): number for record, number in zip(rows, numbers, strict=True)}
    findings = [*_set_aside(rejected), *_thinned(tables, files, spec)]
    together = _together(parts, filled, known, findings)
    records = _split(parts, filled, together)
    intake = Intake(filled, shape.reason, records, labels, rejected, findings, known, together)
    sheet = intake.sheet()
    for name in fitting(checks, filled.task):
        findings += CHECKS[name](sheet)
    _refuse_leakage(filled, sheet, findings)
    return intake


def fitting(checks: Sequence[str], task: str | None) -> list[str]:
    """Those of the checks that say something of such rows."""
    return [name for name in checks if task != "image_classification" or name in OF_IMAGES]


def _enough(parts: Mapping[str, Sequence[Any]], rejected: list[Rejected], path: str) -> None:
    left = sum(len(rows) for rows in parts.values())
    if left < FEWEST_ROWS:
        first = f"; the first of {len(rejected)} set aside is line {rejected[0].line}: {rejected[0].reason}" if rejected else ""
        raise DataError(f"{path}: {left} usable rows are too few (at least {FEWEST_ROWS} are needed){first}", "give more rows")


def _refuse_leakage(spec: Data, sheet: Sheet, findings: list[Finding]) -> None:
    """A test file that was trained on proves nothing."""
    leak = next((found for found in findings if found.check == "leakage" and " test " in found.claim), None)
    if leak is None or spec.time or spec.allow_leakage or leak.evidence["share"] <= MOST_LEAKED:
        return
    first = leak.evidence["rows"][0]
    raise DataError(
        f"{leak.claim} ({leak.evidence['share']:.1%}); the first is {first['file']}, line {first['line']} ({first['note']})",
        "take them out of the training rows (`luthier check DATA --fix` does), or go on all the same with --set data.allow_leakage=true",
    )


def _three_files(spec: Data) -> Data:
    folder = Path(spec.path)
    if not folder.is_dir():
        return spec
    found: dict[str, str] = {}
    for part, names in (("path", ("train",)), ("validation", ("validation", "valid", "dev", "val")), ("test", ("test",))):
        for file in sorted(folder.iterdir()):
            if file.stem in names and file.suffix.lower() in ENDINGS and file.suffix.lower() != ".txt":
                found.setdefault(part, str(file))
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
    if shape.task == "preference":
        better, worse = (str(record.values.get(name) or "").strip() for name in ("chosen", "rejected"))
        return (
            "chosen or rejected says nothing" if not better or not worse else "chosen and rejected are the same" if better == worse else ""
        )
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


def _said(record: Record, spec: Data) -> tuple[str, str]:
    """What is read of a row, and what is learned of it."""
    if spec.task == "chat":
        messages = conversation(record.values, spec.input, spec.target or "")
        return "\n\n".join(turn["content"] for turn in messages[:-1]), messages[-1]["content"]
    texts = "\n\n".join(str(record.values.get(name) or "") for name in spec.input)
    if spec.task == "preference":
        return texts, str(record.values.get("chosen"))
    return texts, str(record.values.get(spec.target or ""))


def _together(parts: dict[str, list[Record]], spec: Data, known: dict[tuple[str, int], int], findings: list[Finding]) -> dict[Any, Any]:
    """What keeps the rows that are not sealed in one part or fold with others: near-duplicates, and the group that was asked for."""
    rows = [record for part in parts if part != "test" for record in parts[part]]
    keys: list[Any] = [known[record.source, record.row] for record in rows]
    if spec.group:
        groups = [str(record.values.get(spec.group) or "").strip() for record in rows]
        keys = joined(keys, [group or number for number, group in enumerate(groups)])  # a row without a group stands for itself
    large = {key: size for key, size in Counter(keys).items() if size > max(20, LARGEST * len(rows))}
    if large and not spec.group:
        keys = [
            f"same {record.values.get('pixels') or normal(_said(record, spec)[0])}" if keys[row] in large else keys[row]
            for row, record in enumerate(rows)
        ]
        if len(parts) < 3 and not spec.time:
            findings.append(Finding(check="split.template", severity="note", claim=f"{sum(large.values()):,} rows are near-duplicates of each other in {len(large)} clusters (a template?): only equal texts among them are kept in one part",
                                    evidence={"rows": sum(large.values()), "clusters": len(large)}))  # fmt: skip
    return {(record.source, record.row): key for record, key in zip(rows, keys, strict=True)}


def _split(parts: dict[str, list[Record]], spec: Data, together: dict[Any, Any]) -> dict[str, list[Record]]:
    if len(parts) == 3:
        return {part: parts[part] for part in PARTS}
    rows = parts["train"]
    shares = {"validation": spec.validation_share, "test": spec.test_share}
    for part in set(parts) - {"train"}:
        shares[part] = 0.0
    if spec.time:
        chosen = split_by_time([_moment(record, spec.time) for record in rows], shares)
    else:
        keys = [together[record.source, record.row] for record in rows]
        strata = [str(record.values[spec.target or ""]) if spec.task in CLASSES else "" for record in rows]
        try:
            chosen = split(keys, strata, shares, spec.split_seed)
        except DataError:
            if not spec.group:
                raise
            raise DataError(
                f"{spec.path}: rows of the same {spec.group} stay together, and {len(set(keys)):,} such groups are too few or too large for three parts",
                "choose a column with more values for data.group, or leave it out",
            ) from None
    return {part: parts[part] if part != "train" and part in parts else [rows[row] for row in chosen[part]] for part in PARTS}


def _moment(record: Record, column: str) -> float:
    value = record.values.get(column)
    with contextlib.suppress(TypeError, ValueError):
        number = float(value)  # type: ignore[arg-type]
        if math.isfinite(number):
            return number
    try:
        return datetime.fromisoformat(str(value).strip().replace("Z", "+00:00")).replace(tzinfo=None).timestamp()
    except ValueError:
        raise DataError(
            f"{record.source}, line {record.row}: {column} is {value!r}, neither a number nor a date",
            "write dates as 2026-11-21 or 2026-11-21T08:30:00",
        ) from None


def _thinned(tables: Mapping[str, Rows], files: Mapping[str, str], spec: Data) -> list[Finding]:
    """Files that hold more rows than are used."""
    return [Finding(check="rows", severity="warning", claim=f"{Path(files[name]).name} holds {table.met:,} rows: {spec.most_rows:,} of them, evenly by chance, are used",
                    evidence={"held": table.met, "used": spec.most_rows}, remedy="use more with --set data.most_rows=N (0 uses all): memory must hold them")
            for name, table in tables.items() if spec.most_rows and table.met > spec.most_rows]  # fmt: skip


def _set_aside(rejected: list[Rejected]) -> list[Finding]:
    if not rejected:
        return []
    reasons = Counter(row.reason if len(row.reason) < 60 else row.reason[:57] + "…" for row in rejected)
    return [Finding(check="rows", severity="warning", claim=several(len(rejected), "row", "were set aside"),
                    evidence={"reasons": dict(reasons.most_common(5)), "first": f"{rejected[0].file}, line {rejected[0].line}"},
                    remedy="look at rejected.jsonl in the run folder")]  # fmt: skip
