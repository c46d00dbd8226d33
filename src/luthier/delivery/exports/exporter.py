"""What an export format has to do, and what parity asks of the exported form in its own runtime."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from luthier.core.types import Message

if TYPE_CHECKING:
    import numpy as np
    import torch

    from luthier.models.base import Base

Say = Callable[[str], None]
RENDERED, TOKENS, WEIGHTS, LOG_PROBABILITIES, TEXT, METRIC = "rendered text", "token ids", "weights", "log-probabilities", "decoded text", "metric"  # fmt: skip
STAGES = (RENDERED, TOKENS, WEIGHTS, LOG_PROBABILITIES, TEXT, METRIC)
"""In the order in which a row goes through them; the first that parts is the one to be mended."""


class Exporter(Protocol):
    """One format. It is made without arguments; what it writes is proven by `delivery.parity` in the runtime that `open` gives."""

    name: str
    """As after `--to`."""
    about: str
    """What it is for, in a line."""
    packages: tuple[str, ...]
    """Modules that writing or opening needs, each listed in `core.extras.EXTRAS`."""
    precisions: tuple[str, ...]
    """What `--dtype` may name, keys of `delivery.parity.tolerances.TOLERANCES`; the first is taken where nobody names one ("auto": as the bundle's weights are)."""

    def refuse(self, bundle: Base, precision: str) -> str:
        """Why this format cannot hold a bundle, as the end of a sentence ("… because its probe …"); empty where it can. Read from files alone: nothing is loaded.

        Args:
            bundle: checked against its manifest; `bundle.bundle` is its luthier.json.
            precision: one of `precisions`.
        """
        ...

    def losses(self, bundle: Base, precision: str) -> list[str]:
        """What of the bundle the format holds otherwise or not at all, each a sentence, said before work begins.

        Args:
            bundle: that is not refused.
            precision: one of `precisions`.
        """
        ...

    def write(self, bundle: Base, folder: Path, precision: str, say: Say) -> None:
        """Write all files.

        Args:
            bundle: that is not refused.
            folder: there, and empty; every file in it is part of the export.
            precision: one of `precisions`.
            say: told what takes long.

        Raises:
            ModelError: it cannot be written after all.
        """
        ...

    def usage(self, bundle: Base, folder: Path) -> str:
        """The exact command that uses the result without Luthier.

        Args:
            bundle: that was exported.
            folder: of the export.
        """
        ...

    def open(self, folder: Path) -> Runtime:
        """The exported form in its own runtime, which reads nothing but the folder.

        Args:
            folder: of the export; `read_facts` gives what is known of it.

        Raises:
            ModelError: the files are not whole, or their runtime is missing.
        """
        ...


@dataclass(frozen=True)
class Encoded:
    """One row as a network reads it.

    Args:
        tokens: ids; empty of an image.
        segments: which of two texts each token is of; None of one text.
        pixels: of an image, 0 to 255, # (side, side, channels) of uint8
        keep: places whose outputs are wanted, where a network gives one for each token; None: all.
    """

    tokens: Sequence[int] = ()
    segments: Sequence[int] | None = None
    pixels: np.ndarray | None = None
    keep: Sequence[int] | None = None


@dataclass(frozen=True)
class WeightDifference:
    """A tensor that is not what rounding makes of the bundle's.

    Args:
        name: of the tensor in the bundle; in the export where the bundle lacks it.
        largest: difference of one number; infinite where it is missing or has another shape.
        allowed: what rounding to the export's precision explains.
    """

    name: str
    largest: float
    allowed: float


class Runtime(Protocol):
    """An exported form, opened: what every kind of it can be asked. What a runtime cannot be asked it names in `unseen`."""

    about: str
    """The runtime with its version, for a person: "transformers 5.23.0, in a process of its own"."""
    precision: str
    """How its weights are rounded, a key of `delivery.parity.tolerances.TOLERANCES`: float32, bfloat16, float16, int8, q8_0."""
    unseen: Mapping[str, str]
    """Stage → why this runtime cannot answer it. Such a stage is reported as unseen, never as passed."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """A row as its own tokenizer reads it, cut to what it reads and with the tokens that it adds by itself.

        Args:
            texts: one, or two that are read together.
        """
        ...

    def compare_weights(self, bundle: Path) -> list[WeightDifference]:
        """The tensors that differ from a bundle's by more than rounding explains; asked unless `unseen` names the stage.

        Args:
            bundle: its folder, with model.safetensors.
        """
        ...

    def close(self) -> None:
        """Let go of memory and processes."""
        ...


@runtime_checkable
class RoundsWeights(Protocol):
    """A runtime whose rounding of the weights can be done to the trainer's as well: what was asked for is then no difference between them."""

    computes: str
    """What else it rounds, as a key of `delivery.parity.tolerances.TOLERANCES`: "float32" where it is nothing but the weights, else its precision."""

    def round_weights(self, bundle: Path) -> Iterator[tuple[str, torch.Tensor]]:
        """The tensors that its precision rounds, by name, rounded once: of the bundle, never of the export, whose faults would be taken over.

        Args:
            bundle: its folder, with model.safetensors.
        """
        ...


@runtime_checkable
class ComputesAsUsed(Protocol):
    """A runtime that computes more exactly for the proof than it does for whoever uses the export."""

    def compute_as_used(self) -> bool:
        """From now on, compute as for them; whether that is another way."""
        ...


@runtime_checkable
class Reader(Runtime, Protocol):
    """A network that says something of a row: classes, labels, a number, a vector, a picture."""

    labels: Sequence[str]
    """Names of the outputs, in the order in which the exported form gives them; empty where they have none."""

    def outputs(self, rows: Sequence[Encoded]) -> list[np.ndarray]:
        """What the network gives for each row: logits # (outputs,); of every kept token # (kept, outputs); a vector # (width,); a picture # (side, side, channels)."""
        ...


@runtime_checkable
class Writer(Runtime, Protocol):
    """A decoder."""

    ends: Sequence[int]
    """Tokens at which it stops writing by itself."""

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation as its own chat template writes it: up to where an answer begins where the last turn is the user's, else whole.

        Args:
            messages: of roles system, user and assistant.
        """
        ...

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The token ids that its own chat route would read of a conversation that waits for an answer."""
        ...

    def log_probabilities(self, tokens: Sequence[int]) -> np.ndarray:
        """The log-probability of each token but the first behind those before it, # (tokens - 1,)"""
        ...

    def write(self, tokens: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time, up to `limit` or to one of its `ends`, which is given too where it was met."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Token ids as text, without control tokens."""
        ...


@runtime_checkable
class Translator(Runtime, Protocol):
    """A network that reads one text and writes another."""

    ends: Sequence[int]
    """Tokens at which it stops writing by itself."""

    def log_probabilities_behind(self, source: Sequence[int], target: Sequence[int]) -> np.ndarray:
        """The log-probability of each target token behind the source and those before it, # (target tokens,)"""
        ...

    def translate(self, source: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time, up to `limit` or to one of its `ends`, which is given too where it was met."""
        ...

    def decode(self, tokens: Sequence[int]) -> str:
        """Token ids as text, without control tokens."""
        ...


@runtime_checkable
class WordTable(Runtime, Protocol):
    """Vectors of words."""

    def words(self) -> Sequence[str]:
        """In the order of their vectors."""
        ...

    def vectors(self) -> np.ndarray:
        """One a word, # (words, width)"""
        ...


def facts_of(bundle: Base) -> dict[str, Any]:
    """What luthier.json says of a bundle."""
    assert bundle.bundle is not None
    return bundle.bundle
