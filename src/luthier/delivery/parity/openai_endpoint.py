"""A server that speaks OpenAI's routes, asked for what parity needs: ours, vLLM's, Ollama's, or another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from luthier.core.errors import ModelError, nearest
from luthier.core.types import Message
from luthier.delivery.exports.json_http import JsonServer, Refused

TOP = 5
"""Likeliest tokens that are asked for beside each: the fewest that every server allows."""


@dataclass(frozen=True)
class ServerAnswer:
    """An answer.

    Args:
        text: of it.
        pieces: the tokens as bytes; empty where the server tells none.
        log_probabilities: of each piece.
        prompt_tokens: how many tokens the server read; None where it does not say.
    """

    text: str
    pieces: tuple[bytes, ...]
    log_probabilities: tuple[float, ...]
    prompt_tokens: int | None


class OpenAiEndpoint:
    """One model of a server.

    Args:
        server: that speaks OpenAI's routes.
        name: of the model; empty takes the only one there is.

    Raises:
        ModelError: it speaks something else, or has several models or none of this name.
    """

    def __init__(self, server: JsonServer, name: str = "") -> None:
        self.server = server
        try:
            names = [str(each["id"]) for each in server.get("/v1/models")["data"]]
        except (Refused, KeyError, TypeError) as problem:
            if isinstance(problem, Refused) and problem.status in (401, 403):
                raise ModelError(
                    f"{server.url} wants a token",
                    "give it by the environment variable LUTHIER_ENDPOINT_TOKEN; `luthier serve` says which file keeps its own",
                ) from None
            raise ModelError(
                f"{server.url} does not speak OpenAI's routes: /v1/models lists no models", "see whether the address is right"
            ) from None
        matching = [each for each in names if each in (name, f"{name}:latest")] if name else names
        if len(matching) != 1:
            raise ModelError(
                f"{server.url} has no model {name!r}" if name else f"{server.url} has {len(names)} models",
                f"name it behind the address: {server.url}#{names[0] if names else 'NAME'}"
                + (f" ({nearest(name, names)})" if name and names else ""),
            )
        self.name = matching[0]
        self.about = f"{self.name} at {server.url}"

    def chat(self, messages: Sequence[Message], limit: int) -> ServerAnswer:
        """The likeliest answer of the chat route.

        Args:
            messages: that wait for an answer.
            limit: tokens at most.
        """
        turns = [dict(message) for message in messages]
        body = {"model": self.name, "messages": turns, "max_tokens": limit, "temperature": 0, "seed": 1}
        try:
            response = self.server.post("/v1/chat/completions", {**body, "logprobs": True, "top_logprobs": TOP})
        except Refused as problem:
            if problem.status not in (400, 422):
                raise
            response = self.server.post("/v1/chat/completions", body)
        choice = response["choices"][0]
        tokens = ((choice.get("logprobs") or {}).get("content")) or ()
        return ServerAnswer(
            str(choice["message"].get("content") or ""),
            tuple(_bytes(each) for each in tokens),
            tuple(float(each["logprob"]) for each in tokens),
            _read(response),
        )

    def continue_text(self, text: str, limit: int) -> ServerAnswer:
        """The likeliest continuation of the completion route.

        Args:
            text: that is continued.
            limit: tokens at most.
        """
        response = self.server.post(
            "/v1/completions", {"model": self.name, "prompt": text, "max_tokens": limit, "temperature": 0, "logprobs": 1}
        )
        choice = response["choices"][0]
        output: Mapping[str, Any] = choice.get("logprobs") or {}
        pieces = tuple(str(each).encode() for each in output.get("tokens") or ())
        return ServerAnswer(str(choice["text"]), pieces, tuple(float(each) for each in output.get("token_logprobs") or ()), _read(response))

    def tokens(self, messages: Sequence[Message]) -> list[int] | None:
        """The token ids of a conversation that waits for an answer, by vLLM's route; None where the server has none."""
        try:
            response = self.server.post(
                "/tokenize", {"model": self.name, "messages": [dict(each) for each in messages], "add_generation_prompt": True}
            )
            return [int(each) for each in response["tokens"]]
        except (Refused, KeyError, TypeError, ValueError):
            return None

    def classify(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """What vLLM's /classify says of each text: `label`, `probs`."""
        return list(self.server.post("/classify", {"model": self.name, "input": list(texts)})["data"])

    def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """The vector of each text."""
        response = self.server.post("/v1/embeddings", {"model": self.name, "input": list(texts)})
        rows = sorted((SimpleNamespace(**each) for each in response["data"]), key=lambda row: row.index)
        return [[float(value) for value in row.embedding] for row in rows]


def _bytes(token: Mapping[str, Any]) -> bytes:
    content = token.get("bytes")
    return bytes(content) if content is not None else str(token["token"]).encode()


def _read(response: Mapping[str, Any]) -> int | None:
    read = (response.get("usage") or {}).get("prompt_tokens")
    return int(read) if read is not None else None
