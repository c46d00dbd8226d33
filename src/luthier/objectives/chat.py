"""Chat and completion fine-tuning: only what the assistant says is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field

from luthier.core.component import Component
from luthier.core.types import Batch, Example, Loss, Record, Scores
from luthier.data.chat import conversation, render
from luthier.objectives.answers import AnswersTurns

if TYPE_CHECKING:
    from torch import Tensor, nn


class Chat(Component):
    """Learn to answer as the assistant does in the rows."""

    kind: Literal["chat"] = "chat"
    max_length: int = Field(
        default=1024,
        ge=16,
        description="Tokens a conversation may have (Axolotl: sequence_len, LLaMA-Factory: cutoff_len); longer ones lose their end, counted.",
    )

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str) -> ChatObjective:
        """The objective at work.

        Args:
            tokenizer: the base's, with its chat template.
            input: the columns that make the user's turn, or the one that holds messages.
            target: the column of the answer.
        """
        return ChatObjective(self, tokenizer, input, target)


class ChatObjective(AnswersTurns):
    """See `Chat`."""

    unit = "token"
    metrics: tuple[str, ...] = ("loss", "bits_per_byte")

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Render the rows with the base's own template."""
        examples = []
        for position, record in enumerate(records):
            messages = conversation(record.values, self.input, self.target or "")
            rendered = render(self.tokenizer, messages)
            length = min(len(rendered.tokens), self.spec.max_length)
            learned = rendered.learned[:length]
            answer_bytes = sum(len(message["content"].encode()) for message in messages if message["role"] == "assistant")
            share = sum(learned) / max(sum(rendered.learned), 1)
            facts = {"messages": messages, "cut": len(rendered.tokens) - length, "bytes": answer_bytes * share}
            examples.append(
                Example(position, {"tokens": rendered.tokens[:length]}, learned, record, length, float(sum(learned)), facts=facts)
            )
        return examples

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """Tokens end to end; for each token the one to be said next, or -1 where nothing is learned."""
        import torch

        following = [
            next_token if is_learned else -1
            for example in examples
            for next_token, is_learned in zip([*example.tokens[1:], -1], [*example.target[1:], False], strict=True)
        ]
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([example.size for example in examples]),
            flat={"tokens": torch.tensor([token for example in examples for token in example.tokens]), "next": torch.tensor(following)},
            each={"bytes": torch.tensor([example.facts["bytes"] for example in examples])},
        )

    def learned_tokens(self, example: Example) -> list[bool]:
        """Those of the answers."""
        return list(example.target)

    def prompt_tokens(self, example: Example) -> list[int]:
        """The tokens before the last answer."""
        if not example.units:
            return example.tokens
        end = max(index for index, learned in enumerate(example.target) if learned)
        while end > 0 and example.target[end - 1]:
            end -= 1
        return example.tokens[:end]

    def reference_loss(self, model: nn.Module, example: Example) -> Tensor:
        """The loss from the definition, by transformers' own forward pass: token t is foretold from those before it."""
        import torch

        device = next(model.parameters()).device
        tokens = torch.tensor([example.tokens], device=device)
        with cast(Any, model).for_generation() as network:
            log_probabilities = network(input_ids=tokens).logits[0, :-1].float().log_softmax(-1)
        own = -log_probabilities.gather(1, tokens[0, 1:, None])[:, 0]
        return own[torch.tensor(example.target[1:], device=device)].sum()

    def swap_inputs(self, examples: Sequence[Example]) -> list[Example]:
        """Each answer behind the prompt of the next row."""
        swapped = []
        for own, other in zip(examples, [*examples[1:], *examples[:1]], strict=True):
            prompt = [token for token, learned in zip(other.tokens, other.target, strict=True) if not learned]
            answer = [token for token, learned in zip(own.tokens, own.target, strict=True) if learned]
            target = [False] * len(prompt) + [True] * len(answer)
            swapped.append(replace(own, inputs={"tokens": prompt + answer}, target=target, size=len(target), units=float(len(answer))))
        return swapped

    def lengths(self, example: Example) -> tuple[int, int]:
        """Tokens before the last answer, and of it."""
        before = len(self.prompt_tokens(example))
        return before, sum(example.target[before:])

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Cross-entropy summed over the learned tokens; their number is the count."""
        from luthier.models.next_token import next_token_loss

        states, target = _learned_states(model, batch)
        network: Any = model
        total, _ = next_token_loss(states, network.network.lm_head.weight, target, kernels=network.kernels)
        return Loss(total, float(len(target)))

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """The loss summed over each row's learned tokens."""
        import torch

        from luthier.models.next_token import next_token_loss

        with torch.no_grad():
            states, target = _learned_states(model, batch)
            losses = next_token_loss(states, cast(Any, model).network.lm_head.weight, target)[1].double()
        rows = torch.arange(len(batch), device=target.device).repeat_interleave(batch.lengths)[batch.flat["next"] >= 0]
        empty = torch.zeros(len(batch), dtype=torch.double, device=target.device)
        return Scores(
            loss=empty.index_add(0, rows, losses).cpu().numpy(),
            count=empty.index_add(0, rows, torch.ones_like(losses)).cpu().numpy(),
            bytes=batch.each["bytes"].double().cpu().numpy(),
        )


def _learned_states(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Hidden states where something is to be said, and what, # (learned, width), (learned,)"""
    hidden = cast(Any, model).hidden_states(batch)
    positions = (batch.flat["next"] >= 0).nonzero()[:, 0]
    return hidden.index_select(0, positions), batch.flat["next"].index_select(0, positions)
