"""Parity of networks that write: decoders, and networks that read one text and write another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from luthier.core.types import HELD_OUT, Example, Message, Scores
from luthier.data.chat import prompt, render
from luthier.delivery.exports.exporter import LOG_PROBABILITIES, RENDERED, TEXT, TOKENS, Translator, Writer
from luthier.delivery.parity.metric import Measured
from luthier.delivery.parity.network_parity import NetworkParity, compare_end, compare_probe, first_difference
from luthier.delivery.parity.record import StageResult
from luthier.delivery.parity.tolerances import Tolerance
from luthier.delivery.parity.trainer import Trainer, log_probabilities_of, next_scores, write_greedily
from luthier.models.modes import eval_mode
from luthier.models.token_losses import token_losses

LONGEST = 512
"""Tokens of a row that are scored."""
WRITTEN, LIMIT = 12, 48
"""Rows that are answered, and tokens that an answer may have."""


@dataclass(frozen=True)
class Question:
    """A row as a decoder is asked about it.

    Args:
        row: its number in its file.
        messages: the conversation with its answer; empty of a text that goes on.
        text: as it goes into the tokenizer: the prompt.
        prompt: its token ids.
        tokens: all that is scored.
        learned: which of them the model has to say.
        foreign: whether somebody wrote control tokens into a turn.
        bytes: of what is learned.
    """

    row: int
    messages: Sequence[Message]
    text: str
    prompt: list[int]
    tokens: list[int]
    learned: list[bool]
    foreign: bool
    bytes: float


class WriterParity(NetworkParity[Writer]):
    """The stages of a decoder's export."""

    def __init__(self, trainer: Trainer, runtime: Writer, examples: Sequence[Example], tolerance: Tolerance) -> None:
        super().__init__(trainer, runtime, examples, tolerance)
        talks = [example for example in examples if "messages" in example.facts]
        if talks:
            self.questions = [_conversation(trainer, example) for example in talks]
        else:
            firsts = {id(example.record): example for example in reversed(examples)}
            self.questions = [_text(trainer, example) for example in sorted(firsts.values(), key=lambda example: example.index)]
        self.end = int(trainer.tokenizer.eos_token_id) if talks else int(trainer.objective.end)
        self.ours: list[np.ndarray] = []
        self.theirs: list[np.ndarray] = []

    def rendered_text(self) -> StageResult:
        """Each conversation, up to its answer and whole."""
        for question in self.questions if "rendered text" not in self.runtime.unseen else ():
            if not question.messages:
                return StageResult(RENDERED, "same", len(self.questions), detail="the text is the row's own: no template stands between")
            whole = render(self.trainer.tokenizer, question.messages).text
            for ours, messages in ((question.text, question.messages[:-1]), (whole, question.messages)):
                theirs = self.runtime.render(messages)
                if ours.rstrip("\n") != theirs.rstrip("\n") or (ours != theirs and messages is not question.messages):
                    position = first_difference(ours, theirs)
                    detail = f"row {question.row}, character {position + 1}: the trainer writes {ours[position : position + 24]!r}, the export {theirs[position : position + 24]!r}"
                    return StageResult(RENDERED, "parts", len(self.questions), detail=detail, evidence={"ours": ours, "theirs": theirs})
        return StageResult(RENDERED, "same", len(self.questions))

    def tokens(self) -> StageResult:
        """The token ids of each prompt, those that the tokenizer puts around a text by itself, and where writing ends."""
        left = 0
        for question in self.questions:
            if question.foreign:
                left += 1
                continue
            theirs = self.runtime.prompt(question.messages[:-1]) if question.messages else list(self.runtime.encode([question.text]).tokens)
            ours = question.prompt[: len(theirs)] if not question.messages and len(theirs) >= LONGEST else question.prompt
            if ours != list(theirs):
                return self.tokens_differ(question.row, ours, theirs)
        plain = self.questions[0].messages[0]["content"] if self.questions[0].messages else ""
        ours, theirs = [int(token) for token in self.trainer.tokenizer(plain)["input_ids"]], list(self.runtime.encode([plain]).tokens)
        if plain and ours != theirs:
            return self.tokens_differ(self.questions[0].row, ours, theirs)
        if self.questions[0].messages and (parted := compare_probe(self.trainer.tokenizer, self.runtime)) is not None:
            return parted
        if (parted := compare_end(self.trainer, self.runtime, self.end, len(self.questions))) is not None:
            return parted
        note = (
            f"{left:,} rows left out: somebody wrote control tokens into a turn, which the trainer reads as characters and other programs as marks"
            if left
            else ""
        )
        return StageResult(TOKENS, "same", len(self.questions) - left, detail=note)

    def numbers(self) -> StageResult:
        """The log-probability of each token that is learned, on the trainer's tokens."""
        self.ours, self.theirs = self._log_probabilities_of_trainer(), self._log_probabilities_of_export()
        return compare_log_probabilities(self.ours, self.theirs, [question.row for question in self.questions], self.tolerance)

    def text(self) -> StageResult:
        """What is written greedily behind some prompts."""
        part = [question for question in self.questions if not question.foreign and len(question.prompt) < LONGEST][:WRITTEN]
        results = Greedy(self.trainer, self.end, self.tolerance)
        for question in part:
            ours = write_greedily(self.trainer, question.prompt, LIMIT, self.end)
            theirs = self.runtime.write(question.prompt, LIMIT)
            results.compare(
                question.row, ours, theirs, lambda beginning, question=question: next_scores(self.trainer, [*question.prompt, *beginning])
            )
        return results.result(len(part))

    def metric(self, decided: str | None) -> Measured:
        """Of what the trainer and the export lose on each row."""
        if self.compute_as_used():
            self.theirs = self._log_probabilities_of_export()
        return self.judge(decided, self._scores(self.ours), self._scores(self.theirs))

    def scores_of_trainer(self) -> Scores:
        """What it loses on each row."""
        return self._scores(self._log_probabilities_of_trainer())

    def _scores(self, side: Sequence[np.ndarray]) -> Scores:
        counts = np.array([float(sum(question.learned[1:])) for question in self.questions])
        bytes = np.array([question.bytes for question in self.questions])
        return Scores(np.array([-float(row.sum()) for row in side]), counts, bytes=bytes)

    def _log_probabilities_of_trainer(self) -> list[np.ndarray]:
        """Of each token that is learned, one array a row."""
        return [log_probabilities_of(self.trainer, question.tokens)[_learned(question)] for question in self.questions]

    def _log_probabilities_of_export(self) -> list[np.ndarray]:
        """The same, by the export."""
        results = []
        for question in self.questions:
            arguments = (question.tokens, question.learned) if getattr(self.runtime, "one_by_one", False) else (question.tokens,)
            results.append(np.asarray(self.runtime.log_probabilities(*arguments), dtype=np.float64)[_learned(question)])
        return results


