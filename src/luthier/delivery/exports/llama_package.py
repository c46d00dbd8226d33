"""A GGUF file in llama.cpp, in this process, by a Python package that brings it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from luthier.core.errors import ModelError
from luthier.core.types import Message
from luthier.delivery.exports.exporter import Encoded, WeightDifference
from luthier.delivery.exports.gguf_file import GgufFile
from luthier.delivery.exports.gguf_tensors import RoundedFile, compare_file
from luthier.delivery.exports.llama_bindings import PACKAGES, Bindings, installed_package

LONGEST = 640
"""Tokens that are read at most: of each the scores of all tokens are kept."""


class PackagedFile(RoundedFile):
    """A GGUF file in llama.cpp.

    Args:
        file: the .gguf.
        package: the module that brings llama.cpp; None: whichever is installed.

    Raises:
        ModelError: llama.cpp cannot open it, or no package brings it.
    """

    def __init__(self, file: Path, package: str | None = None) -> None:
        import torch

        package = package or installed_package()
        if package is None:
            raise ModelError("no package that brings llama.cpp is installed", "pip install llama-cpp-py-sync, or llama-cpp-python")
        self.file, self.held = file, GgufFile(file)
        try:
            self._llama: Bindings = PACKAGES[package](file, min(self.held.context, LONGEST), torch.get_num_threads())
        except (ImportError, OSError, RuntimeError, AttributeError) as problem:  # built for another system
            raise ModelError(
                f"the package {package} cannot be loaded: {str(problem)[:300]}",
                "install another version of it, or remove it: the file is then read back",
            ) from None
        self.about = f"llama.cpp ({self._llama.about})"
        self.precision, self.ends = self.held.precision, self.held.ends
        self.unseen: Mapping[str, str] = {}
        self.template = self.held["tokenizer.chat_template"] or ""
        begins = self.held["tokenizer.ggml.bos_token_id"]
        self.begins = self.held.tokens[int(begins)] if begins is not None else ""
        own = self._tokens("x", True)
        self.adds = own[0] if len(own) > len(self._tokens("x", False)) else None

    def encode(self, texts: Sequence[str]) -> Encoded:
        """A text with the mark that llama.cpp puts before it; one that stands there already is not put there twice."""
        text = texts[0]
        return Encoded(self._tokens(text.removeprefix(self.begins) if self.adds is not None and self.begins else text, True))

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation by the template in the file, written by Jinja as the package does."""
        from transformers.utils.chat_template_utils import render_jinja_template

        if not self.template:
            raise ModelError(f"{self.file} holds no chat template", "export it again: `luthier export RUN --to gguf`")
        ends = self.held["tokenizer.ggml.eos_token_id"]
        rendered, _ = render_jinja_template(
            [[dict(message) for message in messages]], chat_template=self.template, add_generation_prompt=messages[-1]["role"] != "assistant",
            bos_token=self.begins, eos_token=self.held.tokens[int(ends)] if ends is not None else "",
        )  # fmt: skip
        return str(rendered[0])

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens that the chat route reads."""
        return list(self.encode([self.render(messages)]).tokens)

    def log_probabilities(self, tokens: Sequence[int]) -> np.ndarray:
        """Of each token but the first, # (tokens - 1,)"""
        ids = [int(token) for token in tokens]
        scores = self._scores(ids)[:-1].astype(np.float64)
        largest = scores.max(1, keepdims=True)
        whole = largest[:, 0] + np.log(np.exp(scores - largest).sum(1))
        return scores[np.arange(len(ids) - 1), ids[1:]] - whole

    def write(self, tokens: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time."""
        ids = [int(token) for token in tokens]
        made = [int(self._scores(ids)[-1].argmax())]
        while len(made) < limit and made[-1] not in self.ends:
            behind = len(ids) + len(made) - 1
            made.append(int(self._llama.scores(made[-1:], behind)[-1].argmax()))
        return made

    def likeliest(self, tokens: Sequence[int]) -> list[int]:
        """The likeliest token behind each of some, in one pass."""
        return [int(token) for token in self._scores([int(token) for token in tokens]).argmax(1)]

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without control tokens."""
        return self._llama.detokenize([int(token) for token in tokens])

    def compare_weights(self, bundle: Path) -> list[WeightDifference]:
        """The tensors of the file that are not the bundle's, rounded once."""
        return compare_file(self.file, bundle)

    def close(self) -> None:
        """Let go of the network."""
        self._llama.close()

    def _tokens(self, text: str, special: bool) -> list[int]:
        return self._llama.tokenize(text, special)

    def _scores(self, ids: list[int]) -> np.ndarray:
        """The scores of all tokens behind each of some, # (tokens, vocabulary)"""
        if len(ids) > self._llama.context:
            raise ModelError(
                f"{len(ids)} tokens are more than the {self._llama.context} that are compared", "compare shorter rows: --rows FILE"
            )
        return self._llama.scores(ids)
