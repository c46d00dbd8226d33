"""What families share that learn from texts alone: rows are recognised only where a person insists, and text files are documents."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from luthier.core.errors import DataError
from luthier.data.infer import find_text
from luthier.data.row_files import format_of, plain_stem
from luthier.data.row_reader import Columns, RowKind
from luthier.data.rows import Rows
from luthier.data.sources.passages import POSITION
from luthier.data.sources.texts import ENDINGS, texts_in
from luthier.data.spec import Data
from luthier.families.family import Family

PASSAGES = "passages"
"""How text files are read: see `data.sources.passages`."""


class TextsFamily(Family):
    """A family whose rows are texts without a target."""

    kind = RowKind("text", "nothing", english_base=False)

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """Any texts, where a person insists: a label, where there is one, is not read."""
        if asked.task != self.name:
            return None
        if asked.target:
            raise DataError(f"{path}: {self.name} learns from the texts alone, and --target {asked.target} was given", "leave --target out")
        input, why = (asked.input, "task and columns as given") if asked.input else find_text(rows, path, None, ())
        return Columns(self.name, input, None, why)


class CorpusFamily(TextsFamily):
    """One that also reads text files and folders of them, whose long documents are cut into passages."""

    def file_format(self, path: Path) -> str | None:
        """Text files, and folders of them, are documents; tables are read as ever."""
        if path.is_dir():
            tables = any(plain_stem(file) == "train" and format_of(file) and file.suffix.lower() != ".txt" for file in path.iterdir())
            return PASSAGES if not tables and texts_in(path) else None
        return PASSAGES if path.suffix.lower() in ENDINGS and path.is_file() else None

    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """As of any texts; of passages the last ones of each document are tested."""
        columns = super().match(rows, path, asked)
        passages = asked.format == PASSAGES and POSITION in rows.columns
        return replace(columns, time=POSITION) if columns is not None and passages else columns


def refuse_empty_tokens(held: int, asked: int) -> None:
    """Refuse a vocabulary of which most tokens would never occur: a network would have rows for them that nothing is learned of.

    Args:
        held: tokens that the training texts have.
        asked: tokens that were asked for.

    Raises:
        DataError: fewer than half of them are there.
    """
    if held < asked // 2:
        raise DataError(
            f"the training texts hold {held:,} different tokens, and objective.vocabulary={asked} were asked for",
            f"give more text, or set objective.vocabulary={held}",
        )
