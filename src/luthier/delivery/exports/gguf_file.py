"""What a GGUF file says of itself, read by the `gguf` package."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from luthier.core.errors import ModelError
from luthier.delivery.exports.gguf_tensors import KINDS

NAMED_ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "<|end_of_text|>", "<eos>",
    "<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<reponame>", "<|file_sep|>",
)  # fmt: skip
"""Tokens at which llama.cpp stops writing whatever the file says, by their text. Source: llama.cpp, src/llama-vocab.cpp, `special_eog_ids`."""

FOUR_BITS = {2: "q4_0", 15: "q4_k_m"}
"""Files of four bits as llama.cpp numbers them (`general.file_type`), whatever kind most of their tensors became → as after `--dtype`."""


class GgufFile:
    """A GGUF file's own words.

    Args:
        file: the .gguf.

    Raises:
        ModelError: it is not one, or not whole.
    """

    def __init__(self, file: Path) -> None:
        import gguf

        self.file = file
        try:
            self._reader = gguf.GGUFReader(file)
        except (OSError, ValueError, KeyError, IndexError) as problem:
            raise ModelError(f"{file} cannot be read as GGUF: {problem}", "export it again: `luthier export RUN --to gguf`") from None
        self.architecture = str(self["general.architecture"])

    def __getitem__(self, key: str) -> Any:
        """A value; None where the file does not have it."""
        field = self._reader.fields.get(key)
        return None if field is None else field.contents()

    def of_network(self, key: str) -> Any:
        """A value of the network; None where the file does not have it."""
        return self[f"{self.architecture}.{key}"]

    @property
    def tensors(self) -> Any:
        """Its tensors, in order."""
        return self._reader.tensors

    @property
    def context(self) -> int:
        """Tokens that it can read."""
        return int(self.of_network("context_length"))

    @cached_property
    def tokens(self) -> list[str]:
        """Its tokens."""
        return list(self["tokenizer.ggml.tokens"])

    @property
    def ends(self) -> list[int]:
        """Tokens at which llama.cpp stops writing: first those that the file names, then those whose text is enough."""
        ids = [self[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")]
        ends_by_name = [number for number, token in enumerate(self.tokens) if token in NAMED_ENDS]
        return list(dict.fromkeys([int(each) for each in ids if each is not None] + ends_by_name))

    @property
    def precision(self) -> str:
        """How most of its weights are rounded; files of four bits as llama.cpp's quantiser notes it."""
        sizes: dict[str, int] = {}
        for tensor in self.tensors:
            if len(tensor.shape) > 1:
                sizes[tensor.tensor_type.name] = sizes.get(tensor.tensor_type.name, 0) + int(tensor.n_elements)
        most = max(sizes, key=lambda kind: sizes[kind])
        precisions = {kind: precision for precision, kind in KINDS.items()}
        return precisions.get(most) or FOUR_BITS.get(self["general.file_type"], "int4")
