"""What a base is: the facts of one that lies on this machine, and which architectures are of which kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "mpnet", "deberta-v2")
DECODERS = ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "smollm3", "phi3")
VISION = ("resnet", "efficientnet_lite", "cifar_resnet")
"""They read images."""
VECTORS = ("word_vectors",)
"""Tables of words, as word2vec and glove runs write them."""
TRANSLATORS = ("marian", "pegasus", "bart", "t5", "mt5")
"""They read one text and write another: an encoder and a decoder."""
PADDED = ("mpnet", "deberta-v2")
"""Families whose attention has no way in for packed rows."""

COMPILED = ("llama", "mistral", "qwen2", "qwen3")
"""Families whose networks can train in compiled passes (`models.fused`)."""
KINDS = {"encoder": ENCODERS, "encoder-decoder": TRANSLATORS, "image": VISION, "vectors": VECTORS}
"""What a base is, by its architecture; all others are decoders."""


@dataclass(frozen=True)
class Base:
    """A base that lies on this machine.

    Args:
        name: as it was asked for.
        folder: where its files are.
        kind: encoder, decoder, encoder-decoder, image, or vectors.
        fingerprint: SHA-256 of its weights.
        bundle: what Luthier wrote about it, where it is a bundle.
        language: what it was trained to read; empty where that is not known.
        family: its architecture, as transformers names it.
        blocks: how many lie on top of each other, of an image's network its stages; 0 where that is not known.
        width: of a token's state, or of an image's; 0 where that is not known.
    """

    name: str
    folder: Path
    kind: str
    fingerprint: str
    bundle: dict[str, Any] | None = None
    language: str = ""
    family: str = ""
    blocks: int = 0
    width: int = 0
