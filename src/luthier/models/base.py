"""What a base is: the facts of one that lies on this machine, and which architectures are of which kind."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "modernbert", "ernie", "mpnet", "deberta-v2")
DECODERS = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3_text", "smollm3", "phi3", "olmo2", "gpt2", "gpt_neox")
OWN_VISION = ("efficientnet_lite", "cifar_resnet")
"""They read images, by networks that transformers does not have."""
VISION = ("resnet", "regnet", "convnext", "convnextv2", "efficientnet", "vit", "dinov2", *OWN_VISION)
"""They read images."""
VECTORS = ("word_vectors",)
"""Tables of words, as word2vec and glove runs write them."""
TRANSLATORS = ("marian", "pegasus", "bart", "t5", "mt5")
"""They read one text and write another: an encoder and a decoder."""
PADDED = ("mpnet", "deberta-v2")
"""Families whose attention has no way in for packed rows."""

ROBERTAS = ("roberta", "xlm-roberta", "camembert")
"""Families that count positions from behind the padding token's number."""
USUAL = ("llama",)
"""Families of decoders on which a new head begins with the weights that transformers gives it; SmolLM2 was measured so."""
COMPILED = ("llama", "mistral", "qwen2", "qwen3", "bert", "roberta", "xlm-roberta", "camembert", "electra")
"""Families whose networks train in compiled passes on matrix tiles (`models.kernels.fused`)."""
KINDS = {"encoder": ENCODERS, "encoder-decoder": TRANSLATORS, "image": VISION, "vectors": VECTORS}
"""What a base is, by its architecture; all others are decoders."""
KNOWN = ENCODERS + DECODERS + TRANSLATORS + VISION
"""All architectures that can be loaded, but tables of words."""
ONE_SIDE = ("vit",)
"""They have a learned vector for each place of a square of one size, and read no other."""


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
        positions: tokens of a text that it has a vector for; 0 where its positions have no end, or are not known.
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
    positions: int = 0


def size_of(config: Mapping[str, Any], kind: str) -> tuple[int, int]:
    """How many blocks (of an image's network, stages) lie on top of each other, and how wide a state is; 0 where a configuration does not say.

    Args:
        config: config.json.
        kind: of the base.
    """

    def first_of(*names: str) -> int:
        return next((int(config[name]) for name in names if config.get(name)), 0)

    blocks = first_of("num_hidden_layers", "n_layers", "n_layer", "num_layers") or len(config.get("depths") or ())
    if config.get("num_block_repeats"):
        blocks = len(config["num_block_repeats"])
    if kind == "encoder-decoder":
        blocks = first_of("encoder_layers", "num_layers") + first_of("decoder_layers", "num_layers")
    width = first_of("hidden_size", "d_model", "dim", "n_embd") or (config.get("hidden_sizes") or [first_of("hidden_dim")])[-1]
    return blocks, int(width)


def positions_of(config: Mapping[str, Any], family: str) -> int:
    """How many tokens of a text a network can place: it has a table with a row for each; 0 where positions are turns or distances, which have no end.

    Args:
        config: config.json.
        family: its architecture, as transformers names it.
    """
    if family == "gpt2":
        return int(config.get("n_positions") or 1024)
    tables = ("bert", "electra", "distilbert", "ernie", "mpnet", *ROBERTAS, "marian", "pegasus", "bart")
    if family not in tables and not (family == "deberta-v2" and config.get("position_biased_input", True)):
        return 0
    rows = int(config.get("max_position_embeddings") or 512)
    if family == "mpnet":
        return rows - 2
    if family in ROBERTAS:  # they count from behind the padding token's number
        padding = config.get("pad_token_id", 1)
        return rows - 1 - (1 if padding is None else int(padding))
    return rows


def what_can_be_loaded(family: str) -> str:
    """A sentence that names the architectures that can be loaded, the nearest to one that cannot first.

    Args:
        family: as config.json calls it.
    """
    close = difflib.get_close_matches(family, KNOWN, n=1, cutoff=0.6)
    kinds = {"read texts": ENCODERS, "write texts": DECODERS, "translate": TRANSLATORS, "read images": VISION}
    return (
        (f"did you mean {close[0]!r}? " if close else "")
        + "these can: "
        + "; ".join(f"to {does}: {', '.join(names)}" for does, names in kinds.items())
    )
