"""Networks that say one vector of a text: the normalised mean of an encoder's last hidden states, as sentence-transformers takes it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel

from luthier.core.errors import ModelError
from luthier.core.types import Batch
from luthier.models import packed
from luthier.models.base import Base
from luthier.models.encode import embed_tokens
from luthier.models.modes import eval_mode
from luthier.models.opened import open_network
from luthier.models.pooling import pool, segment_lengths
from luthier.models.pretrained import PackedNetwork

POOLING_FILE = "1_Pooling/config.json"
"""Where sentence-transformers keeps how a model's token states become one vector."""
KNOWN_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


class EmbeddingModel(PackedNetwork):
    """An encoder whose texts become vectors of length one.

    Args:
        network: an encoder of transformers, without a head.
        dropout: share of activations dropped while training.
        pooling: mean (of all tokens) or cls (the first one).
        max_length: tokens of a text that are read; written into the bundle for sentence-transformers.
    """

    adapter_task = "FEATURE_EXTRACTION"
    """What PEFT calls it."""

    def __init__(self, network: Any, dropout: float, pooling: str, max_length: int) -> None:
        super().__init__(network, dropout)
        self.pooling, self.max_length = pooling, max_length

    @property
    def head(self) -> list[torch.nn.Module]:
        """Nothing is new here."""
        return []

    def embed(self, batch: Batch) -> Tensor:
        """The vector of each text; a row may hold several, which do not see each other.

        Args:
            batch: with `flat["tokens"]` and, where rows hold several texts, `flat["place"]`: each token's place in its text.

        Returns:
            Of length one, in fp32, # (texts, width)
        """
        return normalize(pool(self.hidden_states(batch), segment_lengths(batch), self.pooling).float(), dim=-1)

    def embed_tokens(self, texts: Sequence[Sequence[int]]) -> Any:
        """The vectors of texts that are tokens already, in eval mode, texts of similar length together; a numpy array, # (texts, width)"""
        with eval_mode(self), torch.no_grad():
            return embed_tokens(self.embed, texts, next(self.parameters()).device)

    def embed_padded(self, tokens: Tensor, seen: Tensor) -> Tensor:
        """The same by transformers' own forward pass on padded texts, for comparison.

        Args:
            tokens: # (texts, longest)
            seen: 1 for tokens, 0 for padding, # (texts, longest)

        Returns:
            # (texts, width)
        """
        with self._as_transformers():
            states = self.body(input_ids=tokens, attention_mask=seen).last_hidden_state.float()
        if self.pooling == "cls":
            return normalize(states[:, 0], dim=-1)
        weight = seen[:, :, None].float()
        return normalize((states * weight).sum(1) / weight.sum(1), dim=-1)

    @contextlib.contextmanager
    def _as_transformers(self) -> Iterator[None]:
        """With the attention that transformers would use, for the time of the context."""
        if not self.packs:
            yield
            return
        self.network.set_attn_implementation("sdpa")
        try:
            yield
        finally:
            self.network.set_attn_implementation(packed.NAME)


def load_embedding(base: Base, pooling: str, max_length: int, dropout: float, seed: int) -> EmbeddingModel:
    """An encoder, as it is.

    Args:
        base: an encoder.
        pooling: mean, cls, or auto: as the base's own files say, and the mean where they say nothing.
        max_length: tokens of a text that are read.
        dropout: share of activations dropped while training.
        seed: of what the base lacks and nobody reads, such as BERT's pooler.

    Raises:
        ModelError: the base is a decoder.
    """
    return EmbeddingModel(load_encoder(base, seed), dropout, own_pooling(base) if pooling == "auto" else pooling, max_length)


def load_encoder(base: Base, seed: int) -> Any:
    """An encoder's network without a head.

    Args:
        base: an encoder.
        seed: of what the base lacks and nobody reads, such as BERT's pooler.

    Raises:
        ModelError: the base is a decoder.
    """
    if base.kind != "encoder":
        raise ModelError(f"{base.name} is no encoder: its tokens do not see those behind them", "use an encoder, such as --base minilm-l6")
    torch.manual_seed(seed)
    return open_network(AutoModel, base.folder, attn_implementation="eager")[0]


def own_pooling(base: Base) -> str:
    """How a base was made to be pooled: as its own files say, else the mean.

    Raises:
        ModelError: it is pooled in a way that is not known here.
    """
    file = base.folder / POOLING_FILE
    if not file.is_file():
        return "mean"
    settings = json.loads(file.read_text())
    mode = settings.get("pooling_mode")
    modes: list[str] = (
        [mode] if isinstance(mode, str) else [name for name, on in settings.items() if name.startswith("pooling_mode") and on is True]
    )
    poolings = [KNOWN_POOLINGS.get(mode, mode) for mode in modes]
    if poolings not in (["mean"], ["cls"]):
        raise ModelError(
            f"{base.name} pools its tokens by {', '.join(poolings) or 'nothing'}", "mean and cls are known: --set objective.pooling=mean"
        )
    return poolings[0]


def write_sentence_transformers(folder: Path, model: EmbeddingModel) -> list[str]:
    """Write what sentence-transformers needs to read a bundle, beside the weights; the names of the files.

    Args:
        folder: of the bundle.
        model: that ships.
    """
    kinds = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"} for number, (path, kind) in enumerate(kinds)
        ],
        "2_Normalize/config.json": {},
        "sentence_bert_config.json": {"max_seq_length": model.max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    return [*write_pooling(folder, model), *files]


def write_pooling(folder: Path, model: EmbeddingModel) -> list[str]:
    """Write how a bundle's tokens become one vector, where `own_pooling` looks for it; the name of the file.

    Args:
        folder: of the bundle.
        model: that ships.
    """
    pooling = {
        "word_embedding_dimension": model.network.config.hidden_size,
        **{name: kind == model.pooling for name, kind in KNOWN_POOLINGS.items()},
    }
    (folder / POOLING_FILE).parent.mkdir(exist_ok=True)
    (folder / POOLING_FILE).write_text(json.dumps(pooling, indent=2) + "\n")
    return [POOLING_FILE]
