"""Transformers as the runtime of an exported folder: in a process of its own whose network is off, or in this one."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from luthier.core.errors import ModelError
from luthier.core.types import Message
from luthier.delivery.exports.exporter import Encoded, WeightDifference

if TYPE_CHECKING:
    import torch

SCRIPT = Path(__file__).with_name("plain_transformers.py")


class TransformersRuntime:
    """What is asked of transformers, whatever the network gives.

    Args:
        folder: of the export.
        gives: as `Family.gives`.
        images: whether it reads images.
        apart: in a process of its own, which imports nothing of Luthier; otherwise in this one.
    """

    def __init__(self, folder: Path, gives: str, images: bool, apart: bool = True) -> None:
        self.gives = gives
        self._served: Any = None
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115  # what the process complains of, as long as it lives
        if apart:
            self._process = _start(folder, gives, images, self._errors)
        else:
            from luthier.delivery.exports.plain_transformers import PlainTransformers

            try:
                self._served = PlainTransformers(str(folder), gives, images)
            except (OSError, ValueError, KeyError) as problem:
                raise ModelError(f"transformers cannot open {folder}: {problem}", "export it again") from None
        result = self._ask("about")
        self.about = f"transformers {result['version']}" + (", in a process of its own, with the network off" if apart else "")
        self.precision: str = result["precision"]
        self.labels: Sequence[str] = result["labels"]
        self.ends: Sequence[int] = result["ends"]
        self.unseen: Mapping[str, str] = {}

    def _ask(self, call: str, *arguments: Any) -> Any:
        """One call, wherever it is answered.

        Raises:
            ModelError: transformers cannot answer it.
        """
        if self._served is not None:
            return getattr(self._served, call)(*arguments)
        from luthier.delivery.exports.plain_transformers import as_json, from_json

        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"call": call, "given": as_json(list(arguments))}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise ModelError(f"the process that runs transformers ended without an answer to {call}{self._why()}", "see whether there is memory enough, and try again")  # fmt: skip
        result = json.loads(line)
        if "problem" in result:
            raise ModelError(f"transformers cannot use the exported folder: {result['problem'][:500]}", "export it again")
        return from_json(result["said"])

    def _why(self) -> str:
        """How the process ended, and its last line."""
        assert self._process is not None
        code = self._process.wait()
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or [""])[-1]
        return f" ({'killed' if code == -9 else f'exit code {code}'}{': ' + last[:300] if last else ''})"

    def encode(self, texts: Sequence[str]) -> Encoded:
        """A row by the folder's own tokenizer or image processor."""
        return Encoded(**self._ask("encode", list(texts)))

    def outputs(self, rows: Sequence[Encoded]) -> list[np.ndarray]:
        """What the network gives for each row."""
        return self._ask("outputs", [_as_lists(row) for row in rows])

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation by the folder's own template."""
        return self._ask("render", [dict(message) for message in messages])

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation that waits for an answer."""
        return self._ask("prompt", [dict(message) for message in messages])

    def log_probabilities(self, tokens: Sequence[int]) -> np.ndarray:
        """Of each token but the first, # (tokens - 1,)"""
        return self._ask("log_probabilities", _numbers(tokens))

    def log_probabilities_behind(self, source: Sequence[int], target: Sequence[int]) -> np.ndarray:
        """Of each target token, # (target tokens,)"""
        return self._ask("log_probabilities_behind", _numbers(source), _numbers(target))

    def write(self, tokens: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time."""
        return self._ask("write", _numbers(tokens), limit)

    def translate(self, source: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time."""
        return self._ask("write", _numbers(source), limit)

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text."""
        return self._ask("decode", _numbers(tokens))

    def compare_weights(self, bundle: Path) -> list[WeightDifference]:
        """The tensors that are not the bundle's, rounded."""
        return [WeightDifference(**each) for each in self._ask("compare_weights", str(bundle))]

    computes = "float32"
    """Until `compute_as_used`."""

    def round_weights(self, bundle: Path) -> Iterator[tuple[str, torch.Tensor]]:
        """All that are no whole numbers, each rounded to the dtype of the export."""
        import torch
        from safetensors import safe_open

        if self.precision == "float32":
            return
        with safe_open(bundle / "model.safetensors", "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # safetensors' handle is no dict
                tensor = opened.get_tensor(name)
                if tensor.is_floating_point():
                    yield name, tensor.to(getattr(torch, self.precision))

    def compute_as_used(self) -> bool:
        """From now on, compute in the dtype of the weights; whether that is not fp32."""
        return bool(self._ask("compute_as_used"))

    def close(self) -> None:
        """End the process."""
        self._served = None
        if self._process is not None:
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()
            self._process.wait()
            self._process = None
        self._errors.close()


def _start(folder: Path, gives: str, images: bool, errors: IO[str]) -> subprocess.Popen[str]:
    """The process: isolated from this one's paths and variables of Python, with as many threads."""
    import torch

    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [sys.executable, "-I", str(SCRIPT), str(folder), gives, "images" if images else "texts", str(torch.get_num_threads())]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env={**environment, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    )  # fmt: skip


def _numbers(tokens: Sequence[int]) -> list[int]:
    return [int(token) for token in tokens]


def _as_lists(row: Encoded) -> dict[str, Any]:
    """A row without what it lacks."""
    results: dict[str, Any] = {name: _numbers(value) for name, value in (("tokens", row.tokens), ("segments", row.segments), ("keep", row.keep)) if value is not None}  # fmt: skip
    return results | ({"pixels": row.pixels} if row.pixels is not None else {})
