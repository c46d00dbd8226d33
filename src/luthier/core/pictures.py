"""Small pictures as data that JSON holds, and as PNG files: no library is needed."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np


def as_data(name: str, pixels: np.ndarray) -> dict[str, Any]:
    """A picture as a JSON file can hold it.

    Args:
        name: what it shows.
        pixels: grey or red, green, blue, # (height, width, 1 or 3) of uint8
    """
    height, width, channels = pixels.shape
    return {"name": name, "height": height, "width": width, "channels": channels, "bytes": np.ascontiguousarray(pixels).tobytes().hex()}


def png(picture: Mapping[str, Any]) -> bytes:
    """A picture of `as_data` as a PNG file.

    Source: W3C 2003, "Portable Network Graphics (PNG) Specification", sections 5 and 11.

    Args:
        picture: with `width`, `height`, `channels` and `bytes`.
    """
    raw = bytes.fromhex(picture["bytes"])
    line = picture["width"] * picture["channels"]
    lines = b"".join(b"\0" + raw[start : start + line] for start in range(0, len(raw), line))
    colour = 0 if picture["channels"] == 1 else 2
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", picture["width"], picture["height"], 8, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def data_url(picture: Mapping[str, Any]) -> str:
    """A picture of `as_data` as the `src` of an image in a page."""
    return f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"
