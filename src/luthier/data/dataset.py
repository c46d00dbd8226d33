"""Load a data set: read the files, recognise the columns, reject bad rows, split, check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, nearest
from luthier.core.finding import Finding
from luthier.core.run import file_hash
from luthier.core.types import Record
from luthier.data.archives import choose_member, on_disk, tables_in
from luthier.data.check import CHECKS, OF_IMAGES
from luthier.data.check.sheet import Sheet
from luthier.data.parts import keep_normal, split_groups, split_rows
from luthier.data.read_rows import read
from luthier.data.row_files import ENDINGS, format_of, plain_stem
from luthier.data.row_reader import Recognise, RowKind, RowReader
from luthier.data.rows import Rejected
from luthier.data.sources.images import KEPT
from luthier.data.sources.npz import parts_of
from luthier.data.spec import Data
from luthier.data.split import PARTS
from luthier.data.unread_columns import find_file_names, find_unread
from luthier.data.usable_rows import find_rejected, keep_usable_rows, notes_of, require_min_rows, subsample_findings

MOST_LEAKED = 0.01
"""Share of the given test rows that may also be training rows before the run is refused."""
ABOUT = ("dataset_info.json", "dataset_infos.json", "state.json", ".journal.jsonl")
"""How files end that say something about a table beside them."""
NAMED = 3
"""Files that a message names."""
QUICK = (
    "lengths",
    "duplicates",
    "conflicts",
    "leakage",
    "shares",
    "groups",
    "balance",
    "numbers",
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
class Dataset:
    """The rows of a run.

    Args:
        spec: with task, columns and fingerprints filled in.
        reader: the family that recognised the rows.
        reason: why this task and these columns.
        records: part → rows.
        labels: the classes, sorted; empty where there are none.
        rejected: what was set aside.
        findings: what a person should know about the rows.
        clusters: (file, line) → the number of its cluster of near-duplicates.
        together: (file, line) → what keeps it in one part with others: its cluster, its group.
    """

    spec: Data
    reader: RowReader
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
        views = [self.reader.row_view(record, self.spec) for record, _ in rows]
        given = bool(self.spec.validation or self.spec.test or self.spec.time)
        firsts: dict[int, int] = {}
        clusters = [firsts.setdefault(self.clusters[record.source, record.row], index) for index, (record, _) in enumerate(rows)]
        used = {*self.spec.input, self.spec.target, *self.reader.kind.beside, *KEPT}
        others = tuple(dict.fromkeys(name for record, _ in rows for name in record.values if name not in used))
        return Sheet([record for record, _ in rows], [part for _, part in rows], given, self.reader.kind, [view.text for view in views],
                     [view.target for view in views], known_clusters=clusters, target=self.spec.target, others=others, group=self.spec.group,
                     by_time=bool(self.spec.time), **model)  # fmt: skip


def load_dataset(spec: Data, recognise: Recognise, checks: Sequence[str] = QUICK) -> Dataset:
    """Read, check and split.

    Args:
        spec: at least the path; a folder with train, validation (or dev) and test files is three files.
        recognise: finds the family that reads such rows.
        checks: names in `data.check.CHECKS` of those to be made at once; none where the caller makes them itself.

    Raises:
        DataError: the files cannot be read, too little is left of them, or given test rows are also training or validation rows.
    """
    given = spec
    spec, tables_there = _find_split_files(spec)
    files = _files(spec)
    tables = {
        name: read(Path(path), spec.format, spec.encoding, spec.header, spec.most_rows, spec.split_seed, spec.sheet)
        for name, path in files.items()
    }
    rejected = [row for rows in tables.values() for row in rows.rejected]
    require_min_rows({name: rows.values for name, rows in tables.items()}, rejected, spec.path)
    reader, shape = recognise(tables["train"], spec.path, spec)
    if shape.time and not (spec.time or spec.group):
        spec = spec.model_copy(update={"time": shape.time})
    for column in (spec.group, spec.time):
        if column and column not in tables["train"].columns:
            raise DataError(f"{spec.path} has no column {column!r}", nearest(column, tables["train"].columns))
    parts = {name: keep_usable_rows(rows, files[name], reader, shape, rejected) for name, rows in tables.items()}
    require_min_rows(parts, rejected, spec.path)
    labels = reader.fit(parts, shape, rejected, spec.path)
    require_min_rows(parts, rejected, spec.path)
    fingerprint = _fingerprint(spec, files)
    places = {"path": files["train"], "validation": files.get("validation"), "test": files.get("test")}
    if spec.normal and shape.normal is None:
        raise DataError(f"data.normal={spec.normal}: a {shape.task} model learns from the rows of every class", "leave data.normal out, or choose another --task")  # fmt: skip
    found_out = {"task": shape.task, "input": shape.input, "target": shape.target, "header": tables["train"].header, "normal": shape.normal}
    filled = spec.model_copy(update={**places, **found_out, "fingerprint": fingerprint})
    rows = [record for part in parts.values() for record in part]
    clusters = {(record.source, record.row): cluster for record, cluster in zip(rows, reader.clusters(rows, filled), strict=True)}
    findings = [
        *find_unread_tables(given.path, tables_there, files.values()),
        *find_rejected(rejected),
        *subsample_findings(tables, files, spec),
        *notes_of(tables),
        *find_unread(tables["train"], shape, reader.kind, spec.input),
    ]
    findings += find_file_names(tables["train"], shape, reader.kind)
    kept_together = split_groups(parts, filled, reader, clusters, findings)
    records = split_rows(parts, filled, reader, kept_together)
    findings += keep_normal(records, filled)
    dataset = Dataset(filled, reader, shape.reason, records, labels, rejected, findings, clusters, kept_together)
    sheet = dataset.sheet()
    for name in applicable_checks(checks, reader.kind):
        findings += CHECKS[name](sheet)
    _refuse_leakage(filled, sheet, findings)
    return dataset


def _files(spec: Data) -> dict[str, str]:
    """Part → its file, as far as it is given; none may be given twice."""
    paths = (("train", spec.path), ("validation", spec.validation), ("test", spec.test))
    files = {name: str(choose_member(Path(path).absolute(), ENDINGS)) for name, path in paths if path}
    names = {"train": "for training", "validation": "as the validation file", "test": "as the test file"}
    for index, name in enumerate(files):
        first = next(other for other in files if files[other] == files[name])
        if index and first != name:
            raise DataError(
                f"{files[name]} is given {names[first]} and {names[name]}", f"give another {name} file, or none: the rows are split then"
            )
    return files


def _fingerprint(spec: Data, files: Mapping[str, str]) -> dict[str, str]:
    """Part → hash of its file: those the experiment was made for, where it says so."""
    hashes = {name: file_hash(on_disk(Path(path))) for name, path in files.items()}
    changed = next((name for name in hashes if spec.fingerprint and spec.fingerprint.get(name) != hashes[name]), None)
    if changed:
        raise DataError(
            f"{files[changed]} is not the file this experiment was made for (SHA-256 {hashes[changed][:12]}…, expected {spec.fingerprint.get(changed, 'none')[:12]}…)",
            "put the old file back, start a new run with the new one, or go on all the same: `luthier resume RUN --allow-inexact`",
        )
    return hashes


def applicable_checks(checks: Sequence[str], kind: RowKind) -> list[str]:
    """Those of the checks that say something of such rows."""
    return [name for name in checks if not kind.images or name in OF_IMAGES]


def _refuse_leakage(spec: Data, sheet: Sheet, findings: list[Finding]) -> None:
    """A test file whose rows the model was trained or chosen on proves nothing."""
    leak = next((finding for finding in findings if finding.check == "leakage" and finding.evidence["part"] == "test"), None)
    if leak is None or spec.time or spec.allow_leakage or leak.evidence["share"] <= MOST_LEAKED:
        return
    first = leak.evidence["rows"][0]
    raise DataError(
        f"{leak.claim} ({leak.evidence['share']:.1%}); the first is {first['file']}, line {first['line']} ({first['note']})",
        f"{leak.remedy.partition('; ')[2].replace('--fix', '`luthier check DATA --fix`')}; or go on all the same with --set data.allow_leakage=true",
    )


def find_unread_tables(place: str, tables: Sequence[Path], read: Iterable[str]) -> list[Finding]:
    """The tables beside a train file that are not read, with what to do where they should be.

    Args:
        place: the folder or zip, as given.
        tables: all tables in it, where one is the train file.
        read: the files that are read.
    """
    read = {*read}
    unread = [file for file in tables if str(file.absolute()) not in read]
    if not unread:
        return []
    names = [str(file.relative_to(place)) for file in unread]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    claim = f"{place}: {', '.join(names[:NAMED])}{more} {'is' if len(names) == 1 else 'are'} not read: only tables named train, validation or test are"
    remedy = f"give test rows with --test {unread[0]}, validation rows with --validation {unread[0]}; or put more training rows into the train file"
    return [Finding(check="files", severity="warning", claim=claim, remedy=remedy, evidence={"unread": names})]


def _find_split_files(spec: Data) -> tuple[Data, list[Path]]:
    """The files of a folder or zip, or the arrays of an .npz, that are named for the parts of a split; and all tables beside a train file."""
    folder = Path(spec.path)
    if folder.suffix.lower() == ".npz" and folder.is_file():
        parts = parts_of(folder)
        return spec.model_copy(update={{"train": "path"}.get(part, part): path for part, path in parts.items()}), []
    if folder.is_dir():
        files = sorted(folder.iterdir())
    elif folder.suffix.lower() == ".zip" and folder.is_file():
        files = [folder / name for name in tables_in(folder, ENDINGS)]
    else:
        return spec, []
    paths: dict[str, str] = {}
    for part, names in (("path", ("train",)), ("validation", ("validation", "valid", "dev", "val")), ("test", ("test",))):
        for file in files:
            if plain_stem(file) in names and format_of(file) and file.suffix.lower() != ".txt":
                paths.setdefault(part, str(file))
    tables = [
        file
        for file in files
        if format_of(file) and file.suffix.lower() != ".txt" and not file.name.startswith(".") and not file.name.endswith(ABOUT)
    ]
    return spec.model_copy(update=paths if "path" in paths or folder.is_dir() else {}), tables if "path" in paths else []
