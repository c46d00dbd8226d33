"""Rows of text in columns, as a terminal shows them."""

from __future__ import annotations

from collections.abc import Sequence


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int | None = None) -> list[str]:
    """Rows of text in columns; a column that is empty everywhere is left out.

    Args:
        head: the columns' names.
        rows: as many cells each.
        width: of the terminal, to which lines are cut; None cuts nothing.
    """
    from luthier.app.reporters import clean

    columns = [index for index in range(len(head)) if any(row[index] for row in rows)]
    lines = [[head[index] for index in columns], *([clean(row[index]).replace("\n", " ") for index in columns] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    table = ["  ".join(cell.ljust(space) for cell, space in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [line if width is None or len(line) <= width else line[: width - 1] + "…" for line in table]
