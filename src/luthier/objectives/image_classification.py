"""Image classification: one class an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field, field_validator

from luthier.core.component import Component
from luthier.core.errors import DataError
from luthier.core.extras import require_extra
from luthier.core.types import Batch, Example, Record
from luthier.data.sources.images import DECODING, MEMORY, SECONDS
from luthier.data.sources.sandbox import read_each
from luthier.objectives.classification import ClassificationObjective
from luthier.objectives.objective import BaseObjective

if TYPE_CHECKING:
    import torch
    from torch import nn

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
        with Image.open(json.loads(line)) as image:
            turned = eight_bits(ImageOps.exif_transpose(image))
            small = turned.convert("RGB").convert(mode).resize((side, side), Image.Resampling.BILINEAR)
        said = {"bytes": small.tobytes().hex()}
    except BaseException as problem:
        said = {"why": why(problem, json.loads(line))[:300]}
    print(json.dumps(said), flush=True)
"""
)
"""Decodes images in a process of its own, turned as the camera says, and makes squares of them."""


class ImageClassification(Component):
    """Learn the class of an image."""

    kind: Literal["image_classification"] = "image_classification"
    labels: tuple[str, ...] = Field(default=(), description="The classes, in order; taken from the training rows when empty.")
    side: int = Field(
        default=0,
        ge=0,
        le=512,
        description="Pixels of the square that every image is made into, 8 or more; 0 takes 64, or 32 where most training images are smaller than 48.",
    )
    colour: Literal["auto", "grey", "rgb"] = Field(
        default="auto", description="What is read of an image; auto is grey where all training images are stored as grey ones."
    )
    width: int = Field(default=32, ge=4, le=512, description="Channels of the first stage; each further stage has twice as many.")
    depth: int = Field(default=1, ge=1, le=16, description="Residual layers of each stage, of two convolutions each.")
    class_weights: Literal["none", "balanced"] = Field(
        default="none", description="balanced: a class counts by the inverse of its share, as scikit-learn's."
    )
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, description="Share of the target spread evenly over all classes.")

    @field_validator("side")
    @classmethod
    def _wide_enough(cls, side: int) -> int:
        if 0 < side < FEWEST_PIXELS:
            raise ValueError(f"the network needs {FEWEST_PIXELS} pixels or more")
        return side

    def open(self, processor: Any, input: tuple[str, ...], target: str) -> ImageClassificationObjective:
        """The objective at work.

        Args:
            processor: what is written of images into a bundle.
            input: the column that names the files.
            target: the column that is learned.
        """
        return ImageClassificationObjective(cast(Any, self), processor, input, target)

    @property
    def channels(self) -> int:
        """Numbers that a pixel has."""
        return 1 if self.colour == "grey" else 3


class ImageClassificationObjective(ClassificationObjective):
    """See `ImageClassification`; loss, weights and scores are those of any classifier."""

    varies = "images"
    splits = False
    """What an image teaches depends on the images beside it: a batch norm is in the network."""

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Decode the images and make squares of them, # pixels: (side, side, channels) of uint8

        Raises:
            DataError: Pillow is not installed, or an image cannot be decoded; the message names its row.
        """
        number = {label: position for position, label in enumerate(self.spec.labels)}
        found = []
        for position, (record, pixels) in enumerate(
            zip(records, decode(records, self.input[0], self.spec.side, self.spec.channels), strict=True)
        ):
            target = number.get(str(record.values.get(self.target or "")), -1)
            found.append(
                Example(
                    index=position,
                    inputs={"pixels": pixels},
                    target=target,
                    record=record,
                    size=max(1, self.spec.side**2 // UNIT),
                    units=float(target >= 0),
                    stratum=target,
                    facts={"labels": self.spec.labels},
                )
            )
        return found

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """The images of a step, some of them changed where the experiment asks for it, # pixels: (examples, channels, side, side)"""
        import torch

        pixels = np.stack([view(self, example, seed, step) for example in examples])
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([example.size for example in examples]),
            flat={},
            each={
                "pixels": torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))),
                "target": torch.tensor([example.target for example in examples]),
            },
        )

    def prompt_tokens(self, example: Example) -> tuple[int, ...]:
        """An image has no tokens."""
        return ()

    def reference_loss(self, model: nn.Module, example: Example) -> torch.Tensor | None:
        """The loss by transformers' own forward pass, which is given labels and an image from -1 to 1."""
        import torch

        from luthier.models.modes import eval_mode

        weight = next(model.parameters())
        pixels = torch.tensor(example.inputs["pixels"], device=weight.device).permute(2, 0, 1)[None].float()
        with eval_mode(model), torch.no_grad():
            said = cast(Any, model).network(pixel_values=((pixels - 127.5) / 127.5).to(weight.dtype)).logits.float()
        return torch.nn.functional.cross_entropy(said, torch.tensor([example.target], device=weight.device))


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
    found = []
    for record, said in zip(records, read_each(READER, places, SECONDS, MEMORY, str(side), "L" if channels == 1 else "RGB"), strict=True):
        if "why" in said:
            where = f"{record.source}, " if record.source else ""
            raise DataError(
                f"{where}row {record.row}: {record.values[column]} cannot be read: {said['why']}",
                "look at the file; was it changed or moved since the rows were read?",
            )
        found.append(np.frombuffer(bytes.fromhex(said["bytes"]), dtype=np.uint8).reshape(side, side, channels))
    return found


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


class Squares:
    """What a bundle says of how images are read, in the words of transformers.

    Args:
        side: of the squares.
        channels: 1 or 3.
    """

    def __init__(self, side: int, channels: int) -> None:
        self.side, self.channels = side, channels

    def save_pretrained(self, folder: str | Path) -> None:
        """Write preprocessor_config.json."""
        import json

        middle = [0.5] * self.channels
        about = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": self.side, "width": self.side},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": middle,
            "image_std": middle,
            "do_convert_rgb": self.channels == 3,
        }
        (Path(folder) / "preprocessor_config.json").write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")


def place_of(record: Record, column: str) -> Path:
    """The file that a row names: from its table's folder, or from the folder that was read."""
    source = Path(record.source)
    return (source if source.is_dir() or not record.source else source.parent) / str(record.values[column])
