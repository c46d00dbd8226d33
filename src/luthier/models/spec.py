"""Which base, as a value."""

from __future__ import annotations

from pydantic import Field

from luthier.core.component import Component

SCRATCH = "scratch"
"""After `--base`: nothing pretrained."""


class Model(Component):
    """The model of an experiment."""

    base: str = Field(
        default="minilm-l6",
        description="A name that `luthier models list` shows, a folder, a Luthier bundle, or a hub id; empty where the network is made from scratch (`--base scratch`).",
    )
    dropout: float = Field(
        default=0.1, ge=0, lt=1, description="Share of activations set to zero while training (hidden states, attention, the head)."
    )
    fingerprint: str = Field(default="", description="SHA-256 of the base's weights; filled in, and checked on resume.")
