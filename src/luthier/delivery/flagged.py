"""The rows that the checks flagged, as one self-contained page to browse."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from luthier.core.finding import Finding
from luthier.core.pictures import data_url
from luthier.core.run import AGAIN, write_file
from luthier.data.dataset import Dataset
from luthier.delivery.page import page, text


def write_flagged(path: Path, dataset: Dataset, findings: list[Finding]) -> Path:
    """Write the page.

    Args:
        path: where; an older page is replaced.
        dataset: the rows.
        findings: the weightiest first.
    """
    name = Path(dataset.spec.path).name
    listed = "".join(
        f'<li class="{finding.severity}"><a href="#f{number}">{text(finding.claim)}</a></li>' for number, finding in enumerate(findings)
    )
    counts = ", ".join(f"{len(rows):,} {part}" for part, rows in dataset.records.items())
    body = f"""<section><h2>{len(findings)} findings</h2><p class="about">{text(dataset.reason)}; {counts}; {len(dataset.rejected):,} set aside</p>
<ul class="findings">{listed}</ul></section>
{"".join(_section(number, finding) for number, finding in enumerate(findings))}"""
    write_file(path, page(f"{name} · checked by Luthier", name, "checked", body), AGAIN)
    return path


def _picture(row: dict[str, Any]) -> str:
    """The small grey picture of an image, where the row is one."""
    if "thumbnail" not in row:
        return ""
    side = math.isqrt(len(row["thumbnail"]) // 2)
    picture = {"width": side, "height": side, "channels": 1, "bytes": row["thumbnail"]}
    return f'<img alt="" width="64" height="64" src="{data_url(picture)}"> '


def _section(number: int, finding: Finding) -> str:
    rows = finding.evidence.get("rows", [])
    examples = rows if isinstance(rows, list) and rows and isinstance(rows[0], dict) else []
    more = (
        ""
        if not examples or len(examples) == finding.evidence["count"]
        else f" The first {len(examples)} of {finding.evidence['count']:,} are shown."
    )
    body = "".join(
        f"<tr><td>{text(Path(row['file']).name)}:{row['line']}</td><td>{text(row['part'])}</td><td>{text(row.get('note', ''))}</td>"
        f"<td>{text(row['label'])}</td><td>{_picture(row)}{text(row['text'])}</td></tr>"
        for row in examples
    )
    head = "<tr><th>row</th><th>part</th><th>why</th><th>label</th><th>text</th></tr>"
    table = (
        f'<details open><summary>the rows</summary><div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div></details>'
        if examples
        else ""
    )
    return f'<section id="f{number}" class="{finding.severity}"><h2>{text(finding.claim)}</h2><p class="about">{text(finding.remedy)}{more}</p>{table}</section>'
