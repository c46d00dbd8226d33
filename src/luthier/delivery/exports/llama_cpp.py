"""A GGUF file in llama.cpp itself: its server, its Python package, or both, whichever is installed; else read back without it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import ModelError
from luthier.delivery.exports.exporter import Runtime, WeightDifference
from luthier.delivery.exports.gguf_file import GgufFile
from luthier.delivery.exports.gguf_tensors import compare_file
from luthier.delivery.exports.json_http import JsonServer
from luthier.delivery.exports.llama_bindings import error_line, installed_package
from luthier.delivery.exports.llama_server import LlamaServer

if TYPE_CHECKING:
    from luthier.delivery.exports.llama_package import PackagedFile

SERVER = "llama-server"
LONGEST = 2048
"""Tokens that a comparison reads at most: a longer context only takes memory."""
PATIENCE = 300
"""Seconds that a server may take to read the file."""


def open_gguf(file: Path) -> Runtime:
    """A GGUF file, opened in what there is.

    Args:
        file: the .gguf.

    Raises:
        ModelError: it cannot be opened there.
    """
    from luthier.delivery.exports.llama_package import PackagedFile

    program = shutil.which(SERVER)
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
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the server runs
        port = _free_port()
        threads = str(torch.get_num_threads())
        # states and caches in fp32: what rounding there is comes from the file; one slot, so that no other request decides how a batch is cut
        command = [program, "-m", str(file), "--host", "127.0.0.1", "--port", str(port), "-c", str(min(header.context, LONGEST)), "-np", "1", "-t", threads,
                   "-ctk", "f32", "-ctv", "f32", "-fa", "off", "--jinja", *_known(program, "--no-prefill-assistant", "--no-webui")]  # fmt: skip
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT)
        self._ended = weakref.finalize(self, _end, self._process)  # also where the program ends without `close`
        try:
            server = self._wait(JsonServer(f"http://127.0.0.1:{port}"))
            super().__init__(server, header.precision, header.ends)
        except BaseException:
            self.close()
            raise
        self.about = self.about.split(" at ")[0]
        self.unseen: Mapping[str, str] = {}

    def _wait(self, server: JsonServer) -> JsonServer:
        """Until the server has read the file."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise ModelError(f"llama.cpp cannot open {self.file}: {self._last_words()}", "export it again; or update llama.cpp")
            with contextlib.suppress(ModelError):
                server.get("/health")
                return server
            time.sleep(0.1)
        raise ModelError(f"llama.cpp has not read {self.file} in {PATIENCE} seconds", "see whether there is memory enough")

    def _last_words(self) -> str:
        self._log.seek(0)
        return error_line(self._log.read().splitlines())

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
        self._ended()
        self._log.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a server, and wait for it."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@cache
def _known(program: str, *options: str) -> Sequence[str]:
    """Those of some options that this version of the program has."""
    done: Any = subprocess.run([program, "--help"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return [option for option in options if option in done.stdout + done.stderr]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
