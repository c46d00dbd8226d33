"""How a base's images are read: the side of its squares, and by what a pixel is shifted and scaled; as transformers writes it beside the weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILE = "preprocessor_config.json"
HALF = 0.5
"""Of a pixel from 0 to 1: its middle, and what brings it to lie between -1 and 1."""


@dataclass(frozen=True)
class Preprocessing:
    """What is made of an image before a network reads it.

    Args:
        side: of the squares, in pixels; 0 where nobody says.
        channels: 1 or 3.
        mean: of each channel, of pixels from 0 to 1, which is taken away.
        deviation: by which each channel is divided then.
    """

    side: int
    channels: int
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name in ("mean", "deviation"):
            object.__setattr__(self, name, tuple(getattr(self, name)) or (HALF,) * self.channels)

    @property
    def plain(self) -> bool:
        """Whether pixels come to lie between -1 and 1."""
        return {*self.mean, *self.deviation} == {HALF}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write preprocessor_config.json."""
        about = {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": self.side, "width": self.side},
            "resample": 2,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.deviation),
            "do_convert_rgb": self.channels == 3,
        }
        (Path(folder) / FILE).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n")


def read_preprocessing(folder: Path) -> Preprocessing:
    """How the images of a base are read; where its folder does not say, pixels lie between -1 and 1.

    Args:
        folder: of the base.
    """
    config = json.loads((folder / "config.json").read_text())
    channels = int(config.get("num_channels") or 3)
    file = folder / FILE
    about: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    size: Any = about.get("size") or config.get("image_size") or 0
    if isinstance(size, dict):
        size = size.get("height") or size.get("shortest_edge") or 0
    mean, deviation = (tuple(float(value) for value in about.get(name) or ()) for name in ("image_mean", "image_std"))
    fits = len(mean) == len(deviation) == channels and all(deviation)
    return Preprocessing(int(size), channels, *((mean, deviation) if fits else ((), ())))
