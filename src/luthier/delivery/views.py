"""An image beside its changed views, as one self-contained page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.run import write_file


def write_views(path: Path, name: str, picture: np.ndarray, views: Sequence[np.ndarray], fields: Mapping[str, Any]) -> Path:
    """Write the page.

    Args:
        path: where; an older page is replaced.
        name: of the image.
        picture: as it is, # (height, width, 3) of uint8
        views: as it is learned from, each of the same size.
        fields: what the views were made with.
    """
    style = (files("luthier.delivery") / "report.css").read_text()
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    said = ", ".join(f"augment.images.{field}={value}" for field, value in fields.items())
    title = html.escape(name)
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}"><link rel="icon" href="data:,">
<title>{title} · views by Luthier</title><style>{style}</style></head>
<body><header><p class="brand">Luthier</p><h1>{title}</h1></header>
<main><section><h2>As it is</h2><p>{_drawn(picture, "the image")}</p></section>
<section><h2>As it is learned from</h2><p class="about">{html.escape(said)}</p>
<p>{" ".join(_drawn(view, f"view {number}") for number, view in enumerate(views, 1))}</p></section></main></body></html>
"""
    write_file(path, page)
    return path


def _drawn(picture: np.ndarray, alt: str) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
