"""Networks that reconstruct what a frozen network sees in the places of an image, from a short code.

Source: Yang, Shi & Qi 2020, "DFR: Deep Feature Reconstruction for Unsupervised Anomaly Segmentation" (an autoencoder on a pretrained network's maps).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from luthier.core.types import Batch
from luthier.models.base import OWN_VISION
from luthier.models.hidden_states import capture_hidden_states, unwrap_states
from luthier.models.modes import eval_mode
from luthier.models.preprocessing import Preprocessing
from luthier.models.vector_autoencoder import VectorAutoencoder, VectorReconstruction, attach_autoencoder
from luthier.models.vision import BASE_MOMENTUM, ImageNetwork, load_network

if TYPE_CHECKING:
    from luthier.core.types import Example
    from luthier.models.base import Base

DEPTH = 2 / 3
"""Share of the blocks behind which the base is read: above, it tells the classes it was trained for from each other; below, it sees edges alone."""
OUTPUT = ("normal",)
"""What the base's own head, which is not used, is given as its one output."""


class ComponentAutoencoder(VectorAutoencoder):
    """A linear way to the code and back, and beside each of its halves two layers that begin by adding nothing.

    With principal components in the linear way it begins as PCA, whatever its other weights are.

    Args:
        width: of a vector.
        hidden: of the layers beside the linear way.
        code: numbers that a vector is written as.
    """

    def __init__(self, width: int, hidden: int, code: int) -> None:
        super().__init__(width, hidden, code)
        self.down, self.up = nn.Linear(width, code, bias=False), nn.Linear(code, width, bias=False)
        for layer in (self.down, self.up, self.to_code):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def begin_with(self, components: np.ndarray) -> None:
        """Write a vector as its principal components, and reconstruct it from them.

        Args:
            components: orthonormal directions of the centred vectors, as many as the code has numbers or fewer, # (components, width)
        """
        known = torch.from_numpy(np.ascontiguousarray(components)).to(self.down.weight)
        with torch.no_grad():
            self.down.weight[: len(known)] = known
            self.up.weight[:, : len(known)] = known.T

    def encode(self, vectors: Tensor) -> Tensor:
        """The code of each vector, # (examples, width) → (examples, code)"""
        return self.down(vectors) + super().encode(vectors)

    def forward(self, vectors: Tensor) -> Tensor:
        """What is reconstructed of vectors that are centred and scaled, # (examples, width) → (examples, width)"""
        code = self.encode(vectors)
        return self.up(code) + self.to_vector(gelu(self.widen(code)))


class FeatureAutoencoderModel(VectorReconstruction, ImageNetwork):
    """A frozen network for images and what reconstructs its maps.

    Args:
        network: for images, with an `autoencoder` and a `threshold` to come.
        grid: places on each side that a map is divided into, at most.
        side: of the images, in pixels.
        preprocessing: by what pixels are shifted and scaled.
    """

    def __init__(self, network: Any, grid: int, side: int, preprocessing: Preprocessing) -> None:
        super().__init__(network, 0.0, preprocessing, BASE_MOMENTUM)
        self.new = True
        self.depth = max(1, round(len(self.blocks) * DEPTH))
        pixels = torch.zeros(1, network.config.num_channels, side, side)
        with eval_mode(self), torch.no_grad():
            maps = self.maps(Batch(torch.zeros(1), torch.ones(1), {}, {"pixels": pixels}))
        self.down_rows, self.down_columns = (torch.from_numpy(place_weights(length, grid)) for length in maps.shape[2:])
        self.places = len(self.down_rows), len(self.down_columns)
        self.width = maps.shape[1] * self.places[0] * self.places[1]

    def compute_vectors(self, batch: Batch) -> Tensor:
        """What the frozen network sees in each place of each image, place by place within a channel, # (examples, width)

        Args:
            batch: with `each["pixels"]`, 0 to 255, # (examples, channels, side, side)
        """
        maps = self.maps(batch).float()
        rows, columns = self.down_rows.to(maps.device), self.down_columns.to(maps.device)
        return (rows @ maps @ columns.T).flatten(1)

    def key_of(self, example: Example) -> bytes:
        """Its pixels."""
        return image_key(example.inputs["pixels"])

    def keys_of(self, batch: Batch) -> list[bytes]:
        """Their pixels."""
        return [image_key(each) for each in batch.each["pixels"].permute(0, 2, 3, 1).cpu().numpy()]

    def maps(self, batch: Batch) -> Tensor:
        """The maps behind `depth` blocks, # (examples, channels, height, width)"""
        pixels = self.normalised_pixels(batch)
        if self.family in OWN_VISION:
            maps = self.network.stem_maps(pixels)
            for stage in list(self.network.stages)[: self.depth]:
                maps = stage(maps)
            return maps
        ends: Any = [stage[-1] for stage in self._mobile_stages()] if self.family == "efficientnet" else self.blocks
        states = unwrap_states(capture_hidden_states(ends, [self.depth], lambda: self.body(pixels))[0])
        if states.ndim == 4:
            return states
        side = int(states.shape[1] ** 0.5)  # what stands before the patches is of the whole image
        return states[:, -(side**2) :].transpose(1, 2).unflatten(2, (side, side))


def place_weights(length: int, grid: int) -> np.ndarray:
    """By what a map's rows (or columns) are multiplied to be means of places, as torch's adaptive average pooling divides them, # (places, length) of float32

    Args:
        length: of the map.
        grid: places; a shorter map has as many as it is long.
    """
    places = min(grid, length)
    weights = np.zeros((places, length), np.float32)
    for place in range(places):
        first, last = place * length // places, -(-(place + 1) * length // places)
        weights[place, first:last] = 1 / (last - first)
    return weights


def image_key(pixels: np.ndarray) -> bytes:
    """What tells one image from another, # (side, side, channels) of uint8 → 16 bytes"""
    return hashlib.blake2b(np.ascontiguousarray(pixels).tobytes(), digest_size=16).digest()


def load_feature_autoencoder(base: Base, channels: int, side: int, grid: int, code: int, hidden: int, seed: int) -> FeatureAutoencoderModel:
    """A network for images as it is, with new layers behind it that reconstruct its maps; those of a bundle are kept where they fit.

    Args:
        base: of the kind "image".
        channels: of the images.
        side: of the images, in pixels.
        grid: places on each side that a map is divided into, at most.
        code: numbers that all places together are written as.
        hidden: width of the layers beside the linear way.
        seed: of the new layers' first weights.

    Raises:
        ModelError: the base reads no images, or images of other channels, or of another side.
    """
    loaded = load_network(base, OUTPUT, channels, 0.0, seed, side)
    network = loaded.network
    model = FeatureAutoencoderModel(network, grid, side, loaded.preprocessing)
    torch.manual_seed(seed)
    model.new = attach_autoencoder(network, ComponentAutoencoder(model.width, hidden, code), base.folder)
    for name, module in network.named_modules():
        module.luthier_site = name
    return model
