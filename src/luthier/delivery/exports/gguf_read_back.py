"""A GGUF file read back and dequantised by transformers, where llama.cpp is not installed: the proof of the file, not of the program that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import ModelError
from luthier.core.types import Message
from luthier.delivery.exports.exporter import Encoded, WeightDifference
from luthier.delivery.exports.gguf_file import GgufFile
from luthier.delivery.exports.gguf_tensors import KINDS, RoundedFile, compare_file
from luthier.delivery.exports.gguf_tokenizer import BYTE_LEVEL, GPT2, KNOWN
from luthier.models.gguf import hide_progress


class ReadBack(RoundedFile):
    """A GGUF file in transformers.

    Args:
        file: the .gguf.

    Raises:
        ModelError: transformers cannot read it.
    """

    def __init__(self, file: Path) -> None:
        import torch
        import transformers

        import luthier.core.hub  # noqa: F401  # keeps transformers offline

        hide_progress()
        self.file, self.held = file, GgufFile(file)
        header = self.held
        try:
            config: Any = transformers.AutoConfig.from_pretrained(str(file.parent), gguf_file=file.name)
            config.head_dim = int(header.of_network("attention.key_length"))  # transformers takes its usual one for some architectures
            if hasattr(config, "query_pre_attn_scalar"):
                config.query_pre_attn_scalar = config.head_dim  # as llama.cpp scales
            pattern = header.of_network("attention.sliding_window_pattern")
            if pattern is not None:
                config.layer_types = ["sliding_attention" if windowed else "full_attention" for windowed in pattern]
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                str(file.parent), gguf_file=file.name, config=config, dtype=torch.float32
            )
            self.tokenizer: Any = transformers.AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name)
        except (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError) as problem:
            raise ModelError(
                f"transformers cannot read {file} back: {problem}", "install llama.cpp: its `llama-server` is asked where it is on the PATH"
            ) from None
        self.model: Any = _with_rope(model.eval(), header)
        _cut_words(self.tokenizer, header)
        self.about = f"transformers {transformers.__version__}, which read the file back: llama.cpp is not installed and was not asked"
        self.precision, self.ends = header.precision, header.ends
        self.unseen: Mapping[str, str] = {}
        self.begins = header["tokenizer.ggml.bos_token_id"]
        self.adds = bool(header["tokenizer.ggml.add_bos_token"]) and self.begins is not None
        self.template = header["tokenizer.chat_template"] or ""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """A text with the mark that the file puts before it; one that stands there already is not put there twice."""
        mark = self.held.tokens[int(self.begins)] if self.adds else ""
        return Encoded([int(self.begins)] * self.adds + self._ids(texts[0].removeprefix(mark)))

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation by the template in the file."""
        if not self.template:
            raise ModelError(f"{self.file} holds no chat template", "export it again: `luthier export RUN --to gguf`")
        answers = messages[-1]["role"] != "assistant"
        turns = [dict(message) for message in messages]
        return str(self.tokenizer.apply_chat_template(turns, chat_template=self.template, tokenize=False, add_generation_prompt=answers))

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation that waits for an answer."""
        return list(self.encode([self.render(messages)]).tokens)

    def log_probabilities(self, tokens: Sequence[int]) -> np.ndarray:
        """Of each token but the first, # (tokens - 1,)"""
        import torch

        ids = torch.tensor([[int(token) for token in tokens]])
        with torch.no_grad():
            result = self.model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        return result.gather(1, ids[0, 1:, None])[:, 0].numpy()

    def write(self, tokens: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time."""
        import torch

        ids = torch.tensor([[int(token) for token in tokens]])
        with torch.no_grad():
            made = self.model.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, eos_token_id=self.ends or None, pad_token_id=0
            )  # fmt: skip
        return [int(token) for token in made[0, ids.shape[1] :]]

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without control tokens."""
        return str(self.tokenizer.decode([int(token) for token in tokens], skip_special_tokens=True))

    def compare_weights(self, bundle: Path) -> list[WeightDifference]:
        """The tensors of the file that are not the bundle's, rounded once."""
        return compare_file(self.file, bundle)

    @property
    def computes(self) -> str:
        """Exactly, once the weights are rounded; a quantiser of llama.cpp's own cannot be followed."""
        return "float32" if self.precision in KINDS else self.precision

    def close(self) -> None:
        """Let go of the network."""
        self.model = None

    def _ids(self, text: str) -> list[int]:
        return [int(token) for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]]


def _with_rope(model: Any, header: GgufFile) -> Any:
    """The network with its rotary positions as the file stretches them: transformers reads only their base."""
    import torch

    kind, factor = header.of_network("rope.scaling.type"), header.of_network("rope.scaling.factor")
    divisors = next((tensor for tensor in header.tensors if tensor.name == "rope_freqs.weight"), None)
    for module in model.modules():
        turning = getattr(module, "inv_freq", None)
        if not isinstance(turning, torch.Tensor):
            continue
        if divisors is not None:
            turning.div_(torch.tensor(np.array(divisors.data), dtype=turning.dtype))
        elif kind == "linear":
            turning.div_(float(factor))
        elif kind not in (None, "none"):
            raise ModelError(
                f"{header.file} stretches its rotary positions by {kind}, which is only read in llama.cpp",
                "install llama.cpp: its `llama-server` is asked where it is on the PATH",
            )
    return model


def _cut_words(tokenizer: Any, header: GgufFile) -> None:
    """Let a byte-level BPE cut words as the name in the file says: transformers takes one way for all.

    Raises:
        ModelError: a name that Luthier does not write.
    """
    from tokenizers import Regex, pre_tokenizers

    if header["tokenizer.ggml.model"] != BYTE_LEVEL:
        return
    pre = header["tokenizer.ggml.pre"]
    cutting = next((known for known, name in KNOWN.items() if name == pre), None)
    if cutting is None:
        raise ModelError(f"{header.file} cuts words by {pre!r}, which Luthier does not write", "open it in llama.cpp")
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if cutting.digits else []
    if cutting.pattern != GPT2:
        steps.append(pre_tokenizers.Split(Regex(cutting.pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cutting.pattern == GPT2))
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.backend_tokenizer.normalizer = None
