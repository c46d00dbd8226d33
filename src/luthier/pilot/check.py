"""What is wrong with the rows, before anything is trained on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError
from luthier.core.finding import Finding
from luthier.core.interfaces import NullReporter, Reporter
from luthier.core.run import AGAIN, check_writable, file_hash, write_file
from luthier.core.words import plural
from luthier.data.archives import on_disk
from luthier.data.check import CHECKS
from luthier.data.dataset import QUICK, Dataset, applicable_checks
from luthier.data.read_rows import read
from luthier.data.row_files import ENDINGS
from luthier.data.rows import format_rows
from luthier.data.sources.frames import Frame
from luthier.data.sources.images import KEPT
from luthier.data.usable_rows import tidy_label
from luthier.experiment import Changes, as_assignments
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.models.catalogue import READER
from luthier.objectives.objective import fit_length
from luthier.pilot.stages.given_rows import accepts_frames
from luthier.pilot.stages.options import data_spec

WEIGHT = {"stop": 0, "warning": 1, "note": 2, "good": 3}


@dataclass(frozen=True)
class CheckResult:
    """What the checks said.

    Args:
        dataset: the rows.
        findings: the weightiest first.
        page: the page with the flagged rows, where one was asked for.
        fixed: the cleaned file, where one was asked for.
    """

    dataset: Dataset
    findings: list[Finding]
    page: Path | None = None
    fixed: Path | None = None

    def __repr__(self) -> str:
        counts = {weight: sum(finding.severity == weight for finding in self.findings) for weight in WEIGHT}
        return (
            f"CheckResult({plural(self.dataset.count, 'row')}: "
            + ", ".join(
                plural(count, weight) if weight in ("warning", "note") else f"{count} {weight}" for weight, count in counts.items() if count
            )
            + ")"
        )


@accepts_frames
def check(
    data: str | Path | Frame,
    *,
    target: str | None = None,
    input: str | Sequence[str] | None = None,
    base: str | None = None,
    task: str | None = None,
    validation: str | Path | Frame | None = None,
    test: str | Path | Frame | None = None,
    set: Changes = (),
    model: bool = True,
    page: str | Path | None = None,
    fix: str | Path | None = None,
    reporter: Reporter | None = None,
) -> CheckResult:
    """Look for what makes a model look better than it is, or learn what it should not.

    Args:
        data: a file of rows, or a folder; or rows in memory (a data frame, an Arrow table, a list of dicts), or "-" for standard input.
        target: the column to be learned; inferred when not given.
        input: the column or columns that are read; inferred when not given.
        base: the base that will be trained; its tokens and context are what counts.
        task: what is learned, such as "chat" or "translation" (`luthier run --help` names all); inferred when not given.
        validation: validation rows, where the split is given: a file, or rows in memory.
        test: test rows, where the split is given: a file, or rows in memory.
        set: changes to the data's settings: {"data.path": value}, or "data.path=value", one or several.
        model: also make the checks that look through a model (at 5,000 rows at most).
        page: write the flagged rows as a page here.
        fix: write the training file here, without the rows that are certainly of no use and without spaces around labels; what was changed is in FILE.journal.jsonl.
        reporter: shows progress; None shows nothing.

    Raises:
        DataError: the rows cannot be read.
        DiskFull, DiskFailed: the page or the cleaned file cannot be written.
    """
    reporter = reporter or NullReporter()
    _check_places(page, fix)
    reporter.stage("data", str(data))
    spec = data_spec(
        data, target=target, input=input, task=task, validation=validation, test=test, set=as_assignments(set), say=reporter.say
    )
    dataset = load_dataset(spec, checks=())  # they are made below, with the model's eyes where it has some
    reporter.say(f"{dataset.reason}; {plural(dataset.count, 'row')}")
    findings = list(dataset.findings)
    model = model and not dataset.reader.kind.images  # no base looks at images yet
    sheet = dataset.sheet(**(_read_with_model(dataset, base, reporter) if model else {}))
    for name in applicable_checks(list(CHECKS) if model else QUICK, dataset.reader.kind):
        findings += CHECKS[name](sheet)
    findings.sort(key=lambda finding: WEIGHT[finding.severity])
    for finding in findings:
        reporter.finding(finding)
    page_path = None
    if page is not None:
        from luthier.delivery.flagged import write_flagged

        page_path = write_flagged(Path(page), dataset, findings)
    return CheckResult(dataset, findings, page_path, _write_fixed(Path(fix), dataset, findings, reporter) if fix is not None else None)


def _check_places(page: str | Path | None, fix: str | Path | None) -> None:
    """What shall be written can be, before the work."""
    if fix is not None:
        _format_of_fixed(Path(fix))
    for path in (page, fix):
        if path is not None:
            check_writable(Path(path))


def _read_with_model(dataset: Dataset, base: str | None, reporter: Reporter) -> dict[str, Any]:
    """What the checks need of a model: vectors, token counts, and the longest row it reads."""
    from luthier.models.encode import text_encoder, token_counter
    from luthier.models.pretrained import load_tokenizer
    from luthier.models.store import resolve

    family = family_of(dataset.spec.task)
    trained = family.read_base(resolve(base or family.base or READER, reporter.say))
    looking = trained if trained.kind == "encoder" else resolve(READER, reporter.say)
    reporter.stage("model", f"{looking.name} reads the rows")
    tokenizer = load_tokenizer(trained)
    return {
        "encode": text_encoder(looking),
        "tokens": token_counter(tokenizer),
        "context": getattr(fit_length(family.Spec(), trained.positions), "max_length", None) if family.Spec else None,
        "control": tuple(tokenizer.all_special_tokens),
    }


def _format_of_fixed(path: Path) -> str:
    """The format of the cleaned file.

    Args:
        path: where it is to be.

    Raises:
        DataError: none that can be written, or there is something already.
    """
    kind = ENDINGS.get(path.suffix.lower())
    if kind not in ("csv", "tsv", "jsonl"):
        raise DataError(f"the cleaned rows cannot be written as {path.suffix or 'a file without ending'}", "name it .csv, .tsv or .jsonl")
    if path.exists():
        raise DataError(f"{path} exists", "choose another name: nothing is overwritten")
    return kind


def _write_fixed(path: Path, dataset: Dataset, findings: Sequence[Finding], reporter: Reporter) -> Path:
    """The training file without what the checks would drop, its labels without spaces around them; the source stays as it is."""
    source, kind = Path(dataset.spec.path), _format_of_fixed(path)
    why: dict[int, str] = {row.line: f"set aside: {row.reason}" for row in dataset.rejected if row.file == str(source)}
    for finding in findings:
        for file, line in finding.evidence.get("drop", ()):
            if file == str(source):
                why.setdefault(line, f"{finding.check}: {finding.claim}")
    table = read(source, dataset.spec.format, dataset.spec.encoding, dataset.spec.header, sheet=dataset.spec.sheet)
    rows = dict(zip(table.lines, table.values, strict=True))
    changed = _tidy_labels(rows, dataset)
    for line in changed.keys() & why.keys():
        if str(rows[line][dataset.spec.target or ""]) in dataset.labels and why[line].startswith("set aside: the label "):
            del why[line]  # it was alone with its spelling only
    columns = table.columns
    if dataset.reader.kind.images:  # named from where the new table lies; what was read from the files is read again
        columns = [name for name in columns if name not in KEPT]
        image, folder = dataset.spec.input[0], source if source.is_dir() else source.parent
        rows = {line: {name: row[name] for name in columns} | {image: _from(path, folder / row[image])} for line, row in rows.items()}
    remaining = [values for line, values in rows.items() if line not in why]
    write_file(path, format_rows(kind, columns, remaining), AGAIN)
    journal = path.with_name(path.name + ".journal.jsonl")
    head = {
        "source": str(source),
        "sha256": file_hash(on_disk(source)),
        "result": path.name,
        "result_sha256": file_hash(path),
        "kept": len(remaining),
        "dropped": len(why),
        "changed": len(changed.keys() - why.keys()),
    }
    entries: dict[int, dict[str, Any]] = {line: {"line": line, "why": reason, "row": rows.get(line)} for line, reason in why.items()}
    for line in changed.keys() - why.keys():
        entries[line] = {"line": line, "why": "spellings: spaces around the label", "was": changed[line], "now": rows[line][dataset.spec.target or ""]}  # fmt: skip
    lines = [head, *(entries[line] for line in sorted(entries))]
    write_file(journal, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), AGAIN)
    mended = f", {plural(head['changed'], 'label')} without the spaces around" if head["changed"] else ""
    reporter.say(
        f"{path}: {plural(len(remaining), 'row')} kept, {len(why):,} dropped{mended}; each of them, with the reason, in {journal.name}"
    )
    return path


def _tidy_labels(rows: dict[int, dict[str, Any]], dataset: Dataset) -> dict[int, str]:
    """Take the spaces around labels away, in the rows; line → the label as it was."""
    target, changed = dataset.spec.target or "", {}
    if not dataset.reader.kind.classes:
        return changed
    for line, row in rows.items():
        label = row.get(target)
        if isinstance(label, str) and label.strip() and tidy_label(label) != label:
            changed[line], rows[line] = label, {**row, target: tidy_label(label)}
    return changed


def _from(table: Path, file: Path) -> str:
    """A file's name as a table names it.

    Raises:
        DataError: it does not lie below the table.
    """
    try:
        return file.resolve().relative_to(table.parent.resolve()).as_posix()
    except ValueError:
        raise DataError(
            f"{file} does not lie below {table.parent.absolute()}",
            f"write the table beside the images: --fix {file.parent.parent / table.name}",
        ) from None
