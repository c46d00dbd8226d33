"""Parity with a server that writes, over OpenAI's routes: its tokens where it tells them, the log-probabilities of what it wrote, and the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.core.types import Message, Record
from luthier.data.chat import prompt
from luthier.delivery.exports.exporter import LOG_PROBABILITIES, METRIC, RENDERED, TEXT, TOKENS, WEIGHTS, Say
from luthier.delivery.parity.network_parity import describe_tokens
from luthier.delivery.parity.openai_endpoint import OpenAiEndpoint, ServerAnswer
from luthier.delivery.parity.record import ParityRecord, StageResult
from luthier.delivery.parity.tolerances import Tolerance, tolerance_of
from luthier.delivery.parity.trainer import Trainer, log_probabilities_of, next_scores, write_greedily

LIMIT = 48
"""Tokens that an answer may have."""
TIE = 4.0
"""Times the mean difference that rounding explains: two likeliest tokens that are nearer than this may change places. A healthy Q8_0 did so at 2.4 times at most, 23 answers."""


@dataclass
class Answered:
    """A row, answered by both.

    Args:
        row: its number in its file.
        prompt: the trainer's token ids.
        ours: the trainer's tokens, the end's included.
        answer: the server's.
        tokens_read: the token ids that the server read; None where it does not tell.
    """

    row: int
    prompt: list[int]
    ours: list[int]
    answer: ServerAnswer
    tokens_read: list[int] | None


def check_writing(
    trainer: Trainer, endpoint: OpenAiEndpoint, records: Sequence[Record], precision: str, rows: str, say: Say
) -> ParityRecord:
    """Compare a decoder with a server that answers.

    Args:
        trainer: opened.
        endpoint: that answers.
        records: rows.
        precision: that the server's weights are taken to be rounded to.
        rows: where they are from, for a person.
        say: told what is looked at.
    """
    tolerance = tolerance_of(precision)
    say(TEXT)
    answered = [_answer(trainer, endpoint, record) for record in records]
    stages = (
        StageResult(RENDERED, "unseen", detail="OpenAI's routes do not tell the text that the chat template writes"),
        _tokens(trainer, answered),
        StageResult(WEIGHTS, "unseen", detail="a server does not show its weights"),
        _numbers(trainer, answered, tolerance),
        _text(trainer, answered, tolerance),
        StageResult(METRIC, "unseen", detail="OpenAI's routes do not tell the log-probability of a given answer"),
    )
    first = next((stage for stage in stages if stage.state == "parts"), None)
    return ParityRecord(stages, endpoint.about, precision, rows, _reason(first, answered) if first is not None else "")


def _answer(trainer: Trainer, endpoint: OpenAiEndpoint, record: Record) -> Answered:
    """One row, asked of both. A model that does not converse is given the beginning of the row's text."""
    objective, tokenizer = trainer.objective, trainer.tokenizer
    if trainer.family.converses:
        messages: list[Message] = objective.prepare([record])[0].facts["messages"][:-1]
        tokens, _ = prompt(tokenizer, messages)
        answer, tokens_read, end = endpoint.chat(messages, LIMIT), endpoint.tokens(messages), int(tokenizer.eos_token_id)
    else:
        text = objective.text_of(record)[:200].rsplit(" ", 1)[0]
        tokens = [int(objective.before), *(int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"])]
        answer, tokens_read, end = endpoint.continue_text(text, LIMIT), None, int(objective.end)
    ours = write_greedily(trainer, tokens, LIMIT, end)
    return Answered(record.row, list(tokens), ours, answer, tokens_read)


def _tokens(trainer: Trainer, answered: Sequence[Answered]) -> StageResult:
    """The prompts' token ids where the server tells them, else how many they are."""
    with_tokens = [each for each in answered if each.tokens_read is not None]
    for each in with_tokens:
        if each.tokens_read != each.prompt:
            detail = describe_tokens(each.row, each.prompt, each.tokens_read or (), trainer.tokenizer, "server")
            return StageResult(TOKENS, "parts", len(with_tokens), detail=detail, evidence={"ours": each.prompt, "theirs": each.tokens_read})
    if with_tokens:
        return StageResult(TOKENS, "same", len(with_tokens))
    counted = [each for each in answered if each.answer.prompt_tokens is not None]
    for each in counted:
        apart = (each.answer.prompt_tokens or 0) - len(each.prompt)
        if apart:
            return StageResult(TOKENS, "parts", len(counted), float(abs(apart)), 0.0, "tokens", f"row {each.row}: the trainer reads {len(each.prompt)} tokens, the server {each.answer.prompt_tokens}", {"apart": apart})  # fmt: skip
    if counted:
        return StageResult(TOKENS, "unseen", len(counted), detail="only their number is told, and it is the same")
    return StageResult(TOKENS, "unseen", detail="the server tells neither the tokens that it read nor their number")


def _numbers(trainer: Trainer, answered: Sequence[Answered], tolerance: Tolerance) -> StageResult:
    """The log-probability of what the server wrote, token by token, as long as both write the same."""
    apart: list[tuple[float, int]] = []
    ours: list[np.ndarray] = []
    theirs: list[np.ndarray] = []
    for each in answered:
        same = _same_pieces(trainer, each)
        if not same or not each.answer.log_probabilities:
            continue
        scores = log_probabilities_of(trainer, [*each.prompt, *each.ours[:same]])[len(each.prompt) - 1 :]
        server_scores = np.array(each.answer.log_probabilities[:same])
        ours.append(scores)
        theirs.append(server_scores)
        apart += [(float(value), each.row) for value in np.abs(scores - server_scores)]
    if not apart:
        return StageResult(
            LOG_PROBABILITIES,
            "unseen",
            detail="the server tells no log-probabilities of what it wrote, or it wrote nothing that the trainer did",
        )
    largest, row = max(apart)
    mean = float(np.mean([value for value, _ in apart]))
    parts = largest > tolerance.log_probability or mean > tolerance.mean
    detail = f"of what it wrote itself; largest in row {row}; {mean:.2g} in the mean of {len(apart):,} tokens (of {tolerance.mean:.2g})"
    return StageResult(LOG_PROBABILITIES, "parts" if parts else "same", len(ours), largest, tolerance.log_probability, "of a log-probability", detail, {"ours": ours, "theirs": theirs, "gives": "text"})  # fmt: skip


def _same_pieces(trainer: Trainer, each: Answered) -> int:
    """Tokens at the beginning of the server's answer that are the trainer's."""
    count = 0
    for token, piece in zip(each.ours, each.answer.pieces, strict=False):
        own = token_bytes(trainer.tokenizer, token)
        if own != piece:
            break
        count += 1
    return count


def token_bytes(tokenizer: Any, token: int) -> bytes:
    """A token as the bytes that it adds to a text.

    Args:
        tokenizer: a byte-level BPE, or one of pieces.
        token: its number.
    """
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    name = str(tokenizer.convert_ids_to_tokens(int(token)))
    if token in tokenizer.all_special_ids:
        return name.encode()
    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    if getattr(tokenizer.backend_tokenizer.model, "byte_fallback", False):
        return bytes([int(name[3:5], 16)]) if len(name) == 6 and name.startswith("<0x") else name.replace("▁", " ").encode()
    return bytes(letters[letter] for letter in name) if all(letter in letters for letter in name) else name.encode()


def _text(trainer: Trainer, answered: Sequence[Answered], tolerance: Tolerance) -> StageResult:
    """The answers; where the two likeliest tokens are within rounding, either may be written."""
    same = ties = 0
    for each in answered:
        ours = trainer.tokenizer.decode(each.ours, skip_special_tokens=True)
        if ours.strip() == each.answer.text.strip():
            same += 1
            continue
        position, margin = _parting(trainer, each, ours)
        if (margin <= TIE * tolerance.mean and not tolerance.exact) or margin <= 1e-3:
            ties += 1
            continue
        detail = f"row {each.row}, behind {position} tokens: the trainer writes {ours[:80]!r}, the server {each.answer.text[:80]!r}; the trainer was surer by {margin:.2g}"
        return StageResult(
            TEXT, "parts", len(answered), float(margin), TIE * tolerance.mean, "of a log-probability", detail, {"margin": margin}
        )
    note = f"{same} of {len(answered)} answers are the same" + (
        f"; {ties} part where the two likeliest tokens are within rounding" if ties else ""
    )
    return StageResult(TEXT, "same", len(answered), detail=note)


def _parting(trainer: Trainer, each: Answered, ours: str) -> tuple[int, float]:
    """Behind how many of the trainer's tokens the server's answer parts, and by how much the trainer preferred its own token to the next one that goes on as the server did."""
    text = (
        each.answer.text
        if ours[:1].isspace() == each.answer.text[:1].isspace()
        else ours[: len(ours) - len(ours.lstrip())] + each.answer.text.lstrip()
    )
    position = 0
    while (
        position < len(each.ours)
        and text.startswith(trainer.tokenizer.decode(each.ours[: position + 1], skip_special_tokens=True).rstrip("\ufffd"))
        and each.ours[position] not in trainer.tokenizer.all_special_ids
    ):
        position += 1
    if position >= len(each.ours):
        return position, 0.0 if len(each.ours) >= LIMIT else float("inf")
    scores = next_scores(trainer, [*each.prompt, *each.ours[:position]])
    written = trainer.tokenizer.decode(each.ours[:position], skip_special_tokens=True)
    rest = text[len(written) :].encode()
    ends = set(trainer.tokenizer.all_special_ids)
    for token in np.argsort(-scores):
        piece = token_bytes(trainer.tokenizer, int(token))
        if (int(token) in ends and not rest) or (piece and int(token) not in ends and rest.startswith(piece)):
            return position, float(scores[each.ours[position]] - scores[token])
    return position, float("inf")


def _reason(first: StageResult, answered: Sequence[Answered]) -> str:
    """Why it parts, likely."""
    if first.name == TOKENS:
        apart = first.evidence.get("apart")
        if apart == 1:
            return "it reads one token more: another mark before each text (a double beginning token), or a changed chat template"
        return "its chat template or its tokenizer is another one"
    if first.name == LOG_PROBABILITIES:
        return "it answers with other weights, or with weights that were rounded further than was said"
    ended = [each for each in answered if len(each.ours) < LIMIT and len(each.answer.pieces) > len(each.ours)]
    return (
        "it does not stop where the trainer does (the end token was lost), or " if ended else "it "
    ) + "answers with another model or template"
