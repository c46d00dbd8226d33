"""Pretrained networks, through transformers' own classes, on packed rows."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

import luthier.core.hub  # noqa: F401  # keeps transformers offline; before it is imported

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from luthier.core.errors import ModelError
from luthier.core.types import Batch
from luthier.models import packed, padded
from luthier.models.base import ENCODERS, PADDED, ROBERTAS, USUAL, Base
from luthier.models.dropout import Dropout, attach
from luthier.models.frozen_cache import FrozenLayerCache
from luthier.models.hidden_states import capture_hidden_states, unwrap_states
from luthier.models.kernels import compiled
from luthier.models.kernels.compiled import Kernels
from luthier.models.kernels.fused import fuse
from luthier.models.modes import eval_mode
from luthier.models.opened import open_network
from luthier.models.packing import pack
from luthier.models.pooling import pool_rows, segment_lengths
from luthier.models.shared_prefix import SharedPrefix, expand, find_shared_prefix, pad_to_multiple, shared_tokens

logging.set_verbosity_error()
logging.disable_progress_bar()


PLAIN = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %}Assistant: {{ message.content }}{{ eos_token }}\n"
    "{% else %}{{ message.role | capitalize }}: {{ message.content }}\n{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""How turns are laid out for a decoder that brings no template: in words that any text has taught it."""
QUIET = 0.1
"""What the first weights of a new head are multiplied by on decoders that are not `USUAL`: their last norm may be so large that a head which knows nothing
would be sure of something (Gemma 3, six classes: a loss of 3.7 instead of 1.8)."""


