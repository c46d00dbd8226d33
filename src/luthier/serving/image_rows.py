"""Images that come as base64: checked when they arrive, files for the time of a prediction, and nothing afterwards."""

from __future__ import annotations

import base64
import binascii
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError
from luthier.core.types import Record
from luthier.serving.prediction_queue import Predict

BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF87a", ".gif"), (b"GIF89a", ".gif"), (b"BM", ".bmp"), (b"RIFF", ".webp"),
)  # fmt: skip
"""How the files of each format begin."""


def read_images(rows: Sequence[dict[str, Any]], column: str) -> list[Record]:
    """Rows whose images are base64, or a `data:` URL of it, as rows that hold their bytes.

    A name of a file and an address are refused: the server opens no file and fetches nothing that a client names.

    Args:
        rows: as they were sent.
        column: that holds the image.

    Raises:
        DataError: a row holds no image.
    """
    records = []
    for number, row in enumerate(rows, 1):
        text = row.get(column)
        where = f"row {number}: {column}"
        if not isinstance(text, str) or not text:
            raise DataError(f"{where} holds no image", "send the file's content as base64")
        if text.startswith("data:"):
            head, _, text = text.partition(",")
            if not head.endswith(";base64"):
                raise DataError(f"{where} is a data: URL without base64", "send data:image/png;base64,…")
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise DataError(
                f"{where} is not base64", "send the file's content as base64; names of files and addresses are not opened"
            ) from None
        if not any(content.startswith(begin) for begin, _ in BEGINNINGS):
            raise DataError(
                f"{where} is no PNG, JPEG, GIF, BMP or WebP image",
                "send the file's content as base64; names of files and addresses are not opened",
            )
        records.append(Record(number, {column: content}))
    return records


def predict_images(predict: Predict, column: str) -> Predict:
    """A family's `predict` for rows that hold the bytes of their images.

    Args:
        predict: the family's, for rows that name files.
        column: that holds the image.
    """

    def from_bytes(records: Sequence[Record], limit: int) -> list[dict[str, Any]]:
        with tempfile.TemporaryDirectory(prefix="luthier-images-") as folder:
            rows = []
            for index, record in enumerate(records):
                content = record.values[column]
                ending = next(ending for begin, ending in BEGINNINGS if content.startswith(begin))
                (Path(folder) / f"{index}{ending}").write_bytes(content)
                rows.append(Record(record.row, {column: f"{index}{ending}"}, folder))
            try:
                return predict(rows, limit)
            except DataError as problem:
                raise DataError(problem.message.replace(f"{folder}, ", "").replace(f"{folder}/", "").strip(), "look at the image") from None

    return from_bytes
