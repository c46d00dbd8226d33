"""Causal language modelling: each token of a document is predicted from those before it, in blocks of the context's length.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; documents do not see each other (Zhao et al. 2024, intra-document masking).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np
from pydantic import Field

from luthier.core.component import Component
from luthier.core.errors import ExperimentError
from luthier.core.types import Batch, Cut, Example, Loss, Record, Scores
from luthier.data.blocks import Blocks, Encoded, encode_document
from luthier.objectives.objective import BaseObjective, surely_fits

if TYPE_CHECKING:
    from torch import Tensor, nn

    from luthier.models.base import Base
    from luthier.models.kernels.shared_library import CompiledCode

SEPARATOR = "<|endoftext|>"
"""What stands between documents in the pretraining of most decoders, and in a tokenizer from scratch."""


class CausalLm(Component):
    """Learn a language, or a domain, by predicting the next token of its texts."""

    kind: Literal["causal_lm"] = "causal_lm"
    context: int = Field(
        default=256,
        ge=8,
        description="Tokens that are seen at once; a longer document is learned in blocks of so many (nanoGPT: block_size, HF: block_size).",
    )
    depth: int = Field(default=4, ge=1, description="Blocks of a network that is made from scratch: the dial of its size.")
    width: int = Field(
        default=0, ge=0, multiple_of=8, description="Numbers a token is in a network that is made from scratch; 0 takes 64 for each block."
    )
    heads: int = Field(
        default=0, ge=0, description="Attention heads of a network that is made from scratch; 0 takes one for each 64 of its width."
    )
    vocabulary: int = Field(
        default=4_000, ge=257, description="Tokens of a tokenizer that is made from scratch; 257 takes bytes as they are."
    )
    ends: bool = Field(
        default=True,
        description="Whether the end of a row is learned: of whole documents, not of passages; filled in where files are cut into passages.",
    )

    def compiled_code(self, base: Base | None) -> CompiledCode | None:
        """Compiled code that stands in for torch's operations in its steps on a processor: there is some for a network from scratch."""
        from luthier.models.kernels import compiled

        return compiled.DECODERS if base is None else None

    @property
    def wide(self) -> int:
        """Width of a network from scratch."""
        return self.width or 64 * self.depth

    @property
    def size(self) -> tuple[int, int]:
        """Width and attention heads of a network from scratch."""
        return self.wide, self.heads or max(1, self.wide // 64)

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str | None) -> CausalLmObjective:
        """The objective at work.

        Args:
            tokenizer: with a token that ends a text.
            input: the columns that are read.
            target: None: the texts are their own target.

        Raises:
            ExperimentError: the tokenizer has no such token.
        """
        if tokenizer.eos_token_id is None:
            raise ExperimentError("the base's tokenizer has no token that ends a text", "use another base, or --base scratch")
        return CausalLmObjective(self, tokenizer, input, target)


class CausalLmObjective(BaseObjective[CausalLm, Any]):
    """See `CausalLm`."""

    unit = "token"
    metrics: tuple[str, ...] = ("loss", "bits_per_byte", "perplexity")

    def __init__(self, spec: CausalLm, processor: Any, input: tuple[str, ...], target: str | None) -> None:
        super().__init__(spec, processor, input, target)
        own = list(processor("", verbose=False)["input_ids"])
        separator = processor.get_vocab().get(SEPARATOR, processor.eos_token_id)
        self.before = int(own[0] if own and own[0] == processor.bos_token_id else separator)
        """The token that stands before each document: the one that the tokenizer puts there by itself, else the separator of the base's pretraining."""
        self.end = int(processor.eos_token_id if own and own[0] == processor.bos_token_id else separator)
        """The token that ends each document."""

    def text_of(self, record: Record) -> str:
        """What is read of a row, several columns joined by an empty line."""
        return record.text(self.input)

    def encode(self, text: str) -> Encoded:
        """The tokens of a row's text."""
        return encode_document(text, self._pieces, self.before, self.end if self.spec.ends else None)

    def prompt(self, record: Record) -> list[int]:
        """What a text is continued from: the token before a document, and those of the text, without an end."""
        tokens = self.encode(self.text_of(record)).tokens.tolist()
        return tokens[:-1] if self.spec.ends else tokens

    def cuts(self, records: Sequence[Record]) -> list[tuple[Cut, ...]]:
        """The texts whose beginning is not read, for they have more tokens than the context."""
        found: list[tuple[Cut, ...]] = []
        for record in records:
            longest = self.spec.context
            tokens = 0 if surely_fits(self.text_of(record), longest) else len(self.prompt(record))
            found.append((Cut(tuple(self.input), tokens, longest),) if tokens > longest else ())
        return found

    def remedy_for_cuts(self) -> str:
        """A longer context."""
        return "a larger objective.context"

    def _pieces(self, text: str) -> tuple[list[int], list[int]]:
        """The tokens of a piece of text, and the character that each begins with."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return encoded["input_ids"], [start for start, _ in encoded["offset_mapping"]]

    def prepare(self, records: Sequence[Record]) -> Sequence[Example]:
        """Encode the rows into blocks; their tokens lie in a file where they are many."""
        return Blocks(records, (self.encode(self.text_of(record)) for record in records), self.spec.context, len(self.tokenizer))

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """Tokens end to end, and for each the one that follows it."""
        import torch

        def flat(parts: Iterator[Any]) -> Tensor:
            return torch.from_numpy(np.concatenate([*parts]).astype(np.int64))

        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([example.size for example in examples]),
            flat={
                "tokens": flat(np.asarray(example.tokens) for example in examples),
                "next": flat(np.asarray(example.target) for example in examples),
            },
            each={
                "bytes": torch.tensor([float(example.facts["bytes"]) for example in examples]),
                "document": torch.tensor([example.facts["document"] for example in examples]),
            },
        )

    def learned_tokens(self, example: Example) -> list[bool]:
        """All but the first, which nothing predicts in this block."""
        return [False, *[True] * (example.size - 1)]

    def reference_loss(self, model: nn.Module, example: Example) -> Tensor:
        """The loss from the definition, by transformers' own forward pass: token t is predicted from those before it."""
        import torch

        device = next(model.parameters()).device
        tokens = torch.from_numpy(np.asarray(example.tokens).astype(np.int64)).to(device)
        following = torch.from_numpy(np.asarray(example.target).astype(np.int64)).to(device)
        with cast(Any, model).for_generation() as network:
            log_probabilities = network(input_ids=tokens[None]).logits[0].float().log_softmax(-1)
        return -log_probabilities.gather(1, following[:, None]).sum()

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Cross-entropy summed over all tokens; their number is the count."""
        from luthier.models.next_token import next_token_loss

        network: Any = model
        total, _ = next_token_loss(
            network.hidden_states(batch), network.network.lm_head.weight, batch.flat["next"], kernels=network.kernels
        )
        return Loss(total, float(len(batch.flat["next"])))

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """The loss summed over each block's tokens; blocks of a document belong together."""
        import torch

        from luthier.models.next_token import next_token_loss

        network: Any = model
        with torch.no_grad():
            losses = next_token_loss(network.hidden_states(batch), network.network.lm_head.weight, batch.flat["next"])[1].double()
        rows = torch.arange(len(batch), device=losses.device).repeat_interleave(batch.lengths)
        return Scores(
            loss=torch.zeros(len(batch), dtype=torch.double, device=losses.device).index_add(0, rows, losses).cpu().numpy(),
            count=batch.lengths.double().cpu().numpy(),
            bytes=batch.each["bytes"].double().cpu().numpy(),
            groups=batch.each["document"].cpu().numpy(),
        )
