"""Text from a causal language model, through transformers' own `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Thread
from typing import Any

import torch
from transformers import TextIteratorStreamer

from luthier.core.errors import ModelError
from luthier.core.randomness import seed_of
from luthier.models.base import positions_of
from luthier.models.memory import retry_halved
from luthier.models.pretrained import Generator

TOP = 50
"""Likeliest tokens that are drawn from."""


def end_token(tokenizer: Any) -> int:
    """The token that ends an answer."""
    return int(tokenizer.eos_token_id)


def room_for(network: Any, prompt: int, limit: int) -> int:
    """How many tokens may follow a prompt: no more than the network has positions for.

    Args:
        network: of transformers.
        prompt: tokens of it.
        limit: tokens that are asked for.

    Raises:
        ModelError: not even the prompt has room.
    """
    config = getattr(network, "config", None)  # what stands in for a network in a server keeps to its own context
    positions = positions_of(config.to_dict(), config.model_type) if config is not None else 0
    if positions and prompt >= positions:
        raise ModelError(f"the prompt has {prompt:,} tokens, and this model can place {positions:,} with its answer", "shorten the prompt")
    return min(limit, positions - prompt) if positions else limit


def generate_answers(model: Generator, tokenizer: Any, prompts: Sequence[Sequence[int]], limit: int) -> list[str]:
    """Greedy answers to a few prompts at once.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        prompts: token ids, each up to where the answer begins.
        limit: tokens an answer may have.

    Returns:
        The texts, without the mark that ends them.

    Raises:
        OutOfMemory: even one prompt is too much.
    """
    return [
        text for part in retry_halved(lambda few: _answers(model, tokenizer, few, limit), prompts, "writing an answer") for text in part
    ]


def _answers(model: Generator, tokenizer: Any, prompts: Sequence[Sequence[int]], limit: int) -> list[str]:
    longest = max(len(prompt) for prompt in prompts)
    end = end_token(tokenizer)
    ids = torch.tensor([[end] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    device = next(model.parameters()).device
    with model.for_generation() as network:
        made = network.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), max_new_tokens=room_for(network, longest, limit), do_sample=False,
            eos_token_id=end, pad_token_id=end,
        )  # fmt: skip
    return [tokenizer.decode(row[longest:], skip_special_tokens=True).strip() for row in made]


def stream_answer(model: Generator, tokenizer: Any, prompt: list[int], limit: int, temperature: float) -> Iterator[str]:
    """One answer, piece by piece.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        prompt: token ids up to where the answer begins.
        limit: tokens the answer may have.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn.
    """
    end = end_token(tokenizer)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    ids = torch.tensor([prompt], device=next(model.parameters()).device)
    options: dict[str, Any] = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    limit = room_for(model.network, len(prompt), limit)
    with model.for_generation() as network:

        def work() -> None:
            with torch.no_grad():
                network.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, eos_token_id=end,
                                 pad_token_id=end, streamer=streamer, **options)  # fmt: skip

        thread = Thread(target=work, daemon=True)
        thread.start()
        yield from (str(piece) for piece in streamer)
        thread.join()


def continuations(model: Generator, tokenizer: Any, prompts: Sequence[list[int]], limit: int, end: int, temperature: float) -> list[str]:
    """How a few texts go on.

    Args:
        model: the language model.
        tokenizer: its tokenizer.
        prompts: token ids.
        limit: tokens that are added at most.
        end: the token at which a text ends.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn, for the same prompt the same ones each time.

    Raises:
        OutOfMemory: even one prompt is too much.
    """
    texts = []
    device = next(model.parameters()).device
    for prompt in prompts:
        ids = torch.tensor([prompt], device=device)
        options: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": TOP} if temperature > 0 else {"do_sample": False}
        with torch.random.fork_rng(devices=[device] if ids.is_cuda else []), model.for_generation() as network:
            torch.manual_seed(seed_of("continuation", *prompt))
            most = room_for(network, len(prompt), limit)
            made = network.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, eos_token_id=end, pad_token_id=end, **options
            )
        texts.append(tokenizer.decode(made[0, len(prompt) :], skip_special_tokens=True))
    return texts


def log_probabilities_of(model: Generator, tokens: Sequence[int], gradient: bool = True) -> torch.Tensor:
    """The log-probability of each token but the first behind those before it, by transformers' own forward pass, # (tokens - 1,)

    Args:
        model: the language model.
        tokens: of one text, # (tokens,)
        gradient: whether gradients shall flow back.
    """
    row = torch.tensor([list(tokens)], device=next(model.parameters()).device)
    with model.for_generation() as network, torch.set_grad_enabled(gradient):
        log_probabilities = network(input_ids=row).logits[0, :-1].float().log_softmax(-1)
    return log_probabilities.gather(1, row[0, 1:, None])[:, 0]
