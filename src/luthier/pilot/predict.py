"""Use a bundle: the same tokenizer, template and objective that the evaluation used."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import ExperimentError, ModelError
from luthier.core.types import Cut, Message
from luthier.core.words import plural, with_article
from luthier.data.sources.frames import Frame, describe_value
from luthier.delivery.predictions import prepare_output, write_predictions
from luthier.experiment import Changes
from luthier.families import family_of
from luthier.models.store import resolve
from luthier.pilot.stages.opened_bundle import Say, choose_threshold, describe_threshold, load_bundle, postprocess, resolve_bundle
from luthier.pilot.stages.prediction_rows import parse_reading_options, rows_to_predict


def predict(
    bundle: str | os.PathLike[str],
    data: str | Path | Sequence[str] | Frame,
    *,
    out: str | Path | None = None,
    limit: int = 256,
    top: int | None = None,
    abstain_below: float | None = None,
    error_below: float | None = None,
    set: Changes = (),
    say: Say | None = None,
) -> list[dict[str, Any]]:
    """Ask a bundle about rows: texts, conversations, images, whatever it has learned from.

    Args:
        bundle: RUN/bundle, the run's folder, the run itself, an alias (`luthier promote`), or a bundle's name on the hub.
        data: one text, a list of texts, a dict (one row), a list of dicts, a data frame (pandas, polars), an Arrow table, a file of rows with
            the columns that the model was trained on, or "-" for standard input. A text in a list is a text, whatever it says.
        out: where to write the rows with their predictions: .csv, .tsv, .jsonl, .json or .parquet.
        limit: tokens an answer may have.
        top: also give so many of the likeliest classes.
        abstain_below: leave the label out where the confidence is lower than this (0 to 1).
        error_below: leave out so many of the unsure labels that no more than this share of the others is wrong (0.05 for 5%), at a confidence of 95%.
        set: how a file is read: {"data.encoding": "cp1252"}, or data.format, data.header, data.sheet.
        say: told what a person should know; a warning where it is not given.

    Returns:
        For each row `row` (its line in the file, or its position from 1), and what the model says: `text`, or `label`, `confidence` and
        `probabilities`, or a number as `value`, or `labels` and `probabilities`;
        with `top` also `top`, a list of classes with their probabilities; with `abstain_below` or `error_below` also `abstained`; of a row that is longer than the
        model reads also `cut`, the tokens that were left out.

    Raises:
        LuthierError: no whole bundle there, rows without what the model reads, or an `out` that cannot be written.
    """
    told, say = say, say or _warn
    _refuse_types(bundle, limit=limit, top=top, abstain_below=abstain_below, error_below=error_below)
    how = parse_reading_options(set)
    base, about = resolve_bundle(bundle, say)
    family = family_of(about["task"])
    threshold = choose_threshold(base, family, top, abstain_below, error_below)
    optional = family.optional_columns(about["input"])
    rows, source = family.rows_to_predict(data, about["input"]) or rows_to_predict(data, about["input"], family.converses, how, optional)
    values = [record.values for record in rows]
    if out is not None:
        prepare_output(Path(out), values, chat=family.generates, source=source, bundle=base.folder)
    model, objective = load_bundle(base)
    cuts = objective.cuts(rows)
    if any(cuts):
        say(_describe_cuts(cuts, objective.remedy_for_cuts()))
    if told is not None:
        expected = describe_threshold(base, abstain_below, error_below)
        if expected:
            told(expected)
    predictions = [postprocess(prediction, top, threshold) for prediction in family.predict(model, objective, rows, limit)]
    predictions = [
        {"row": record.row, **prediction, **({"cut": sum(text.lost for text in cut)} if cut else {})}
        for record, prediction, cut in zip(rows, predictions, cuts, strict=True)
    ]
    if out is not None:
        names = write_predictions(Path(out), values, [_as_columns(prediction, family.structured) for prediction in predictions])
        moved = next((name for name, column in names.items() if column != f"predicted_{name}"), None)
        if moved:
            say(f"the rows have columns named predicted_… already: the new ones end in {names[moved].removeprefix(f'predicted_{moved}')}")
    return predictions


def chat(bundle: str | os.PathLike[str], *, limit: int = 256, temperature: float = 0.0, say: Say | None = None) -> Conversation:
    """Open a conversation with a bundle or a base.

    Args:
        bundle: RUN/bundle, the run's folder, the run itself, an alias, or a decoder's name.
        limit: tokens an answer may have.
        temperature: 0 takes the likeliest token each time.
        say: told what a person should know; a warning where it is not given.

    Returns:
        Something to `say` to.

    Raises:
        LuthierError: it cannot write text.
    """
    from luthier.models.pretrained import load_generator, load_tokenizer
    from luthier.training.devices import configure_torch

    _refuse_types(bundle, limit=limit, temperature=temperature)
    configure_torch()
    base = resolve(os.fspath(bundle), say or _warn)
    if base.bundle is None:
        return Conversation(load_generator(base, 0.0).eval(), load_tokenizer(base), limit, temperature)
    family = family_of(base.bundle["task"])
    if not family.converses:
        what = "a classifier" if family.kind.classes else with_article(f"{family.name} model")
        raise ModelError(
            f"{bundle} is {what}: it does not hold conversations",
            'use `luthier predict BUNDLE "text"`',
        )
    model, objective = load_bundle(base)
    return Conversation(model, objective.tokenizer, limit, temperature)


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
        from luthier.models.generate import stream_answer

        self.messages.append({"role": "user", "content": text})
        tokens, _ = prompt(self.tokenizer, self.messages)
        answer = ""
        for piece in stream_answer(self.model, self.tokenizer, tokens, self.limit, self.temperature):
            answer += piece
            yield piece
        self.messages.append({"role": "assistant", "content": answer.strip() or "…"})


def _describe_cuts(cuts: Sequence[Sequence[Cut]], remedy: str) -> str:
    """How many rows were longer than what is read of them, and what to do about it.

    Args:
        cuts: of each row, some of which have some.
        remedy: settings with which more is read.
    """
    number, longest = sum(bool(cut) for cut in cuts), max(text.read for cut in cuts for text in cut)
    return (
        f"{number:,} of {plural(len(cuts), 'text')} {'was' if number == 1 else 'were'} longer than the {longest:,} tokens that the model reads: "
        f"the rest was left out (`cut` says how many tokens); to read more, train with {remedy}"
    )


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=3)


def _refuse_types(bundle: Any, **options: Any) -> None:
    """Refuse what is of another type than it must be, before anything is read.

    Args:
        bundle: as given.
        options: by their names; None is none.

    Raises:
        ExperimentError: one of them is.
    """
    if not isinstance(bundle, str | os.PathLike):
        raise ExperimentError(f"the bundle is {describe_value(bundle)}, which names no folder", "give the bundle first and the rows second: luthier.predict('RUN/bundle', rows)")  # fmt: skip
    for name, value in options.items():
        whole = name in ("limit", "top")
        if value is not None and (isinstance(value, bool) or not isinstance(value, int if whole else int | float)):
            raise ExperimentError(f"{name} is {value!r}, {describe_value(value)}, not a {'whole number' if whole else 'number'}", f"give it as {name}={'2' if whole else '0.8'}")  # fmt: skip


def _as_columns(prediction: dict[str, Any], structured: Sequence[str]) -> dict[str, Any]:
    """A prediction as columns of a file: what is one value already, and lists of such, joined; of the likeliest classes two columns each; what is `structured` stays as it is."""
    columns: dict[str, Any] = {}
    for name, value in prediction.items():
        if name == "row":
            continue
        if name in structured:
            columns[name] = value
        elif value is None or isinstance(value, str | int | float):
            columns[name] = round(value, 6) if name == "confidence" and isinstance(value, float) else value
        elif isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
            columns[name] = "; ".join(str(item) for item in value)
    for rank, candidate in enumerate(prediction.get("top", ()), 1):
        columns |= {f"top{rank}_label": candidate["label"], f"top{rank}_confidence": round(candidate["probability"], 6)}
    return columns