class PackedNetwork(nn.Module):
    """A transformers network whose rows come end to end in one stream.

    Args:
        network: for sequence classification or causal language modelling, as loaded.
        dropout: share of activations dropped while training.
    """

    adapter_task = "CAUSAL_LM"  # what PEFT calls it, for an adapter that is shipped

    def __init__(self, network: Any, dropout: float) -> None:
        super().__init__()
        self.network = network
        self.causal = network.config.model_type not in ENCODERS
        self.first_position = (network.config.pad_token_id or 0) + 1 if network.config.model_type in ROBERTAS else 0
        self.dropout = dropout
        self.dropout_keys = attach(network, dropout)
        for name, module in network.named_modules():
            module.luthier_site = name
        self.packs = network.config.model_type not in PADDED
        if self.packs:
            network.set_attn_implementation(packed.NAME)
        self.frozen_cache: FrozenLayerCache | None = None
        self.kernels: Kernels | None = None

    def load_kernels(self) -> Kernels | None:
        """Compute by the compiled kernels while training, see `use`; they are compiled first where they are not kept."""
        return self.use(compiled.load())

    def use(self, kernels: Kernels) -> Kernels | None:
        """Compute by compiled kernels while training.

        Args:
            kernels: as loaded.

        Returns:
            the kernels; None where nothing of this network is known to them.
        """
        self.kernels = kernels if fuse(self.network, kernels) else None
        return self.kernels

    @property
    def body(self) -> Any:
        """The network without its head."""
        return self.network.base_model

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, first to last."""
        body = self.body
        for path in ("layers", "h", "encoder.layer", "transformer.layer"):
            with contextlib.suppress(AttributeError):
                return cast(nn.ModuleList, body.get_submodule(path))
        raise ModelError(f"the blocks of {type(body).__name__} were not found", "use another base")

    def hidden_states(self, batch: Batch) -> Tensor:
        """The last hidden state of every token.

        Args:
            batch: with `flat["tokens"]`; for pairs `flat["segments"]`, for rows in windows `flat["place"]`.

        Returns:
            # (tokens, width)
        """
        shared_prefix = self.shared_prefix(batch)
        with self._skipping(batch, shared_prefix, len(self.blocks)):
            return expand(self.forward_body(batch, shared_prefix), shared_prefix)

    def _skipping(self, batch: Batch, shared_prefix: SharedPrefix | None, lowest: int) -> contextlib.AbstractContextManager[None]:
        """For the time of the context the frozen blocks compute nothing, where what they say is kept and nothing is wanted from below."""
        if self.frozen_cache is None or self.frozen_cache.depth > lowest:
            return contextlib.nullcontext()
        cached = self.frozen_cache.of(batch, self)
        if cached is None:
            return contextlib.nullcontext()
        return self.frozen_cache.skipping(self.blocks, cached if shared_prefix is None else cached.index_select(0, shared_prefix.kept))

    def hidden_states_at(self, batch: Batch, depth: int) -> tuple[Tensor, bool]:
        """The hidden states behind the first `depth` blocks, in eval mode, and whether a block says them in a tuple.

        Args:
            batch: as for `hidden_states`.
            depth: 1 or more.

        Returns:
            # (tokens, width)
        """
        with eval_mode(self), torch.no_grad():
            shared_prefix = self.shared_prefix(batch)
            (output,) = capture_hidden_states(self.blocks, (depth,), lambda: self.forward_body(batch, shared_prefix))
        return expand(unwrap_states(output)[0], shared_prefix), isinstance(output, tuple)

    def hidden_states_at_depths(self, batch: Batch, depths: Sequence[int]) -> list[Tensor]:
        """The hidden states behind each of some numbers of blocks, in eval mode; what lies above is not computed, nor what is kept of the frozen ones.

        Args:
            batch: as for `hidden_states`.
            depths: how many blocks, ascending; 0 is what goes into the first.

        Returns:
            For each depth # (tokens, width)
        """
        with eval_mode(self), torch.no_grad():
            if not self.packs:
                return padded.hidden_states_at(
                    self.body, self.blocks, batch.flat["tokens"], segment_lengths(batch), self.dropout_keys, depths
                )
            shared_prefix = self.shared_prefix(batch)
            with self._skipping(batch, shared_prefix, depths[0]):
                outputs = capture_hidden_states(self.blocks, depths, lambda: self.forward_body(batch, shared_prefix))
        return [expand(unwrap_states(each)[0], shared_prefix) for each in outputs]

    def shared_prefix(self, batch: Batch) -> SharedPrefix | None:
        """What goes through the network: what rows begin with in common once, and a round number of tokens where that is faster.

        Nothing is common where it would differ from row to row: where a token sees those behind it too, and where dropout acts.

        Args:
            batch: as for `hidden_states`.
        """
        shared = find_shared_prefix(batch.flat["tokens"], segment_lengths(batch)) if self._shares(batch) else None
        weight = next(self.network.parameters())
        if not self.packs or weight.dtype == torch.float32 or weight.is_cuda:
            return shared
        return pad_to_multiple(shared, batch.flat["tokens"])

    def micro_batches(self, batch: Batch, limit: int) -> list[Batch]:
        """The batch in pieces whose rows bring at most so many tokens of their own (one row may exceed that).

        Args:
            batch: as for `hidden_states`.
            limit: 1 or more; what the rows of a piece begin with in common comes on top of it.
        """
        if batch.size <= limit:
            return [batch]  # whatever they share
        return batch.split(limit, shared_tokens(batch.flat["tokens"], batch.lengths) if self._shares(batch) else None)

    def _shares(self, batch: Batch) -> bool:
        """Whether what rows begin with in common has one state for all of them."""
        if not self.causal or "segments" in batch.flat:
            return False
        return not self.training or not (self.dropout or any(isinstance(module, Dropout) and module.p for module in self.network.modules()))

    def forward_body(self, batch: Batch, shared_prefix: SharedPrefix | None) -> Tensor:
        """The batch through the body, # (kept tokens, width)

        Args:
            batch: as for `hidden_states`.
            shared_prefix: of this batch.
        """
        tokens, lengths = batch.flat["tokens"], segment_lengths(batch)
        if not self.packs:
            return padded.hidden_states(self.body, tokens, lengths, self.dropout_keys)
        starts = lengths.cumsum(0) - lengths
        positions = torch.arange(len(tokens), device=tokens.device) - starts.repeat_interleave(lengths)
        inputs = {"input_ids": tokens, "position_ids": positions + self.first_position}
        if "segments" in batch.flat:
            inputs["token_type_ids"] = batch.flat["segments"]
        if shared_prefix is not None:
            inputs = {name: each.index_select(0, shared_prefix.kept) for name, each in inputs.items()}
        packing = pack(lengths, self.causal, self.dropout_keys, self.dropout, next(self.network.parameters()).dtype, shared_prefix)
        more: dict[str, Any] = {"use_cache": False} if self.causal else {}
        learning = shared_prefix if self.training else None  # in eval mode any keys are those of other rows, and not asked for
        with self.dropout_keys.use_layout(learning.kept, 0) if learning else contextlib.nullcontext():
            output = self.body(**{name: each[None] for name, each in inputs.items()}, packing=packing, **more)
        return output.last_hidden_state.squeeze(0)

    @contextlib.contextmanager
    def for_generation(self) -> Iterator[Any]:
        """The network as transformers' `generate` wants it, in eval mode, for the time of the context."""
        self.network.set_attn_implementation("sdpa")
        try:
            with eval_mode(self), torch.no_grad():
                yield self.network
        finally:
            self.network.set_attn_implementation(packed.NAME)


