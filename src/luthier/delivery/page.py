"""What every page shares: one self-contained file, its own style, nothing fetched, foreign text always text."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from luthier.core.finding import Finding


def page(title: str, heading: str, soft: str, body: str, footer: str = "") -> str:
    """A whole page.

    Args:
        title: of the window; text.
        heading: text.
        soft: goes on behind the heading, less loud; text.
        body: HTML.
        footer: HTML.
    """
    style = (files("luthier.delivery") / "report.css").read_text()
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    behind = f' <span class="soft">{text(soft)}</span>' if soft else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}"><link rel="icon" href="data:,">
<title>{text(title)}</title><style>{style}</style></head>
<body><header><p class="brand">Luthier</p><h1>{text(heading)}{behind}</h1></header>
<main>{body}</main>{f"<footer>{footer}</footer>" if footer else ""}
</body></html>
"""


def text(value: Any) -> str:
    """A value as text in HTML."""
    return html.escape(str(value))


def section(title: str, body: str, about: str = "") -> str:
    """A part of a page; title, body and about are HTML."""
    note = f'<p class="about">{about}</p>' if about else ""
    return f"<section><h2>{title}</h2>{note}{body}</section>"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Rows of text under a head."""
    top = "".join(f"<th>{text(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{_keep_units(text(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _keep_units(cell: str) -> str:
    """The same with a number and its unit in one line."""
    return re.sub(r"(?<=[0-9]) (?=(%|points)(?![a-z]))", "\u00a0", cell)


def collapsible(summary: str, body: str) -> str:
    """A part that is closed until somebody opens it; both are HTML."""
    return f"<details><summary>{summary}</summary>{body}</details>"


PARTS = (
    "train",
    "training",
    "validation",
    "valid",
    "dev",
    "test",
    "data",
    "dataset",
    "rows",
    "table",
    "examples",
    "samples",
    "all",
    "output",
    "export",
)
"""Names of files that say nothing about what is in them."""


def title_of(path: str) -> str:
    """What a page about a data set is called: the file's name, or the folder's where the file's says nothing ("train.csv").

    Args:
        path: of the data.
    """
    file = Path(path)
    stem = file.name.split(".")[0] or file.name
    if stem.lower() not in PARTS:
        return stem
    return next((part for part in reversed(file.absolute().parent.parts) if part != file.anchor and part.lower() not in PARTS), stem)


def findings(found: Sequence[Finding]) -> str:
    """What the analyses said, as a section."""
    items = "".join(
        f'<li class="{finding.severity}"><b>{text(finding.claim)}</b>{f"<br>→ {text(finding.remedy)}" if finding.remedy else ""}</li>'
        for finding in found
    )
    return section("Findings", f'<ul class="findings">{items}</ul>')
