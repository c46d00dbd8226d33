"""Use a bundle: the same tokenizer, template and objective that the evaluation used."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, ModelError, nearest
from luthier.core.run import write_file
from luthier.core.types import Message, Record


def predict(
    bundle: str | Path, data: str | Path | Sequence[str], *, out: str | Path | None = None, limit: int = 256
) -> list[dict[str, Any]]:
    """Classify texts, or answer prompts.

    Args:
        bundle: RUN/bundle, or the run's folder.
        data: one text, several texts, or a file of rows with the columns that the model was trained on.
        out: where to write the rows with their predictions, as CSV or JSON lines by its ending.
        limit: tokens an answer may have.

    Returns:
        For each row `label` and `probabilities`, or `text`.

    Raises:
        LuthierError: no bundle there, or a file without the columns.
    """
    model, objective, tokenizer, about = _open(bundle)
    rows = _rows(data, about["input"])
    if about["task"] == "classification":
        found = _classified(model, objective, rows)
    else:
        found = _answered(model, tokenizer, about, rows, limit)
    if out is not None:
        _write(Path(out), rows, found)
    return found


def chat(bundle: str | Path, *, limit: int = 256, temperature: float = 0.0) -> Conversation:
    """Open a conversation with a bundle or a base.

    Args:
        bundle: RUN/bundle, the run's folder, or a decoder's name.
        limit: tokens an answer may have.
        temperature: 0 takes the likeliest token each time.

    Returns:
        Something to `say` to.

    Raises:
        LuthierError: it cannot write text.
    """
    from luthier.models.pretrained import load_generator, load_tokenizer
    from luthier.models.store import resolve

    base = resolve(str(bundle))
    tokenizer = load_tokenizer(base)
    if base.bundle is not None:
        model, _, tokenizer, about = _open(bundle)
        if about["task"] != "chat":
            raise ModelError(f"{bundle} is a classifier: it does not write text", 'use `luthier predict BUNDLE "text"`')
    else:
        model = load_generator(base, 0.0).eval()
    return Conversation(model, tokenizer, limit, temperature)


class Conversation:
    """Turns that build on each other.

    Args:
        model: a language model in eval mode.
        tokenizer: its own.
        limit: tokens an answer may have.
        temperature: 0 takes the likeliest token each time.
    """

    def __init__(self, model: Any, tokenizer: Any, limit: int, temperature: float) -> None:
        self.model, self.tokenizer, self.limit, self.temperature = model, tokenizer, limit, temperature
        self.messages: list[Message] = []

    def say(self, text: str) -> Iterator[str]:
        """The answer, piece by piece; when it is through, it is part of the conversation."""
        from luthier.data.chat import prompt
        from luthier.models.generate import stream

        self.messages.append({"role": "user", "content": text})
        tokens, _ = prompt(self.tokenizer, self.messages)
        said = ""
        for piece in stream(self.model, self.tokenizer, tokens, self.limit, self.temperature):
            said += piece
            yield piece
        self.messages.append({"role": "assistant", "content": said.strip() or "…"})


def _open(bundle: str | Path) -> tuple[Any, Any, Any, dict[str, Any]]:
    from luthier.delivery.bundle import open_bundle
    from luthier.models.pretrained import load_tokenizer
    from luthier.models.store import resolve
    from luthier.training.devices import settle

    folder = Path(bundle)
    if not folder.exists():
        beside = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise ModelError(f"there is no bundle {bundle}", nearest(folder.name, beside))
    settle()
    base = resolve(str(bundle))
    tokenizer = load_tokenizer(base)
    model, objective = open_bundle(base, tokenizer)
    return model, objective, tokenizer, dict(base.bundle or {})


def _rows(data: str | Path | Sequence[str], columns: Sequence[str]) -> list[Record]:
    from luthier.data.rows import read

    if isinstance(data, str | Path) and _is_file(data):
        table = read(Path(data))
        missing = [name for name in columns if name not in table.columns]
        if missing:
            raise DataError(f"{data} has no column {missing[0]!r}, which the model was trained to read", nearest(missing[0], table.columns))
        if table.rejected:
            first = table.rejected[0]
            raise DataError(f"{data}, line {first.line}: {first.reason}", "mend the row: a prediction for every row is promised")
        return table.records(str(data))
    texts = [str(data)] if isinstance(data, str | Path) else list(data)
    if len(columns) > 1:
        raise DataError(
            f"the model reads {len(columns)} columns ({', '.join(columns)}): one text is not enough", "give a file with these columns"
        )
    return [Record(number, {columns[0]: _as_turn(text, columns[0])}) for number, text in enumerate(texts, 1)]


def _is_file(data: str | Path) -> bool:
    from luthier.data import SOURCES

    path = Path(data)
    try:
        known = path.suffix.lower().lstrip(".") in {*SOURCES, "txt", "tab", "ndjson"}
        if known and not path.exists() and " " not in str(data):
            raise DataError(f"there is no file {path}", "check the path, or give a text in quotes")
        return known and path.is_file()
    except OSError:  # a text too long to be a file's name
        return False


def _as_turn(text: str, column: str) -> Any:
    return [{"role": "user", "content": text}] if column in ("messages", "conversations") else text


def _classified(model: Any, objective: Any, rows: Sequence[Record]) -> list[dict[str, Any]]:
    from luthier.evaluation.score import score

    if not rows:
        return []
    scores = score(model, objective, objective.prepare(rows))
    labels = objective.spec.labels
    assert scores.probabilities is not None
    return [
        {"label": labels[int(row.argmax())], "probabilities": {label: float(value) for label, value in zip(labels, row, strict=True)}}
        for row in scores.probabilities
    ]


def _answered(model: Any, tokenizer: Any, about: dict[str, Any], rows: Sequence[Record], limit: int) -> list[dict[str, Any]]:
    from luthier.data.chat import asked, prompt
    from luthier.models.generate import answers

    prompts = [prompt(tokenizer, asked(record.values, tuple(about["input"])))[0] for record in rows]
    found: list[str] = []
    for start in range(0, len(prompts), 8):
        found += answers(model, tokenizer, prompts[start : start + 8], limit)
    return [{"text": text} for text in found]


def _write(path: Path, rows: Sequence[Record], found: Sequence[dict[str, Any]]) -> None:
    import json

    if path.suffix == ".jsonl":
        write_file(
            path, "".join(json.dumps({**record.values, **one}, ensure_ascii=False) + "\n" for record, one in zip(rows, found, strict=True))
        )
        return
    table = io.StringIO(newline="")
    answers = ["label", "confidence"] if found and "label" in found[0] else ["text"]
    columns = list(rows[0].values) if rows else []
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([*columns, *(f"predicted_{name}" for name in answers)])
    for record, one in zip(rows, found, strict=True):
        said = [one["label"], f"{one['probabilities'][one['label']]:.6f}"] if "label" in one else [one["text"]]
        writer.writerow([_harmless(str(value)) for value in [*record.values.values(), *said]])
    write_file(path, table.getvalue())


def _harmless(cell: str) -> str:
    """A cell that a spreadsheet will not run as a formula (CWE-1236)."""
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and not _is_number(cell) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
