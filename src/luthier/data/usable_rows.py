"""Keep the rows that can be used; reject the others, each with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError
from luthier.core.finding import Finding
from luthier.core.types import Record
from luthier.core.words import plural, several
from luthier.data.row_reader import Columns, RowReader
from luthier.data.rows import Rejected, Rows
from luthier.data.spec import Data

FEWEST_ROWS = 30
FEWEST_OF_A_CLASS = 3


def keep_usable_rows(rows: Rows, path: str, reader: RowReader, columns: Columns, rejected: list[Rejected]) -> list[Record]:
    """Rows that say something and have something to be learned.

    Args:
        rows: of a file.
        path: of it.
        reader: says why a row cannot be used.
        columns: that are read and learned.
        rejected: grows by the others.

    Raises:
        DataError: the file lacks a column, or holds no row that can be used.
    """
    missing = [name for name in columns.names if name not in rows.columns]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}", f"it has {', '.join(rows.columns)}; all files need the same columns")
    records = []
    for record in rows.records(path):
        reason = reader.reject_reason(record, columns)
        if reason:
            rejected.append(Rejected(path, record.row, reason, dict(record.values)))
        else:
            records.append(record)
    if (
        rows.values
        and not records
        and columns.target in rows.columns
        and all(str(row.get(columns.target) or "").strip() == "" for row in rows.values)
    ):
        raise DataError(
            f"{path}: the column {columns.target!r} is empty in all {len(rows.values):,} rows", "fill it, or leave this file out"
        )
    return records


def reject_reason(record: Record, columns: Columns) -> str:
    """Why a row of texts cannot be used: there is no text; empty where it can."""
    for name in columns.input:
        if isinstance(record.values.get(name), dict | list):
            return f"{name} holds a {type(record.values[name]).__name__}, not a text"
    if not any(str(record.values.get(name) or "").strip() for name in columns.input):
        return "there is no text"
    return ""


def reject_label(record: Record, columns: Columns) -> str:
    """Why a row's label cannot be used; empty where it can."""
    label = record.values.get(columns.target or "")
    if isinstance(label, dict | list):
        return f"{columns.target} holds a {type(label).__name__}, not one label: a row has one class, and --task multi_label reads several"
    if label is None or str(label).strip() == "":
        return f"there is no label ({columns.target!r} is empty)"
    return ""


def tidy_label(label: str) -> str:
    """A label without the spaces and invisible signs around it."""
    return label.strip().strip("\u200b\ufeff\u2060").strip()


def keep_known_classes(parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
    """The classes that have rows enough; the rows of others are taken out of their parts.

    Args:
        parts: part → rows; they shrink.
        columns: the label's among them.
        rejected: grows by what is taken out.
        path: for the message.

    Raises:
        DataError: fewer than two classes are left.
    """

    def label(record: Record) -> str:
        return str(record.values[columns.target or ""])

    counts = Counter(label(record) for rows in parts.values() for record in rows)
    total = sum(counts.values())
    few = {name for name, count in counts.items() if count < FEWEST_OF_A_CLASS}
    classes = sorted(set(counts) - few)
    if len(counts) == 1:
        raise DataError(
            f"{path}: every row has the label {next(iter(counts))!r}",
            "a classifier needs rows of at least 2 classes; is this the right --target?",
        )
    if len(classes) < 2:
        text = f"{len(counts)} different values over {total} rows"
        raise DataError(
            f"{path}: fewer than 2 classes have {FEWEST_OF_A_CLASS} rows or more ({columns.target!r} takes {text})",
            "is it an id? Name the column with --target",
        )
    if len(parts) > 1:
        known = {label(record) for record in parts["train"]}
        classes = [name for name in classes if name in known]
        few |= set(counts) - set(classes)
    for name, rows in parts.items():
        for record in rows:
            if label(record) in few:
                reason = (
                    f"the label {label(record)!r} is there {counts[label(record)]} times only"
                    if counts[label(record)] < FEWEST_OF_A_CLASS
                    else f"the label {label(record)!r} is not in the training rows"
                )
                if tidy_label(label(record)) in classes:
                    reason += f", {tidy_label(label(record))!r} without the spaces is (`luthier check DATA --fix` takes them away)"
                rejected.append(Rejected(record.source, record.row, reason, dict(record.values)))
        parts[name] = [record for record in rows if label(record) not in few]
    return tuple(classes)


def require_min_rows(parts: Mapping[str, Sequence[Any]], rejected: list[Rejected], path: str) -> None:
    """Refuse what nothing can be learned from.

    Raises:
        DataError: too few rows; the first one set aside is named.
    """
    left = sum(len(rows) for rows in parts.values())
    if left < FEWEST_ROWS:
        first = f"; the first of {len(rejected)} set aside is line {rejected[0].line}: {rejected[0].reason}" if rejected else ""
        remedy = "mend the rows that were set aside, each for its reason" if left + len(rejected) >= FEWEST_ROWS else "give more rows"
        if rejected and "a row has one class" in rejected[0].reason:
            remedy += "; for several labels a row: --task multi_label"
        raise DataError(f"{path}: {left} usable rows are too few (at least {FEWEST_ROWS} are needed){first}", remedy)


def find_rejected(rejected: list[Rejected]) -> list[Finding]:
    """Rows that cannot be used, counted by their reasons."""
    if not rejected:
        return []
    reasons = Counter(row.reason if len(row.reason) < 90 else row.reason[:87] + "…" for row in rejected)
    listing = "; ".join(f"{count:,} × {reason}" for reason, count in reasons.most_common(3)) + ("; …" if len(reasons) > 3 else "")
    first = f"{Path(rejected[0].file).name}, line {rejected[0].line}"
    return [Finding(check="rows", severity="warning", claim=f"{several(len(rejected), 'row', 'were set aside')}: {listing}; the first is {first}",
                    evidence={"reasons": dict(reasons.most_common(5)), "first": f"{rejected[0].file}, line {rejected[0].line}"},
                    remedy="mend them, or leave them out; a run lists each of them in its rejected.jsonl")]  # fmt: skip


def notes_of(tables: Mapping[str, Rows]) -> list[Finding]:
    """What the reader of a file had to decide by itself."""
    return [Finding(check="rows", claim=claim, remedy=remedy) for table in tables.values() for claim, remedy in table.notes]


def subsample_findings(tables: Mapping[str, Rows], files: Mapping[str, str], spec: Data) -> list[Finding]:
    """Files that hold more rows than are used."""
    return [Finding(check="rows", severity="warning", claim=f"{Path(files[name]).name} holds {plural(table.met, 'row')}: {spec.most_rows:,} of them, evenly by chance, are used",
                    evidence={"held": table.met, "used": spec.most_rows}, remedy="use more with --set data.most_rows=N (0 uses all): memory must hold them")
            for name, table in tables.items() if spec.most_rows and table.met > spec.most_rows]  # fmt: skip
