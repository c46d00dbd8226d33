"""A tokenizer as a GGUF file holds it: its tokens with their kinds, what is merged first, and the name by which llama.cpp knows how it cuts words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from luthier.core.errors import ModelError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Kinds of tokens, as llama.cpp numbers them."""
BYTE_LEVEL, PIECES = "gpt2", "llama"
"""llama.cpp's names of a byte-level BPE, and of SentencePiece's merges."""

_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True)
class Cutting:
    """How a byte-level BPE cuts a text into words before it merges.

    Args:
        pattern: "GPT-2" of the pattern that is built into tokenizers, else the regular expression.
        digits: whether each digit is cut off first.
        whole_words: whether a word that is a token is taken without merging (`ignore_merges`).
    """

    pattern: str
    digits: bool = False
    whole_words: bool = False


GPT2 = "GPT-2"
KNOWN: dict[Cutting, str] = {
    Cutting(GPT2): "gpt-2",
    Cutting(GPT2, digits=True): "smollm",
    Cutting(_LLAMA3, whole_words=True): "llama-bpe",
    Cutting(_LLAMA3): "smaug-bpe",
    Cutting(_QWEN2): "qwen2",
    Cutting(_TEKKEN, whole_words=True): "tekken",
}
"""How words are cut → llama.cpp's name of it (`tokenizer.ggml.pre`). Source: llama.cpp, src/llama-vocab.cpp, of which it takes the pattern by this name."""


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer.

    Args:
        model: BYTE_LEVEL or PIECES.
        pre: llama.cpp's name of how words are cut.
        tokens: in the order of their numbers, as many as the network has embeddings.
        kinds: of each token.
        merges: of a byte-level BPE, the earlier the sooner; empty of pieces.
        scores: of pieces, the higher the sooner; empty of a byte-level BPE.
        space_before: of pieces, whether a text is read as if a space stood before it.
    """

    model: str
    pre: str
    tokens: list[str]
    kinds: list[int]
    merges: list[str]
    scores: list[float]
    space_before: bool = False


def steps_of(tokenizer: Any) -> dict[str, Any]:
    """What a loaded tokenizer does, as tokenizer.json says it; the file itself may say something else, where a class of transformers knows better.

    Raises:
        ModelError: it is none of the tokenizers library; its message is the end of a sentence.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ModelError("its tokenizer is not one of the tokenizers library")
    return json.loads(backend.to_str())


def refuse_tokenizer(tokenizer: Any) -> str:
    """Why llama.cpp cannot read as a tokenizer does, as the end of a sentence; empty where it can.

    Args:
        tokenizer: the bundle's, loaded.
    """
    try:
        read_vocabulary(tokenizer, None)
    except ModelError as problem:
        return problem.message
    return ""


def changes_of(tokenizer: Any) -> list[str]:
    """What llama.cpp leaves out of how a tokenizer reads.

    Args:
        tokenizer: the bundle's, not refused.
    """
    normal = (steps_of(tokenizer).get("normalizer") or {}).get("type")
    return [f"the tokenizer's {normal}: text in another Unicode form is cut otherwise"] if normal in ("NFC", "NFKC") else []


def read_vocabulary(tokenizer: Any, rows: int | None) -> Vocabulary:
    """The vocabulary of a bundle.

    Args:
        tokenizer: the bundle's, loaded.
        rows: embeddings that the network has: more get names of their own, tokens beyond them are left out. None: as many as there are tokens.

    Raises:
        ModelError: why llama.cpp cannot read as this tokenizer does; its message is the end of a sentence.
    """
    content = steps_of(tokenizer)
    model = content["model"]
    if model.get("type") != "BPE":
        raise ModelError(f"its tokenizer is a {model.get('type')}, and only merges of pairs (BPE) are written")
    pieces = bool(model.get("byte_fallback"))
    pre, space_before = ("default", _space_before(content)) if pieces else (_name_cutting(content), False)
    names = {number: text for text, number in model["vocab"].items()}
    added: dict[int, Mapping[str, Any]] = {each["id"]: each for each in content.get("added_tokens") or []}
    names |= {number: each["content"] for number, each in added.items()}
    tokens, kinds = [], []
    for number in range(max(names) + 1 if rows is None else rows):
        text = names.get(number)
        if text is None:
            tokens.append(f"[PAD{number}]")
            kinds.append(UNUSED)
            continue
        kind = _kind(text, added.get(number), model.get("unk_token") if pieces else None, pieces)
        tokens.append(text.replace("▁", " ") if kind == USER_DEFINED and pieces else text)
        kinds.append(kind)
    pairs = [tuple(each.split(" ")) if isinstance(each, str) else tuple(each) for each in model["merges"]]
    if not pieces and not pairs:
        raise ModelError("its tokens are single bytes, and llama.cpp reads a byte-level BPE by its merges, of which there are none")
    if pieces:
        return Vocabulary(PIECES, pre, tokens, kinds, [], _scores(tokens, kinds, pairs), space_before)
    spaced = [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in pairs]
    return Vocabulary(BYTE_LEVEL, pre, tokens, kinds, spaced, [])