def _learned(question: Question) -> np.ndarray:
    """Which of its tokens behind the first the model has to say, # (tokens - 1,)"""
    return np.array(question.learned[1:], dtype=bool)


def _conversation(trainer: Trainer, example: Example) -> Question:
    tokenizer, messages = trainer.tokenizer, example.facts["messages"]
    rendered = render(tokenizer, messages)
    tokens, text = prompt(tokenizer, messages[:-1])
    longest = min(LONGEST, trainer.objective.spec.max_length)
    if sum(rendered.learned[1:longest]) == 0:
        longest = len(rendered.tokens)
    marks = tuple(getattr(tokenizer, "all_special_tokens", ()))
    foreign = any(mark in message["content"] for message in messages for mark in marks)
    answer_bytes = sum(len(message["content"].encode()) for message in messages if message["role"] == "assistant")
    share = sum(rendered.learned[1:longest]) / max(sum(rendered.learned), 1)
    return Question(
        example.record.row, messages, text, tokens, rendered.tokens[:longest], rendered.learned[:longest], foreign, answer_bytes * share
    )


def _text(trainer: Trainer, example: Example) -> Question:
    """A document, as far as it is read at once; where the trainer puts a mark before it and the tokenizer does not, the mark belongs to the text."""
    objective, tokenizer = trainer.objective, trainer.tokenizer
    text = objective.text_of(example.record)
    encoded = objective.encode(text)
    tokens = [int(token) for token in encoded.tokens[: objective.spec.context + 1]]
    whole = [int(token) for token in (encoded.tokens[:-1] if objective.spec.ends else encoded.tokens)]
    own = list(tokenizer("", verbose=False)["input_ids"])
    mark = "" if own and own[0] == objective.before else tokenizer.convert_ids_to_tokens(objective.before)
    learned = [False, *[True] * (len(tokens) - 1)]
    share = (len(tokens) - 1) / max(len(encoded.tokens) - 1, 1)
    foreign = any(each in text for each in getattr(tokenizer, "all_special_tokens", ()))
    return Question(example.record.row, (), mark + text, whole, tokens, learned, foreign, encoded.size * share)


