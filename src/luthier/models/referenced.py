"""A language model together with the model that it was trained from, which preference learning compares it with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from luthier.core.errors import LuthierError, ModelError
from luthier.models.base import Base
from luthier.models.precision import round_weights_to
from luthier.models.pretrained import Generator, load_generator
from luthier.models.store import resolve


class Referenced(Generator):
    """A causal language model beside which the one that it was trained from can be asked.

    Args:
        network: of transformers.
        dropout: share of activations dropped while training.
        base: what it was loaded from.
        source: what it was trained from, as it was before training.
    """

    def __init__(self, network: Any, dropout: float, base: Base, source: Callable[[], Base]) -> None:
        super().__init__(network, dropout)
        self.base, self.source = base, source
        self._origin: list[Generator] = []  # in a list: it is no part of this network

    def origin(self) -> Generator:
        """The model before training, in the same dtype and place; loaded when it is first asked for.

        Raises:
            ModelError: it is no longer to be had.
        """
        if not self._origin:
            weight = next(self.parameters())
            loaded: Any = round_weights_to(load_generator(self.source(), 0.0), weight.dtype)
            self._origin.append(loaded.to(weight.device).eval())
        return self._origin[0]


def load_referenced(base: Base, dropout: float, trained: bool) -> Referenced:
    """A base that is to be trained, or a bundle that was trained so.

    Args:
        base: a decoder.
        dropout: share of activations dropped while training.
        trained: whether it is a bundle whose origin is the base that it names; otherwise it is its own origin.
    """
    return load_generator(
        base, dropout, lambda network, share: Referenced(network, share, base, lambda: _find_base(base) if trained else base)
    )


def _find_base(bundle: Base) -> Base:
    """The base that a bundle names.

    Raises:
        ModelError: it cannot be found, or its weights are others now.
    """
    reference = (bundle.bundle or {}).get("base")
    if not reference:
        raise ModelError(f"{bundle.name} does not say what it was trained from", "train it again from a base")
    try:
        base = resolve(reference["name"])
    except LuthierError as problem:
        raise ModelError(
            f"which answers {bundle.name} prefers is measured against {reference['name']}, which it was trained from: {problem.message}",
            "put that base back where it was",
        ) from None
    if base.fingerprint != reference["sha256"]:
        raise ModelError(f"the weights of {reference['name']} are not those that {bundle.name} was trained from", "put the old base back")
    return base
