"""From a request's texts to token ids and back, with a tokenizer of its own: that of the model belongs to the thread that predicts."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.core.types import Message, Record
from luthier.families.family import Family

if TYPE_CHECKING:
    from luthier.models.decoding.grammar import Grammar, JsonVocabulary

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How vocabularies of sentencepiece write a byte that is no character."""


class Prompts:
    """Makes prompts for a decoder, as training made them.

    Args:
        family: of the model.
        objective: as the evaluation used it.
    """

    def __init__(self, family: Family, objective: Any) -> None:
        self._lock = threading.Lock()
        self._family = family
        self.tokenizer: Any = copy.deepcopy(objective.tokenizer)
        self._objective: Any = objective.spec.open(self.tokenizer, objective.input, objective.target)
        own_end = getattr(self._objective, "end", None)
        self.ends = frozenset({int(self.tokenizer.eos_token_id if own_end is None else own_end)})
        """Tokens that end an answer."""
        self._byte_of = _bytes_of_characters() if _is_byte_level(self.tokenizer) else {}
        self._json: JsonVocabulary | None = None

    def of_conversation(self, messages: Sequence[Message]) -> list[int]:
        """A conversation that waits for an answer, by the bundle's own template; control tokens that a turn holds are characters.

        Raises:
            ValueError: which turn is wrong and why.
        """
        from luthier.data.chat import check_turns, prompt

        check_turns([*messages, {"role": "assistant", "content": "…"}])
        with self._lock:
            return prompt(self.tokenizer, messages)[0]

    def of_text(self, text: str) -> list[int]:
        """A text to be continued; of a model that holds conversations its bare tokens, of any other as its training made them."""
        with self._lock:
            if self._family.converses:
                return list(self.tokenizer(text, split_special_tokens=True, verbose=False)["input_ids"])
            return list(self._family.serving_inputs(Record(1, {self._objective.input[0]: text}), self._objective)["tokens"])

    def grammar_of(self, schema: Mapping[str, Any], width: int) -> Grammar:
        """The grammar of the JSON that fits a schema.

        Args:
            schema: a JSON schema.
            width: of the network's logits.

        Raises:
            ModelError: llguidance is not installed, or it cannot read this tokenizer.
            DataError: the schema cannot be followed.
        """
        from luthier.models.decoding.grammar import JsonVocabulary

        with self._lock:
            if self._json is None:
                self._json = JsonVocabulary(self.tokenizer, width, self.ends)
        return self._json.compile(schema)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, without the marks between turns."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def token_text(self, token: int) -> str:
        """The text of one token by itself; of a part of a character the sign that stands for it."""
        return self.tokenizer.decode([token], clean_up_tokenization_spaces=False)

    def token_bytes(self, token: int) -> list[int]:
        """The bytes of one token."""
        name = str(self.tokenizer.convert_ids_to_tokens(token))
        if self._byte_of and all(character in self._byte_of for character in name):
            return [self._byte_of[character] for character in name]
        match = BYTE.fullmatch(name)
        return [int(match[1], 16)] if match else list(self.token_text(token).encode())


def _is_byte_level(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return backend is not None and "ByteLevel" in str(getattr(backend, "decoder", ""))


def _bytes_of_characters() -> dict[str, int]:
    """The characters that byte-level vocabularies write bytes as.

    Source: Radford et al. 2019, GPT-2's encoder (`bytes_to_unicode`).
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(hidden)}