def compare_log_probabilities(
    ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], rows: Sequence[int], tolerance: Tolerance
) -> StageResult:
    """How far log-probabilities are apart: the largest difference of a token, and the mean over all.

    Args:
        ours: the trainer's, # each (tokens,)
        theirs: the export's, the same.
        rows: their numbers.
        tolerance: what rounding explains.
    """
    apart = [np.abs(one.astype(np.float64) - other) for one, other in zip(ours, theirs, strict=True)]
    every = np.concatenate(apart)
    every = np.where(np.isfinite(every), every, np.inf)
    largest, mean = float(every.max(initial=0.0)), float(every.mean()) if len(every) else 0.0
    worst = rows[int(np.argmax([float(row.max(initial=0.0)) for row in apart]))]
    parts = largest > tolerance.log_probability or mean > tolerance.mean
    detail = f"largest in row {worst}; {mean:.2g} in the mean of {len(every):,} tokens (of {tolerance.mean:.2g})"
    evidence = {"ours": list(ours), "theirs": list(theirs), "gives": "text"}
    return StageResult(
        LOG_PROBABILITIES,
        "parts" if parts else "same",
        len(rows),
        largest,
        tolerance.log_probability,
        "of a log-probability",
        detail,
        evidence,
    )


class Greedy:
    """Compares what is written token by token, and tells rounding from a fault.

    Args:
        trainer: opened.
        end: the token that ends an answer.
        tolerance: what rounding explains.
    """

    def __init__(self, trainer: Trainer, end: int, tolerance: Tolerance) -> None:
        self.trainer, self.end, self.tolerance = trainer, end, tolerance
        self.same = self.ties = self.others = 0
        self.fault = ""
        self.evidence: dict[str, Any] = {}

    def compare(self, row: int, ours: Sequence[int], theirs: Sequence[int], scores: Any) -> None:
        """One answer.

        Args:
            row: its number.
            ours: the trainer's tokens, the end's included.
            theirs: the export's.
            scores: a beginning of our answer → the log-probability of every token behind it.
        """
        position = first_difference(ours, theirs)
        if position == len(ours) == len(theirs):
            self.same += 1
            return
        if position == len(ours) and ours and ours[-1] == self.end:
            self.fault = self.fault or f"row {row}: the export goes on behind the token that ends an answer ({self.end})"
            self.evidence = {"goes_on": True}
            return
        if position >= len(ours) or position >= len(theirs):
            self.fault = self.fault or f"row {row}: the export stops after {len(theirs)} tokens, the trainer after {len(ours)}"
            return
        likelihoods = scores(ours[:position])
        margin = float(likelihoods[ours[position]] - likelihoods[theirs[position]])
        if margin <= self.tolerance.tie:
            self.ties += 1
            return
        self.others += 1
        tokenizer = self.trainer.tokenizer
        if self.tolerance.exact and not self.fault:
            self.fault = f"row {row}, token {position + 1}: the trainer writes {tokenizer.decode([ours[position]])!r}, the export {tokenizer.decode([theirs[position]])!r}, which is {margin:.2g} less likely (log-probability)"

    def result(self, rows: int) -> StageResult:
        """The stage."""
        if self.fault:
            return StageResult(TEXT, "parts", rows, detail=self.fault, evidence=self.evidence)
        detail = f"{self.same:,} of {rows:,} answers have the same tokens"
        if self.ties:
            detail += f"; {self.ties:,} part where two tokens are within rounding of each other"
        if self.others:
            detail += f"; {self.others:,} part by more, as coarser weights do: the metric decides"
        return StageResult(TEXT, "same", rows, detail=detail)


