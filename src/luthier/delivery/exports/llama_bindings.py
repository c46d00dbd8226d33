"""llama.cpp's library, by whichever Python package brings it: what parity asks of it, and its quantiser."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from luthier.core.errors import ModelError
from luthier.models.llama_process import error_line

FP32, CPU_ONLY = 0, 0
"""The kind of a number as ggml numbers it; layers on a GPU."""
UPDATE = "export it again; or update llama.cpp"


class Bindings(Protocol):
    """A GGUF file, opened in llama.cpp's library; all numbers of the cache in fp32."""

    about: str
    context: int
    """Tokens that can be read."""

    def tokenize(self, text: str, special: bool) -> list[int]:
        """A text as token ids, with those that begin a text where `special`."""
        ...

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Token ids as text, without control tokens."""
        ...

    def scores(self, tokens: Sequence[int], behind: int = 0) -> np.ndarray:
        """The scores of all tokens behind each of some, which stand behind so many that were read before, # (tokens, vocabulary)"""
        ...

    def close(self) -> None:
        """Free the memory."""
        ...

    @staticmethod
    def quantize(source: Path, target: Path, kind: int, threads: int) -> str:
        """Let the library's quantiser round the weights of a GGUF file.

        Args:
            source: the file, in 16 or 32 bits.
            target: the new file.
            kind: as llama.cpp numbers it (`llama_ftype`).
            threads: that compute.

        Returns:
            Why it failed; empty where it did not.
        """
        ...


class LlamaCppPython:
    """llama-cpp-python, which is compiled where it is installed.

    Args:
        file: the .gguf.
        context: tokens that are read at most.
        threads: that compute.

    Raises:
        ModelError: llama.cpp cannot open the file.
    """

    def __init__(self, file: Path, context: int, threads: int) -> None:
        import llama_cpp  # pyright: ignore[reportMissingImports]  # where it is installed

        try:
            self._llama: Any = llama_cpp.Llama(
                str(file), n_ctx=context, n_batch=context, n_ubatch=context, logits_all=True, type_k=FP32, type_v=FP32, flash_attn=False,
                n_threads=threads, n_threads_batch=threads, n_gpu_layers=CPU_ONLY, verbose=False,
            )  # fmt: skip
        except (ValueError, RuntimeError, OSError) as problem:
            raise ModelError(f"llama.cpp cannot open {file}: {problem}", UPDATE) from None
        self.about, self.context = f"llama-cpp-python {llama_cpp.__version__}", int(self._llama.n_ctx())

    def tokenize(self, text: str, special: bool) -> list[int]:
        """A text as token ids, with those that begin a text where `special`."""
        return [int(token) for token in self._llama.tokenize(text.encode(), add_bos=special, special=True)]

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Token ids as text, without control tokens."""
        return self._llama.detokenize(list(tokens)).decode("utf-8", "replace")

    def scores(self, tokens: Sequence[int], behind: int = 0) -> np.ndarray:
        """The scores of all tokens behind each of some, which stand behind so many that were read before, # (tokens, vocabulary)"""
        if not behind:
            self._llama.reset()
        self._llama.eval(list(tokens))
        return self._llama.scores[behind : behind + len(tokens)]

    def close(self) -> None:
        """Free the memory."""
        self._llama.close()

    @staticmethod
    def quantize(source: Path, target: Path, kind: int, threads: int) -> str:
        """Round the weights of a file; see `Bindings`."""
        import llama_cpp  # pyright: ignore[reportMissingImports]

        settings = llama_cpp.llama_model_quantize_default_params()
        settings.ftype, settings.nthread = kind, threads
        failed = llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), settings)
        return f"llama_model_quantize gave {failed}" if failed else ""