def _kind(text: str, added: Mapping[str, Any] | None, unknown: str | None, pieces: bool) -> int:
    """What a token is. One that is special is never shown and only read where the program asks for it; other added ones are text."""
    if unknown is not None and text == unknown:
        return UNKNOWN
    if added is not None:
        return CONTROL if added.get("special") else USER_DEFINED
    return BYTE if pieces and len(text) == 6 and text.startswith("<0x") and text.endswith(">") else NORMAL


def _scores(tokens: list[str], kinds: list[int], pairs: list[tuple[str, ...]]) -> list[float]:
    """SentencePiece joins the pair whose whole has the highest score: the earlier a whole comes among the merges, the higher."""
    first: dict[str, int] = {}
    for rank, pair in enumerate(pairs):
        first.setdefault("".join(pair), rank)
    never = float(-len(pairs) - 1)
    return [never if kind != NORMAL else float(-first[text]) if text in first else never for text, kind in zip(tokens, kinds, strict=True)]


def _name_cutting(content: Mapping[str, Any]) -> str:
    """llama.cpp's name of how a byte-level BPE cuts words.

    Raises:
        ModelError: it knows none, so that it would read other tokens than were trained on.
    """
    decoder = (content.get("decoder") or {}).get("type")
    if decoder != "ByteLevel":
        raise ModelError(f"its tokenizer neither reads bytes nor falls back on them (its decoder is {decoder})")
    normal = (content.get("normalizer") or {}).get("type")
    steps = _steps(content.get("pre_tokenizer") or {})
    digits = any(step["type"] == "Digits" and step.get("individual_digits") for step in steps)
    patterns = [step["pattern"].get("Regex") or step["pattern"].get("String") for step in steps if step["type"] == "Split"]
    levels = [step for step in steps if step["type"] == "ByteLevel"]
    if levels and levels[-1].get("use_regex", True):
        patterns.append(GPT2)
    odd = [step["type"] for step in steps if step["type"] not in ("Digits", "Split", "ByteLevel")]
    before = any(level.get("add_prefix_space") for level in levels)
    cutting = (
        Cutting(patterns[0], digits, bool(content["model"].get("ignore_merges"))) if len(patterns) == 1 and not odd and not before else None
    )
    name = KNOWN.get(cutting) if cutting is not None else None
    if name is None or normal not in (None, "NFC"):
        how = "puts a space before each text" if before else f"brings text to the form {normal}" if normal not in (None, "NFC") else f"cuts words by {' then '.join(patterns + odd) or 'nothing'}"  # fmt: skip
        raise ModelError(f"its tokenizer {how}, and llama.cpp has no name for that: it would read other tokens than were trained on")
    return name


def _space_before(content: Mapping[str, Any]) -> bool:
    """Whether a tokenizer of pieces reads a text as if a space stood before it.

    Raises:
        ModelError: it changes the text in another way, that llama.cpp does not know.
    """
    before = False
    for step in _steps(content.get("normalizer") or {}):
        if step["type"] == "Prepend" and step.get("prepend") == "▁":
            before = True
        elif not (step["type"] == "Replace" and step["pattern"].get("String") == " " and step.get("content") == "▁"):
            raise ModelError(f"its tokenizer changes the text by {step['type']} before it reads it, which llama.cpp does not do")
    for step in _steps(content.get("pre_tokenizer") or {}):
        if step["type"] == "Metaspace":
            before = before or step.get("prepend_scheme") in ("always", "first")
        elif not (step["type"] == "Split" and step["pattern"].get("String") == " " and step.get("behavior") == "MergedWithPrevious"):
            raise ModelError(f"its tokenizer cuts words by {step['type']}, which llama.cpp does not do for pieces")
    return before


def _steps(part: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The steps of a normalizer or pre-tokenizer."""
    if not part:
        return []
    if part["type"] == "Sequence":
        return [step for each in part.get("normalizers") or part.get("pretokenizers") or [] for step in _steps(each)]
    return [part]
