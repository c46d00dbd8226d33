"""llama.cpp's own server, asked for what parity needs: it runs beside us, or somewhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import ModelError
from luthier.core.types import Message
from luthier.delivery.exports.exporter import WEIGHTS, Encoded, WeightDifference
from luthier.delivery.exports.gguf_tensors import RoundedFile
from luthier.delivery.exports.json_http import JsonServer, Refused
from luthier.models.llama_process import NO_CHAT_PARSER

BIAS = 1e4
"""Above every logit."""
MARK = "\ue0a2"
"""A turn that is found again in a rendered text."""


class LlamaServer(RoundedFile):
    """A llama-server, over HTTP.

    Args:
        server: that answers as llama.cpp's does.
        precision: of its weights, as far as it is known.
        ends: the tokens at which it stops; None asks the server for the one that its file names.

    Raises:
        ModelError: it does not answer as llama.cpp's server does.
    """

    def __init__(self, server: JsonServer, precision: str, ends: Sequence[int] | None = None) -> None:
        self.server, self.precision, self._fields = server, precision, NO_CHAT_PARSER
        props: Mapping[str, Any] = server.get("/props")
        self.template, self.begins = str(props.get("chat_template") or ""), str(props.get("bos_token") or "")
        self.about = f"llama.cpp ({props.get('build_info') or 'of unknown version'}) at {server.url}"
        self.unseen: Mapping[str, str] = {WEIGHTS: "a server does not show its weights"}
        own = self._tokens("x", True)
        self.adds = own[0] if len(own) > len(self._tokens("x", False)) else None
        """The token that it puts before a text by itself."""
        self.ends: Sequence[int] = self._tokens(str(props.get("eos_token") or ""), False) if ends is None else ends
        self.plain = self._tokens("a", False)[0]
        """A token that can be shown."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """A text as `/completion` reads it; a mark that stands there already is not put there twice."""
        text = texts[0]
        return Encoded(self._tokens(text.removeprefix(self.begins) if self.adds is not None and self.begins else text, True))

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation by the file's own template, as the server writes it."""
        if messages[-1]["role"] != "assistant":
            return self._add_begin_token(self._apply_template(messages, True))
        whole = self._apply_template(messages, False)
        if whole.endswith(messages[-1]["content"]):  # it would continue this answer, and so left out the mark that ends it
            whole = self._apply_whole_template(messages, whole)
        return self._add_begin_token(whole)

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens that the chat route reads."""
        return self._tokens(self._apply_template(messages, True), True)

    one_by_one = True
    """Whether each log-probability takes a request, so that only those that are wanted are asked for."""

    def log_probabilities(self, tokens: Sequence[int], wanted: Sequence[bool] | None = None) -> np.ndarray:
        """Of each token but the first, one request each: the server keeps what it has read, # (tokens - 1,)

        Args:
            tokens: of a text.
            wanted: of which of them; None: of all. The others are not numbers.
        """
        ids = [int(token) for token in tokens]
        needed = [True] * len(ids) if wanted is None else wanted
        return np.array([self._behind(ids[:index], ids[index]) if needed[index] else np.nan for index in range(1, len(ids))])

    def write(self, tokens: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time."""
        result = self._complete([int(token) for token in tokens], n_predict=limit, return_tokens=True, cache_prompt=False)
        made = [int(token) for token in result["tokens"]]
        if result.get("stop_type") == "eos" and not (made and made[-1] in self.ends) and self.ends:
            made.append(int(self.ends[0]))
        return made

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without those at which it stops."""
        return str(self.server.post("/detokenize", {"tokens": [int(token) for token in tokens if token not in self.ends]})["content"])

    def compare_weights(self, bundle: Path) -> list[WeightDifference]:
        """Not to be seen over HTTP."""
        raise ModelError("a server does not show its weights")

    def close(self) -> None:
        """Let go of the connection."""
        self.server.close()

    def _tokens(self, text: str, special: bool) -> list[int]:
        return [
            int(token)
            for token in self.server.post("/tokenize", {"content": text, "add_special": special, "parse_special": True})["tokens"]
        ]

    def _apply_template(self, messages: Sequence[Message], answers: bool) -> str:
        body = {"messages": [dict(message) for message in messages], "add_generation_prompt": answers}
        return str(self.server.post("/apply-template", body)["prompt"])

    def _apply_whole_template(self, messages: Sequence[Message], begun: str) -> str:
        """A conversation with the mark that ends its last answer: what stands there before a turn that follows, without what begins that turn."""
        more: list[Any] = [*messages, {"role": "user", "content": MARK}]
        between = self._apply_template(more, False).removeprefix(begun).split(MARK)[0]
        first = self._apply_template(more[-1:], False).split(MARK)[0]
        common = next((size for size in range(len(between), 0, -1) if first.endswith(between[-size:])), 0)
        return begun + between[: len(between) - common]

    def _add_begin_token(self, text: str) -> str:
        """The text with the mark that begins it, which the server takes off where it puts it there itself."""
        writes = self.begins and ("bos_token" in self.template or self.begins in self.template)
        return self.begins + text if writes and self.adds is not None and not text.startswith(self.begins) else text

    def _complete(self, prompt: list[int], **options: Any) -> Any:
        body = {"prompt": prompt, "samplers": ["top_k"], "top_k": 1, "temperature": 0.0, "stream": False, **options}
        try:
            return self.server.post("/completion", {**body, **self._fields})
        except Refused as problem:
            if problem.status != 400 or not self._fields:
                raise
            self._fields = {}  # a version that knows another form of this field
            return self.server.post("/completion", body)

    def _behind(self, before: list[int], token: int) -> float:
        """The log-probability of a token behind others. The server tells that of the token it chose, and with a bias it chooses the wanted one; probabilities are those before the bias."""
        choice = self._score_token(before, token, 1)
        if choice.get("id") == token:
            return float(choice["logprob"])
        # a token that ends the answer, or a part of a character, is chosen and not told: so all are asked for beside another one
        choice = self._score_token(before, self.plain, 1 << 20)
        return next((float(each["logprob"]) for each in choice.get("top_logprobs", ()) if each["id"] == token), float("nan"))

    def _score_token(self, before: list[int], token: int, most: int) -> Mapping[str, Any]:
        result = self._complete(before, n_predict=1, n_probs=most, logit_bias=[[token, BIAS]], cache_prompt=True)
        return next(iter(result.get("completion_probabilities") or ()), {})
