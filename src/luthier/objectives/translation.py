"""Translation: a text is read, and another one is learned word by word, each behind the true words before it (teacher forcing).

Source: Sutskever et al. 2014; Vaswani et al. 2017, section 5.4 (label smoothing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from luthier.core.component import Component
from luthier.core.types import Batch, Cut, Example, Loss, Record, Scores, Stream
from luthier.objectives.objective import BaseObjective, surely_fits

if TYPE_CHECKING:
    from torch import Tensor, nn

TARGET = "target"
"""The stream that the decoder reads; `models.encoder_decoder` knows it by the same name."""
FEWEST_TOKENS = 300
"""256 bytes, the marks, and some that are learned."""
BEGIN = -1
"""Stands where the decoder reads the token that it begins from, which each network has its own of."""


class Translation(Component):
    """Learn to write one text for another, such as its translation."""

    kind: Literal["translation"] = "translation"
    max_length: int = Field(
        default=128, ge=8, le=512, description="Tokens that a source or a target may have; a longer one loses its end, counted."
    )
    label_smoothing: float = Field(
        default=0.1,
        ge=0,
        lt=1,
        description="Share of each target token that is spread evenly over the vocabulary (HF: label_smoothing_factor).",
    )
    vocabulary: int = Field(
        default=0,
        ge=0,
        le=100_000,
        description="Tokens of a tokenizer for both languages that is made from scratch, 300 or more; 0 takes 8,000, and fewer for fewer than 20,000 pairs. Written down as many as the rows hold.",
    )
    layers: int = Field(default=4, ge=1, description="Blocks of the encoder and of the decoder of a network that is made from scratch.")
    width: int = Field(default=128, ge=32, multiple_of=32, description="Numbers a token is in a network that is made from scratch.")
    beams: int = Field(
        default=4,
        ge=1,
        le=32,
        description="Texts that are kept while a translation is written (HF: num_beams); 1 takes the likeliest token each time.",
    )
    length_penalty: float = Field(
        default=1.0, ge=0, le=4, description="A text's log-probability is divided by its length to this power before texts are compared."
    )
    prefix: str = Field(
        default="",
        max_length=200,
        description="Stands before every source, where a base wants to be told what to do: 'translate English to German: ' for T5.",
    )

    @field_validator("vocabulary")
    @classmethod
    def _enough(cls, vocabulary: int) -> int:
        if 0 < vocabulary < FEWEST_TOKENS:
            raise ValueError(f"a byte-level tokenizer has {FEWEST_TOKENS} tokens or more")
        return vocabulary

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str) -> TranslationObjective:
        """The objective at work.

        Args:
            tokenizer: of both languages.
            input: the column of the source; several are joined by an empty line.
            target: the column of the target.
        """
        return TranslationObjective(self, tokenizer, input, target)


class TranslationObjective(BaseObjective[Translation, Any]):
    """See `Translation`."""

    unit = "token"
    learned = "target"
    writes = True
    metrics: tuple[str, ...] = ("chrf", "bleu", "loss")
    answered, answered_at_verdict, answered_together = 128, 1_000, 64
    """Translations are short: as many test rows as published scores are taken over."""

    def __init__(self, spec: Translation, processor: Any, input: tuple[str, ...], target: str | None) -> None:
        super().__init__(spec, processor, input, target)
        self.drawn_tokens = range(len(processor))  # the target's, which an embedding that both sides share meets too

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Encode both sides; the target ends with the mark that ends a text, unless its end is lost."""
        if not records:
            return []
        sources = self._tokenize([self.spec.prefix + self.source_text(record) for record in records], {})
        references = [str(record.values.get(self.target or "") or "") for record in records]
        targets = self._tokenize(references, {"target": True})
        examples = []
        for position, (record, (source, cut), (target, lost)) in enumerate(zip(records, sources, targets, strict=True)):
            there = bool(references[position].strip())
            learned = target[:-1] if lost and target[-1] == self.end else target
            facts = {"cut": cut + lost, "bytes": len(references[position].encode()), "reference": references[position]}
            units = float(len(learned)) if there else 0.0
            size = len(source) + max(len(learned), 1)
            examples.append(Example(position, {"tokens": source}, learned if there else [], record, size, units, facts=facts))
        return examples

    def cuts(self, records: Sequence[Record]) -> list[tuple[Cut, ...]]:
        """The sources that have more tokens than are read."""
        found: list[tuple[Cut, ...]] = [() for _ in records]
        sources = [self.spec.prefix + self.source_text(record) for record in records]
        long = [index for index, source in enumerate(sources) if not surely_fits(source, self.spec.max_length)]
        read = self._tokenize([sources[index] for index in long], {}) if long else ()
        for index, (tokens, lost) in zip(long, read, strict=True):
            if lost:
                found[index] = (Cut(tuple(self.input), len(tokens) + lost, len(tokens)),)
        return found

    def remedy_for_cuts(self) -> str:
        """Longer texts."""
        return "a larger objective.max_length"

    def source_text(self, record: Record) -> str:
        """What is read of a row."""
        return record.text(self.input)

    @property
    def end(self) -> int:
        """The token that ends a text."""
        return int(self.tokenizer.eos_token_id)

    def _tokenize(self, texts: list[str], side: dict[str, bool]) -> list[tuple[list[int], int]]:
        """The tokens of each text, and how many were cut."""
        name = "text_target" if side else "text"
        whole = self.tokenizer(**{name: texts}, truncation=False, verbose=False)["input_ids"]
        truncated = self.tokenizer(**{name: texts}, truncation=True, max_length=self.spec.max_length)["input_ids"]
        return [(tokens, len(every) - len(tokens)) for tokens, every in zip(truncated, whole, strict=True)]

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """The sources end to end; beside them, for each target token, what the decoder reads (the token before it) and what it is to say.

        A row begins with -1, for which the network reads the token that it begins from. From a row without a target nothing is learned.
        """
        import torch

        targets = [example.target or [-1] for example in examples]
        inputs = [token for target in targets for token in (BEGIN, *target[:-1])]
        next_tokens = [token for target in targets for token in target]
        stream = Stream(
            torch.tensor([len(target) for target in targets]), {"shown": torch.tensor(inputs), "next": torch.tensor(next_tokens)}
        )
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([len(example.tokens) for example in examples]),
            flat={"tokens": torch.tensor([token for example in examples for token in example.tokens])},
            each={"bytes": torch.tensor([float(example.facts["bytes"]) for example in examples])},
            streams={TARGET: stream},
        )

    def reference_loss(self, model: Any, example: Example) -> Tensor:
        """The loss from the definition, by transformers' own forward pass over the row alone."""
        import torch

        device = next(model.parameters()).device
        source, target = (torch.tensor([tokens], device=device) for tokens in (example.tokens, example.target))
        inputs = torch.cat([torch.full_like(target[:, :1], model.start), target[:, :-1]], 1)
        with model.for_generation() as network:
            logits = network(input_ids=source, decoder_input_ids=inputs, use_cache=False).logits[0]
        return -logits.float().log_softmax(-1).gather(1, target[0, :, None]).sum()

    def swap_inputs(self, examples: Sequence[Example]) -> list[Example]:
        """Each target behind the source of the next row."""
        return [
            replace(own, inputs=other.inputs, size=own.size - len(own.tokens) + len(other.tokens))
            for own, other in zip(examples, [*examples[1:], *examples[:1]], strict=True)
        ]

    def lengths(self, example: Example) -> tuple[int, int]:
        """Tokens of the source, and of the target."""
        return len(example.tokens), len(example.target)

    def prompt_text(self, example: Example) -> str:
        """The source."""
        return self.source_text(example.record)

    def reference(self, example: Example) -> str:
        """The target."""
        return str(example.facts["reference"])

    def rows_to_answer(self, examples: Sequence[Example], most: int) -> list[int]:
        """Evenly over all rows, whatever their length: a score over the short ones alone would flatter."""
        able = [row for row, example in enumerate(examples) if example.units]
        return [able[index * len(able) // min(most, len(able))] for index in range(min(most, len(able)))]

    def answer(self, model: Any, examples: Sequence[Example], limit: int) -> list[str]:
        """Translations, by the beams of the spec; each may be twice as long as its source, whatever the reference is."""
        return self.translate(model, [example.tokens for example in examples], self.spec.max_length)

    def translate(self, model: Any, sources: Sequence[Sequence[int]], limit: int) -> list[str]:
        """What the model writes.

        Args:
            model: an encoder–decoder.
            sources: token ids.
            limit: tokens that a translation may have.
        """
        from luthier.models.translate import Writing, write

        never = () if self.tokenizer.pad_token_id is None else (int(self.tokenizer.pad_token_id),)
        how = Writing(self.end, never, self.spec.beams, self.spec.length_penalty)
        limits = [max(1, min(limit, 2 * len(source) + 16)) for source in sources]
        return [self.tokenizer.decode(text, skip_special_tokens=True).strip() for text in write(model, sources, limits, how)]

    def tokens_to_show(self, example: Example) -> tuple[list[int], list[bool]]:
        """The source and, behind it, the target, which is learned."""
        return [*example.tokens, *example.target], [False] * len(example.tokens) + [True] * len(example.target)

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Cross-entropy with label smoothing, summed over the target's tokens; their number is the count."""
        total, _, count = self._token_losses(model, batch, self.spec.label_smoothing)
        return Loss(total, float(count))

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """The plain cross-entropy summed over each row's target."""
        import torch

        with torch.no_grad():
            _, losses, _ = self._token_losses(model, batch, 0.0)
        stream = batch.streams[TARGET]
        learned = stream.values["next"] >= 0
        rows = torch.arange(len(batch), device=learned.device).repeat_interleave(stream.lengths)[learned]
        empty = torch.zeros(len(batch), dtype=torch.double, device=learned.device)
        return Scores(
            loss=empty.index_add(0, rows, losses.double()).cpu().numpy(),
            count=empty.index_add(0, rows, torch.ones_like(losses, dtype=torch.double)).cpu().numpy(),
            bytes=batch.each["bytes"].double().cpu().numpy(),
        )

    def _token_losses(self, model: Any, batch: Batch, smoothing: float) -> tuple[Tensor, Tensor, int]:
        """The sum, what each learned token adds to it, and how many there are."""
        import torch

        from luthier.models.next_token import next_token_loss

        next_tokens = batch.streams[TARGET].values["next"]
        places = (next_tokens >= 0).nonzero()[:, 0]
        states, target = model.hidden_states(batch).index_select(0, places), next_tokens.index_select(0, places)
        weight, bias = model.output()
        if bias is not None:  # one more number a token, which is 1
            states = torch.cat([states, states.new_ones(len(states), 1)], 1)
            weight = torch.cat([weight, bias[:, None].to(weight.dtype)], 1)
        total, losses = next_token_loss(states, weight, target, smoothing=smoothing)
        return total, losses, len(target)
