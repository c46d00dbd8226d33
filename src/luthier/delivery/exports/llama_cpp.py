"""A GGUF file in llama.cpp itself: its server, its Python package, or both, whichever is installed; else read back without it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luthier.delivery.exports.exporter import Runtime, WeightDifference
from luthier.delivery.exports.gguf_file import GgufFile
from luthier.delivery.exports.gguf_tensors import compare_file
from luthier.delivery.exports.json_http import JsonServer
from luthier.delivery.exports.llama_bindings import installed_package
from luthier.delivery.exports.llama_server import LlamaServer
from luthier.models.llama_process import LlamaProcess, find_server, options_of

if TYPE_CHECKING:
    from luthier.delivery.exports.llama_package import PackagedFile

LONGEST = 2048
"""Tokens that a comparison reads at most: a longer context only takes memory."""


def open_gguf(file: Path) -> Runtime:
    """A GGUF file, opened in what there is.

    Args:
        file: the .gguf.

    Raises:
        ModelError: it cannot be opened there.
    """
    from luthier.delivery.exports.llama_package import PackagedFile

    program = find_server()
    packaged = installed_package() is not None
    if program is not None:
        return ServedFile(file, program, PackagedFile(file) if packaged else None)
    if packaged:
        return PackagedFile(file)
    from luthier.delivery.exports.gguf_read_back import ReadBack

    return ReadBack(file)


class ServedFile(LlamaServer):
    """A GGUF file in a llama-server of its own, on this machine alone.

    Args:
        file: the .gguf.
        program: the path of llama-server.
        numbers: the same file in llama.cpp's Python package, which is asked for log-probabilities: a server tells one a request, it those of a whole text.

    Raises:
        ModelError: it cannot open the file; with its own words.
    """

    def __init__(self, file: Path, program: str, numbers: PackagedFile | None = None) -> None:
        import torch

        self.file, self.numbers = file, numbers
        self.one_by_one = numbers is None
        header = GgufFile(file)
        # states and caches in fp32: what rounding there is comes from the file; one slot, so that no other request decides how a batch is cut
        options = ["-c", str(min(header.context, LONGEST)), "-np", "1", "-t", str(torch.get_num_threads()), "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--jinja"]  # fmt: skip
        self._process = LlamaProcess(program, file, [*options, *options_of(program, "--no-prefill-assistant")])
        try:
            self._process.wait_until_ready()
            super().__init__(JsonServer(f"http://127.0.0.1:{self._process.port}", self._process.key), header.precision, header.ends)
        except BaseException:
            self.close()
            raise
        self.about = self.about.split(" at ")[0]
        self.unseen: Mapping[str, str] = {}

    def log_probabilities(self, tokens: Sequence[int], wanted: Sequence[bool] | None = None) -> np.ndarray:
        """Of each token but the first, # (tokens - 1,)"""
        return super().log_probabilities(tokens, wanted) if self.numbers is None else self.numbers.log_probabilities(tokens)

    def compare_weights(self, bundle: Path) -> list[WeightDifference]:
        """The tensors of the file that are not the bundle's, rounded once."""
        return compare_file(self.file, bundle)

    def close(self) -> None:
        """End the server."""
        if self.numbers is not None:
            self.numbers.close()
        with contextlib.suppress(AttributeError):
            super().close()
        self._process.close()