class Classifier(PackedNetwork):
    """A network with a classification head over pooled rows.

    Args:
        network: for sequence classification.
        dropout: share of activations dropped while training.
        pooling: cls (the first token, through the family's own head), mean, or last.
    """

    adapter_task = "SEQ_CLS"

    def __init__(self, network: Any, dropout: float, pooling: str) -> None:
        super().__init__(network, dropout)
        self.pooling = pooling

    def forward(self, batch: Batch) -> Tensor:
        """The score of each class, # (examples, classes)"""
        return self.classify(pool_rows(self.hidden_states(batch), batch, self.pooling))

    def classify(self, rows: Tensor) -> Tensor:
        """The score of each class of pooled rows, # (examples, width) → (examples, classes)"""
        network = self.network
        family = network.config.model_type
        if self.causal:
            return network.score(rows)
        if family in (*ROBERTAS, "electra", "mpnet"):
            return network.classifier(rows[:, None])
        if hasattr(network, "head"):
            return network.classifier(network.drop(network.head(rows)))
        if family == "distilbert":
            rows = network.pre_classifier(rows).relu()
        elif self.pooling == "cls":
            rows = _pooler(network)(rows[:, None])
        return network.classifier(network.dropout(rows))

    @property
    def head(self) -> list[nn.Module]:
        """The modules that are new: they are not part of the pretrained body."""
        names = ("classifier", "pre_classifier", "score", "head")
        modules = [getattr(self.network, name) for name in names if hasattr(self.network, name)]
        pooler = _pooler(self.network)
        return modules + ([pooler] if pooler is not None and self.pooling == "cls" else [])


class Generator(PackedNetwork):
    """A causal language model."""

    @property
    def head(self) -> list[nn.Module]:
        """Nothing is new here: the language model's head comes with the base."""
        return []


def _pooler(network: Any) -> Any:
    """What makes a vector of the first token's, in the body or beside it; None where the family's head does that."""
    return getattr(network.base_model, "pooler", None) or getattr(network, "pooler", None)


def load_tokenizer(base: Base) -> Any:
    """The base's tokenizer; that of a decoder without a chat template gets the plain one.

    Raises:
        ModelError: its files cannot be read.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    except (OSError, ValueError) as problem:
        raise ModelError(f"{base.name}: the tokenizer cannot be read: {problem}", "fetch the model again") from None
    if base.kind == "decoder" and not tokenizer.chat_template:
        tokenizer.chat_template = PLAIN
    return tokenizer


def load_classifier(
    base: Base, labels: list[str], pooling: str, dropout: float, seed: int, problem: str = "single_label_classification"
) -> Classifier:
    """A base with a head for these labels; a head that fits in the base (a bundle) is kept.

    Args:
        base: encoder or decoder.
        labels: the names of the outputs, in order: classes, labels, or what a number is.
        pooling: cls, mean or last.
        dropout: share of activations dropped while training.
        seed: of a new head's first weights.
        problem: what the outputs mean, as transformers calls it.
    """
    torch.manual_seed(seed)
    names = dict(enumerate(labels))
    options: dict[str, Any] = {"num_labels": len(labels), "id2label": names, "label2id": {label: number for number, label in names.items()}}
    network, loaded = open_network(
        AutoModelForSequenceClassification,
        base.folder,
        attn_implementation="eager",
        ignore_mismatched_sizes=True,
        problem_type=problem,
        **options,
    )
    new = {*loaded["missing_keys"], *(mismatch[0] for mismatch in loaded["mismatched_keys"])}
    if base.kind == "decoder" and base.family not in USUAL and "score.weight" in new:
        network.score.weight.data.mul_(QUIET)
    if network.config.pad_token_id is None:
        network.config.pad_token_id = 0
    if base.family == "modernbert":
        network.config.classifier_pooling = pooling  # so that the bundle is read as it was trained
    return Classifier(network, dropout, pooling)


Made = TypeVar("Made", bound=Generator)


def load_generator(base: Base, dropout: float, make: Callable[[Any, float], Made] = Generator) -> Made:
    """A causal language model.

    Args:
        base: a decoder.
        dropout: share of activations dropped while training.
        make: the network and this share → the model.

    Raises:
        ModelError: the base is an encoder.
    """
    if base.kind != "decoder":
        raise ModelError(f"{base.name} is an encoder: it cannot write text", "use a decoder, such as --base smollm2-135m")
    network, _ = open_network(AutoModelForCausalLM, base.folder, attn_implementation="eager")
    network.config.attention_dropout = dropout
    return make(network, dropout)
