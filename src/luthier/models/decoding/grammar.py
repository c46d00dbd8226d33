"""Answers that are JSON of a given form: which tokens may come next is told by a grammar, token by token (llguidance)."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.core.errors import DataError, ModelError
from luthier.core.extras import require_extra

WHITESPACE = r"\n?[ \t]{0,16}"
"""Between the parts of JSON: enough to indent, and too little for a model to write nothing else up to its limit."""
OPTIONS: Any = {"whitespace_flexible": True, "whitespace_pattern": WHITESPACE, "lenient": False, "coerce_one_of": False}
"""How a schema is read; a keyword that is not known is an error."""
OWN_OPTIONS = "x-guidance"
"""A key by which a schema could set these itself."""


class JsonVocabulary:
    """A tokenizer's tokens as grammars read them; made once for a model.

    Args:
        tokenizer: of transformers.
        width: of the logits.
        ends: tokens that end an answer.

    Raises:
        ModelError: llguidance is not installed, or it cannot read this tokenizer.
    """

    def __init__(self, tokenizer: Any, width: int, ends: Iterable[int]) -> None:
        require_extra("llguidance", "JSON mode", ModelError)
        from llguidance import LLTokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ModelError("JSON mode needs a fast tokenizer, and this model has none", "leave response_format out")
        own = copy.copy(backend)
        own.no_padding()
        own.no_truncation()
        try:
            self._tokens = LLTokenizer(own.to_str(), n_vocab=width, eos_token=sorted(ends))
        except Exception as problem:  # of compiled code, which has no class of its own
            raise ModelError(f"JSON mode cannot read this model's tokenizer: {problem}", "leave response_format out") from None

    def compile(self, schema: Mapping[str, Any]) -> Grammar:
        """The grammar of the JSON that fits a schema.

        Args:
            schema: a JSON schema; nothing that it points to elsewhere is fetched.

        Raises:
            DataError: it is no schema, nothing fits it, or it has a keyword that is not known.
        """
        from llguidance import LLMatcher

        remedy = "use the keywords that llguidance's documentation of JSON schemas names"
        if _counts_properties(schema):
            raise DataError("minProperties is not supported: a key that is written twice would count twice", "use required")
        plain = {name: value for name, value in schema.items() if name != OWN_OPTIONS}
        try:
            matcher = LLMatcher(self._tokens, LLMatcher.grammar_from_json_schema(json.dumps(plain), overrides=OPTIONS), log_level=0)
        except ValueError as problem:
            raise DataError(f"this is no JSON schema: {problem}", remedy) from None
        if matcher.is_error():
            raise DataError(matcher.get_error().partition("\n<state>")[0], remedy)
        return Grammar(matcher)


class Grammar:
    """What an answer must look like.

    Args:
        matcher: of llguidance, at the beginning.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def begin(self) -> GrammarState:
        """The state of an answer that has no tokens yet."""
        return GrammarState(self._matcher.deep_copy())


class GrammarState:
    """Where an answer stands in its grammar.

    Args:
        matcher: of llguidance, of this answer alone.
    """

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    @property
    def complete(self) -> bool:
        """Whether the answer is whole and nothing may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    def allowed_tokens(self) -> Tensor:
        """Ids of the tokens that may come next; those that end an answer are among them where it may end here, # (allowed,) int64

        Raises:
            ModelError: the grammar is too involved to be followed.
        """
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        ids = torch.from_numpy(np.flatnonzero(np.unpackbits(bits, bitorder="little")))
        if self._matcher.is_error() or not len(ids):
            raise ModelError(f"the grammar of the answer cannot be followed: {self._matcher.get_error()[:200]}", "ask for a simpler form")
        return ids

    def accept(self, token: int) -> None:
        """Go on behind a token that was allowed.

        Raises:
            ModelError: it was not.
        """
        if not self._matcher.consume_token(token):
            raise ModelError(f"token {token} does not fit the grammar of the answer", "ask for a simpler form")


def _counts_properties(schema: Any) -> bool:
    """Whether a schema asks anywhere for a least number of properties; a property of that name is none."""
    if isinstance(schema, Mapping):
        least = schema.get("minProperties")
        return (isinstance(least, int | float) and not isinstance(least, bool)) or any(map(_counts_properties, schema.values()))
    return isinstance(schema, list) and any(map(_counts_properties, schema))