class TranslatorParity(NetworkParity[Translator]):
    """The stages of an encoder–decoder's export."""

    def __init__(self, trainer: Trainer, runtime: Translator, examples: Sequence[Example], tolerance: Tolerance) -> None:
        super().__init__(trainer, runtime, examples, tolerance)
        self.end = trainer.objective.end
        self.part = [example for example in self.examples if example.units]
        self.ours: list[np.ndarray] = []
        self.theirs: list[np.ndarray] = []

    def rendered_text(self) -> StageResult:
        """What stands before each source is in the text."""
        return StageResult(
            RENDERED,
            "same",
            len(self.examples),
            detail="the text is the row's own" + (", behind its prefix" if self.trainer.objective.spec.prefix else ""),
        )

    def tokens(self) -> StageResult:
        """The token ids of each source, and where writing ends."""
        objective = self.trainer.objective
        for example in self.examples:
            theirs = self.runtime.encode([objective.spec.prefix + objective.source_text(example.record)]).tokens
            if [int(token) for token in example.tokens] != list(theirs):
                return self.tokens_differ(example.record.row, example.tokens, theirs)
        return (
            compare_probe(self.trainer.tokenizer, self.runtime)
            or compare_end(self.trainer, self.runtime, self.end, len(self.examples))
            or StageResult(TOKENS, "same", len(self.examples))
        )

    def numbers(self) -> StageResult:
        """The log-probability of each target token."""
        self.ours, self.theirs = [self._ours(example) for example in self.part], self._log_probabilities_of_export()
        return compare_log_probabilities(self.ours, self.theirs, [example.record.row for example in self.part], self.tolerance)

    def scores_of_trainer(self) -> Scores:
        """What it loses on each row."""
        return _scores([self._ours(example) for example in self.part])

    def _log_probabilities_of_export(self) -> list[np.ndarray]:
        asked = (self.runtime.log_probabilities_behind(example.tokens, example.target) for example in self.part)
        return [np.asarray(each, dtype=np.float64) for each in asked]

    def _ours(self, example: Example) -> np.ndarray:
        batch = self.trainer.objective.collate([example], 0, HELD_OUT)
        model = self.trainer.model
        with eval_mode(model), torch.no_grad():
            states, (weight, bias) = model.hidden_states(batch), model.output()
            if bias is not None:
                states, weight = torch.cat([states, states.new_ones(len(states), 1)], 1), torch.cat([weight, bias[:, None]], 1)
            return -token_losses(states, weight, batch.streams["target"].values["next"]).numpy()

    def text(self) -> StageResult:
        """What is written greedily."""
        from luthier.models.translate import Writing, write

        part, results = self.examples[:WRITTEN], Greedy(self.trainer, self.end, self.tolerance)
        for example in part:
            (ours,) = write(self.trainer.model, [example.tokens], [LIMIT], Writing(self.end))
            ours = [*ours, self.end] if len(ours) < LIMIT else ours
            theirs = self.runtime.translate(example.tokens, LIMIT)
            results.compare(example.record.row, ours, theirs, lambda beginning, example=example: self._next_scores(example, beginning))
        return results.result(len(part))

    def _next_scores(self, example: Example, beginning: Sequence[int]) -> np.ndarray:
        """The log-probability of every token behind what was said of a source, # (vocabulary,)"""
        row = replace(example, target=[*beginning, self.end], size=len(example.tokens) + len(beginning) + 1)
        batch, model = self.trainer.objective.collate([row], 0, HELD_OUT), self.trainer.model
        with eval_mode(model), torch.no_grad():
            weight, bias = model.output()
            scores = model.hidden_states(batch)[-1] @ weight.t() + (0 if bias is None else bias)
            return scores.log_softmax(-1).numpy()

    def metric(self, decided: str | None) -> Measured:
        """Of what the trainer and the export lose on each row."""
        if self.compute_as_used():
            self.theirs = self._log_probabilities_of_export()
        return self.judge(decided, _scores(self.ours), _scores(self.theirs))


def _scores(side: Sequence[np.ndarray]) -> Scores:
    """Losses by row of the log-probabilities of their tokens."""
    return Scores(np.array([-float(row.sum()) for row in side]), np.array([float(len(row)) for row in side]))
