"""Images as base64: what they may be, and that nothing of them stays."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.core.errors import DataError
from luthier.core.pictures import as_data, png
from luthier.objectives.squares import place_of
from luthier.serving.image_rows import predict_images, read_images

IMAGE = png(as_data("x", np.full((4, 4, 3), 7, dtype=np.uint8)))


@pytest.mark.parametrize(
    "sent",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "http://169.254.169.254/latest",
        "../x.png",
        "data:image/png,plain",
        base64.b64encode(b"<svg onload=x>").decode(),
        "",
        None,
        7,
        ["x"],
        "=" * 8,
    ],
)
def test_only_base64_of_an_image_is_read(sent: Any) -> None:
    with pytest.raises(DataError, match="row 1: image"):
        read_images([{"image": sent}], "image")


def test_images_are_files_for_the_time_of_a_prediction() -> None:
    coded = base64.b64encode(IMAGE).decode()
    rows = read_images([{"image": coded}, {"image": f"data:image/png;base64,{coded}"}], "image")
    seen: list[Path] = []

    def predict(records: Any, limit: int) -> list[dict[str, Any]]:
        seen.extend(place_of(record, "image") for record in records)
        return [{"bytes": place.read_bytes()} for place in seen]

    assert predict_images(predict, "image")(rows, 1) == [{"bytes": IMAGE}] * 2
    assert [place.suffix for place in seen] == [".png", ".png"]
    assert not any(place.exists() or place.parent.exists() for place in seen)


def test_a_message_about_an_image_names_no_folder() -> None:
    def predict(records: Any, limit: int) -> list[dict[str, Any]]:
        raise DataError(f"{records[0].source}, row 1: {place_of(records[0], 'image')} cannot be read: cut off")

    with pytest.raises(DataError) as problem:
        predict_images(predict, "image")(read_images([{"image": base64.b64encode(IMAGE).decode()}], "image"), 1)
    assert "/" not in problem.value.message
    assert "cannot be read: cut off" in problem.value.message
