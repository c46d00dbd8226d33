"""Changed views of an image, new in each step: a pure function of seed, step and row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field

from luthier.core.component import Component
from luthier.core.randomness import mix


class ImageViews(Component):
    """What happens to the share of images that `augment.share` changes; each in this order, each with its own draw.

    Source: Szegedy et al. 2015, section 6 (crop); Müller & Hutter 2021, "TrivialAugment".
    """

    flip: float = Field(
        default=0.5, ge=0, le=1, description="Chance that a changed image is mirrored left to right; 0 where left and right mean something."
    )
    crop: float = Field(default=0.7, gt=0, le=1, description="Smallest share of its area that is cut out and enlarged; 1 keeps all of it.")
    colour: float = Field(default=0.2, ge=0, lt=1, description="By how much brightness, contrast and saturation vary, up and down.")
    trivial: float = Field(default=0.0, ge=0, le=1, description="Chance of one more operation, drawn with its strength (TrivialAugment).")

    def view(self, picture: np.ndarray, seed: int, step: int, row: int) -> np.ndarray:
        """The image as it is learned from in this step.

        Args:
            picture: red, green, blue, # (height, width, 3) of uint8
            seed: of the experiment.
            step: counted from 0.
            row: the example's number.

        Returns:
            another of the same size
        """
        from PIL import Image

        def draws(what: str, count: int) -> list[float]:
            return (mix(seed, "image", step, row, what, np.arange(count)) / 2.0**64).tolist()

        image = Image.fromarray(picture)
        if draws("flip", 1)[0] < self.flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if self.crop < 1:
            image = _crop(image, self.crop, *draws("crop", 4))
        if self.colour:
            for name, draw in zip(("Brightness", "Contrast", "Color"), draws("colour", 3), strict=True):
                image = _enhance(image, name, 1 + self.colour * (2 * draw - 1))
        chance, which, strength, sign = draws("trivial", 4)
        if chance < self.trivial:
            operation = list(OPERATIONS.values())[int(which * len(OPERATIONS))]
            image = operation(image, strength, 1 if sign < 0.5 else -1)
        return np.asarray(image)


def _crop(image: Any, least: float, area: float, shape: float, left: float, top: float) -> Any:
    """A part of the image in its whole size; its sides are in proportion from 3:4 to 4:3."""
    from PIL import Image

    share = least + (1 - least) * area
    ratio = (4 / 3) ** (2 * shape - 1)
    width = max(1, min(image.width, round(image.width * (share * ratio) ** 0.5)))
    height = max(1, min(image.height, round(image.height * (share / ratio) ** 0.5)))
    x, y = int(left * (image.width - width + 1)), int(top * (image.height - height + 1))
    return image.resize(image.size, Image.Resampling.BILINEAR, box=(x, y, x + width, y + height))


def _enhance(image: Any, name: str, factor: float) -> Any:
    from PIL import ImageEnhance

    return getattr(ImageEnhance, name)(image).enhance(factor)


def _transform(image: Any, across: float, down: float, shear_x: float = 0.0, shear_y: float = 0.0) -> Any:
    from PIL import Image

    return image.transform(
        image.size, Image.Transform.AFFINE, (1, shear_x, across, shear_y, 1, down), Image.Resampling.BILINEAR, fillcolor=(128, 128, 128)
    )


def _solarize(image: Any, strength: float) -> Any:
    from PIL import ImageOps

    return ImageOps.solarize(image, round(256 * (1 - strength)))


def _posterize(image: Any, strength: float) -> Any:
    from PIL import ImageOps

    return ImageOps.posterize(image, 8 - round(6 * strength))


def _equalize(image: Any, how: str) -> Any:
    from PIL import ImageOps

    return getattr(ImageOps, how)(image)


OPERATIONS: dict[str, Callable[[Any, float, int], Any]] = {
    "identity": lambda image, strength, sign: image,
    "autocontrast": lambda image, strength, sign: _equalize(image, "autocontrast"),
    "equalize": lambda image, strength, sign: _equalize(image, "equalize"),
    "rotate": lambda image, strength, sign: image.rotate(sign * 135 * strength, fillcolor=(128, 128, 128)),
    "solarize": lambda image, strength, sign: _solarize(image, strength),
    "posterize": lambda image, strength, sign: _posterize(image, strength),
    "color": lambda image, strength, sign: _enhance(image, "Color", 1 + sign * 0.99 * strength),
    "contrast": lambda image, strength, sign: _enhance(image, "Contrast", 1 + sign * 0.99 * strength),
    "brightness": lambda image, strength, sign: _enhance(image, "Brightness", 1 + sign * 0.99 * strength),
    "sharpness": lambda image, strength, sign: _enhance(image, "Sharpness", 1 + sign * 0.99 * strength),
    "shear_x": lambda image, strength, sign: _transform(image, 0, 0, shear_x=sign * 0.99 * strength),
    "shear_y": lambda image, strength, sign: _transform(image, 0, 0, shear_y=sign * 0.99 * strength),
    "translate_x": lambda image, strength, sign: _transform(image, sign * strength * image.width / 2, 0),
    "translate_y": lambda image, strength, sign: _transform(image, 0, sign * strength * image.height / 2),
}
"""The operations of TrivialAugment's wide space; shifts are in shares of the image, not in pixels."""
