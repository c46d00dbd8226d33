"""Rows that were not given as a file: written down once, so that whatever is done with them can be done again."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from luthier.core.errors import DataError, LuthierError
from luthier.core.finding import Finding
from luthier.core.interfaces import Reporter
from luthier.core.run import Run, write_file
from luthier.core.types import Step
from luthier.data.sources.frames import STDIN, describe_value, format_of, is_in_memory, json_lines, read_frame, read_stdin

P = ParamSpec("P")
R = TypeVar("R")
NAMES = ("data", "validation", "test")


@contextlib.contextmanager
def rows_in_run(folder: Path, *given: Any) -> Iterator[tuple[Any, ...]]:
    """Put rows in memory into the run's folder, which is made for them; files stay where they are.

    Where what follows fails before the run was begun, nothing of it stays.

    Args:
        folder: of the run, not yet made.
        given: the data and, where there are some, the validation and test rows: files, or rows in memory, or "-" for standard input.

    Yields:
        The run's folder where it had to be made, else None; and for each that was given a file.

    Raises:
        DataError: something that rows cannot be read from.
        RunError: the folder is in use.
    """
    contents = [_read_given(value, name) for name, value in zip(NAMES, given, strict=False)]
    if not any(contents):
        yield None, *given
        return
    fresh = not folder.exists()
    run = Run.create(folder)
    try:
        yield run, *(_store(folder, content) if content else value for content, value in zip(contents, given, strict=True))
    except BaseException:
        if not (folder / "experiment.yaml").exists():
            for content in filter(None, contents):
                (folder / content[0]).unlink(missing_ok=True)
            if fresh:
                with contextlib.suppress(OSError):
                    folder.rmdir()
        raise


def accepts_frames(verb: Callable[P, R]) -> Callable[P, R]:
    """Let a verb that leaves no folder take rows in memory as `data`, `validation` and `test`: they are in a temporary file while it works."""

    @functools.wraps(verb)
    def with_files(*words: P.args, **options: P.kwargs) -> R:
        arguments: dict[str, Any] = dict(options)
        if not words and "data" not in arguments:
            return verb(*words, **options)  # which says what is missing
        data = words[0] if words else arguments["data"]
        given = (data, arguments.get("validation"), arguments.get("test"))
        with rows_for_now(*given) as (rows, *others):
            names = {str(file): _describe_given(value) for file, value in zip((rows, *others), given, strict=True) if file is not value}
            if names and arguments.get("reporter") is not None:
                arguments["reporter"] = _WithNames(arguments["reporter"], names)
            arguments.update({name: other for name, other in zip(NAMES[1:], others, strict=True) if name in arguments})
            return cast(Any, verb)(rows, *words[1:], **{name: value for name, value in arguments.items() if name != "data"})

    return with_files


class _WithNames:
    """A reporter that calls rows in memory what they are, for their file is ours and gone when a person reads of it.

    Args:
        shown: that shows the progress.
        names: of each temporary file, what was given.
    """

    def __init__(self, shown: Reporter, names: Mapping[str, str]) -> None:
        self.shown, self.names = shown, names

    def _rename(self, text: str) -> str:
        for file, name in self.names.items():
            text = text.replace(file, name)
        return text

    def stage(self, name: str, detail: str = "") -> None:
        """A part of the way begins."""
        self.shown.stage(name, self._rename(detail))

    def say(self, line: str) -> None:
        """Something a person should read."""
        self.shown.say(self._rename(line))

    def finding(self, finding: Finding) -> None:
        """An analysis has spoken."""
        self.shown.finding(finding.model_copy(update={"claim": self._rename(finding.claim), "remedy": self._rename(finding.remedy)}))

    def step(self, step: Step) -> None:
        """An optimizer step has happened."""
        self.shown.step(step)

    def evaluation(self, step: int, measured: dict[str, float], best: bool) -> None:
        """The validation rows were evaluated."""
        self.shown.evaluation(step, measured, best)


@contextlib.contextmanager
def rows_for_now(*given: Any) -> Iterator[tuple[Any, ...]]:
    """Put rows in memory into a temporary file, for verbs that leave no folder.

    Args:
        given: as for `rows_in_run`.

    Yields:
        For each of them a file.

    Raises:
        DataError: something that rows cannot be read from.
    """
    contents = [_read_given(value, name) for name, value in zip(NAMES, given, strict=False)]
    if not any(contents):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="luthier-") as scratch:
        try:
            yield tuple(_store(Path(scratch), content) if content else value for content, value in zip(contents, given, strict=True))
        except LuthierError as problem:  # the file is ours, and gone when a person reads of it
            for value, content in zip(given, contents, strict=True):
                if content:
                    problem.message = problem.message.replace(str(Path(scratch) / content[0]), _describe_given(value))
            raise


def _read_given(value: Any, name: str) -> tuple[str, bytes] | None:
    """The name and content of the file that holds what was given; None where a file was given."""
    if value is None or not (is_in_memory(value) or str(value) == STDIN):
        return None
    if not is_in_memory(value):
        content = read_stdin()
        return f"{name}.{format_of(content)}", content
    rows = read_frame(value)
    if isinstance(value, dict) or not rows:
        raise DataError(f"{describe_value(value)} holds {len(rows)} rows", "give a file, a data frame, or a list of dicts, one a row")
    return f"{name}.jsonl", json_lines(rows).encode()


def _describe_given(value: Any) -> str:
    """What was given, for a person."""
    return f"the {type(value).__name__}" if is_in_memory(value) else "standard input"


def _store(folder: Path, content: tuple[str, bytes]) -> Path:
    write_file(folder / content[0], content[1])
    return folder / content[0]