class LlamaCppPySync:
    """llama-cpp-py-sync, which comes compiled.

    Args:
        file: the .gguf.
        context: tokens that are read at most.
        threads: that compute.

    Raises:
        ModelError: llama.cpp cannot open the file.
    """

    def __init__(self, file: Path, context: int, threads: int) -> None:
        import llama_cpp_py_sync  # pyright: ignore[reportMissingImports]  # where it is installed

        self._ffi, self._lib, self._lines = open_py_sync()
        settings = self._lib.llama_model_default_params()
        settings.n_gpu_layers = CPU_ONLY
        self._model = self._lib.llama_model_load_from_file(str(file).encode(), settings)
        if self._model == self._ffi.NULL:
            raise ModelError(f"llama.cpp cannot open {file}: {error_line(self._lines)}", UPDATE)
        memory = self._lib.llama_context_default_params()
        memory.n_ctx = memory.n_batch = memory.n_ubatch = memory.n_outputs_max = context
        memory.n_threads = memory.n_threads_batch = threads
        memory.type_k = memory.type_v = FP32
        memory.flash_attn_type = self._lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = self._lib.llama_init_from_model(self._model, memory)
        if self._context == self._ffi.NULL:
            self._lib.llama_model_free(self._model)
            raise ModelError(f"llama.cpp cannot open {file}: {error_line(self._lines)}", UPDATE)
        self._vocabulary = self._lib.llama_model_get_vocab(self._model)
        self._size = int(self._lib.llama_vocab_n_tokens(self._vocabulary))
        self.about, self.context = f"llama-cpp-py-sync {llama_cpp_py_sync.__version__}", context

    def tokenize(self, text: str, special: bool) -> list[int]:
        """A text as token ids, with those that begin a text where `special`."""
        encoded = text.encode()
        most = len(encoded) + 8
        tokens = self._ffi.new("llama_token[]", most)
        count = self._lib.llama_tokenize(self._vocabulary, encoded, len(encoded), tokens, most, special, True)
        return list(tokens[0:count])

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Token ids as text, without control tokens."""
        ids = self._ffi.new("llama_token[]", list(tokens))
        size = -self._lib.llama_detokenize(self._vocabulary, ids, len(tokens), self._ffi.NULL, 0, False, False)
        text = self._ffi.new("char[]", max(size, 1))
        count = self._lib.llama_detokenize(self._vocabulary, ids, len(tokens), text, size, False, False)
        return bytes(self._ffi.buffer(text, max(count, 0))).decode("utf-8", "replace")

    def scores(self, tokens: Sequence[int], behind: int = 0) -> np.ndarray:
        """The scores of all tokens behind each of some, which stand behind so many that were read before, # (tokens, vocabulary)"""
        if not behind:
            self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        count, ffi = len(tokens), self._ffi
        ids, positions, output_flags = ffi.new("llama_token[]", list(tokens)), ffi.new("llama_pos[]", list(range(behind, behind + count))), ffi.new("int8_t[]", [1] * count)  # fmt: skip
        one = ffi.new("llama_seq_id[]", [0])
        rows, counts = ffi.new("llama_seq_id *[]", [one] * count), ffi.new("int32_t[]", [1] * count)
        batch = ffi.new("llama_batch *", {"n_tokens": count, "token": ids, "pos": positions, "n_seq_id": counts, "seq_id": rows, "logits": output_flags})  # fmt: skip
        if self._lib.llama_decode(self._context, batch[0]):
            raise ModelError(f"llama.cpp cannot compute {count} tokens: {error_line(self._lines)}", "see whether there is memory enough")
        logits = ffi.buffer(self._lib.llama_get_logits(self._context), count * self._size * 4)
        return np.frombuffer(logits, dtype=np.float32).reshape(count, self._size).copy()

    def close(self) -> None:
        """Free the memory."""
        if self._context != self._ffi.NULL:
            self._lib.llama_free(self._context)
            self._lib.llama_model_free(self._model)
            self._context = self._ffi.NULL

    @staticmethod
    def quantize(source: Path, target: Path, kind: int, threads: int) -> str:
        """Round the weights of a file; see `Bindings`."""
        ffi, library, lines = open_py_sync()
        settings = library.llama_model_quantize_default_params()
        settings.ftype, settings.nthread = kind, threads
        failed = library.llama_model_quantize(str(source).encode(), str(target).encode(), ffi.addressof(settings))
        return error_line(lines) if failed else ""


_log: list[Any] = []
"""What llama.cpp's log is written by, which has to live as long as the library, and the lines."""


def open_py_sync() -> tuple[Any, Any, list[str]]:
    """The library that llama-cpp-py-sync brings: its types, its functions, and the lines of its log."""
    from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib  # pyright: ignore[reportMissingImports]

    ffi: Any = get_ffi()
    library: Any = get_lib()
    if not _log:
        lines: list[str] = []

        def note(level: int, text: Any, data: Any) -> None:
            lines.append(ffi.string(text).decode("utf-8", "replace").strip())
            del lines[:-40]

        callback = ffi.callback("void(enum ggml_log_level, const char *, void *)", note)
        library.llama_log_set(callback, ffi.NULL)
        library.llama_backend_init()
        _log.extend([callback, lines])
    return ffi, library, _log[1]


PACKAGES: dict[str, type[LlamaCppPython | LlamaCppPySync]] = {"llama_cpp": LlamaCppPython, "llama_cpp_py_sync": LlamaCppPySync}
"""Module → the class that asks it; the first that is installed is taken."""


def installed_package() -> str | None:
    """The module of a package that brings llama.cpp; None where there is none."""
    return next((module for module in PACKAGES if importlib.util.find_spec(module) is not None), None)
