"""An image beside its changed views, as one self-contained page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.run import AGAIN, write_file
from luthier.delivery.page import page, section, text


def write_views(path: Path, name: str, picture: np.ndarray, views: Sequence[np.ndarray], fields: Mapping[str, Any]) -> Path:
    """Write the page.

    Args:
        path: where; an older page is replaced.
        name: of the image.
        picture: as it is, # (height, width, 3) of uint8
        views: as it is learned from, each of the same size.
        fields: what the views were made with.
    """
    settings = ", ".join(f"augment.images.{field}={value}" for field, value in fields.items())
    pictures = " ".join(_draw(view, f"view {number}") for number, view in enumerate(views, 1))
    body = section("As it is", f"<p>{_draw(picture, 'the image')}</p>") + section(
        "As it is learned from", f"<p>{pictures}</p>", text(settings)
    )
    write_file(path, page(f"{name} · views by Luthier", name, "", body), AGAIN)
    return path


def _draw(picture: np.ndarray, alt: str) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return f'<img alt="{alt}" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'
