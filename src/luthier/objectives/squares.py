"""Images as squares of pixels: how they are decoded, changed for a step, and described in a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field, field_validator

from luthier.core.component import Component
from luthier.core.errors import DataError
from luthier.core.extras import require_extra
from luthier.core.types import Example, Record
from luthier.data.archives import on_disk
from luthier.data.sources.images import DECODING, MEMORY, SECONDS
from luthier.data.sources.sandbox import read_each
from luthier.objectives.objective import BaseObjective

if TYPE_CHECKING:
    from luthier.models.base import Base
    from luthier.models.kernels.shared_library import CompiledCode

NETWORKS = ("resnet", "efficientnet_lite", "cifar_resnet")
"""Whose batch norms and pooling there is compiled code for."""
FEWEST_PIXELS = 8
"""Side that the network needs."""
UNIT = 64
"""Pixels that count as one in what an image costs: a step's rows then cost about what rows of text do."""

READER = (
    DECODING
    + """
from PIL import ImageOps
side, mode = int(sys.argv[2]), sys.argv[3]
for line in sys.stdin:
    try:
        with opened(json.loads(line)) as image:
            turned = eight_bits(ImageOps.exif_transpose(image))
            small = turned.convert("RGB").convert(mode).resize((side, side), Image.Resampling.BILINEAR)
        said = {"bytes": small.tobytes().hex()}
    except BaseException as problem:
        said = {"why": why(problem, json.loads(line))[:300]}
    print(json.dumps(said), flush=True)
"""
)
"""Decodes images in a process of its own, turned as the camera says, and makes squares of them."""


class ReadSquares(Component):
    """The hyperparameters of what is read of images."""

    side: int = Field(
        default=0,
        ge=0,
        le=512,
        description="Pixels of the square that every image is made into, 8 or more; 0 takes 64, or 32 where most training images are smaller than 48 (of classes and numbers: and fewer than 10,000).",
    )
    colour: Literal["auto", "grey", "rgb"] = Field(
        default="auto", description="What is read of an image; auto is grey where all training images are stored as grey ones."
    )

    @field_validator("side")
    @classmethod
    def _wide_enough(cls, side: int) -> int:
        if 0 < side < FEWEST_PIXELS:
            raise ValueError(f"the network needs {FEWEST_PIXELS} pixels or more")
        return side

    @property
    def channels(self) -> int:
        """Numbers that a pixel has."""
        return 1 if self.colour == "grey" else 3


class SquaresSpec(ReadSquares):
    """The same, and those of a small ResNet that is made from scratch."""

    width: int = Field(default=32, ge=4, le=512, description="Channels of the first stage; each further stage has twice as many.")
    depth: int = Field(default=1, ge=1, le=16, description="Residual layers of each stage, of two convolutions each.")

    def compiled_code(self, base: Base | None) -> CompiledCode | None:
        """Compiled code that stands in for torch's operations in its steps on a processor: what lies between the convolutions of the networks that are known there."""
        from luthier.models.kernels import image_kernels

        return image_kernels.OWN if base is None or base.family in NETWORKS else None


def decode(records: Sequence[Record], column: str, side: int, channels: int) -> list[np.ndarray]:
    """The images that rows name, as squares, # each (side, side, channels) of uint8

    Args:
        records: rows.
        column: that names the files.
        side: of the squares, in pixels.
        channels: 1 or 3.

    Raises:
        DataError: Pillow is not installed, or an image cannot be decoded; the message names its row.
    """
    if not records:
        return []
    require_extra("PIL", "reading images", DataError)
    places = [place_of(record, column) for record in records]
    images = []
    for record, answer in zip(records, read_each(READER, places, SECONDS, MEMORY, str(side), "L" if channels == 1 else "RGB"), strict=True):
        if "why" in answer:
            where = f"{record.source}, " if record.source else ""
            raise DataError(
                f"{where}row {record.row}: {record.values[column]} cannot be read: {answer['why']}",
                "look at the file; was it changed or moved since the rows were read?",
            )
        images.append(np.frombuffer(bytes.fromhex(answer["bytes"]), dtype=np.uint8).reshape(side, side, channels))
    return images


def view(objective: BaseObjective, example: Example, seed: int, step: int) -> np.ndarray:
    """An image as it is learned from in this step, changed where the experiment asks for it, # (side, side, channels) of uint8

    Args:
        objective: says what is changed.
        example: with `inputs["pixels"]`.
        seed: of the experiment.
        step: counted from 0, or `HELD_OUT`.
    """
    pixels, augment = example.inputs["pixels"], objective.augment
    if augment is None or not objective.changes(step) or not augment.changes(seed, step, example.index):
        return pixels
    channels = pixels.shape[2]
    coloured = np.repeat(pixels, 3, axis=2) if channels == 1 else pixels
    return augment.images.view(np.ascontiguousarray(coloured), seed, step, example.index)[:, :, :channels]


def place_of(record: Record, column: str) -> Path:
    """The file that a row names: from its table's folder, or from the folder or the .npz file that was read."""
    source = on_disk(Path(record.source))
    if source.suffix.lower() == ".npz":
        return source / str(record.values[column])
    return (source if source.is_dir() or not record.source else source.parent) / str(record.values[column])
