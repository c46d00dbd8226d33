"""Where training a text model starts from: each value with its reason. Data, not code: the tables are the point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.families.choice import Choice

if TYPE_CHECKING:
    from luthier.models.base import Base

READER = "a decoder whose new head has few steps: 60 and 180 of them, three sets (docs/defaults.md)"
SMALL_ENCODER = "small encoders: 3e-5 to 3e-4 (BERT-small grid; docs/defaults.md)"
ENCODER = "encoders of BERT's size: 2e-5 to 5e-5 (the grids of BERT and RoBERTa; docs/defaults.md)"
VECTORS = "averaged word vectors: 1e-3 of 1e-4, 1e-3 and 3e-3 (docs/log/2026-11.md#word-vectors-as-a-base-of-classifiers)"
RATES: dict[tuple[str, str], tuple[float, str]] = {
    ("small encoder", "full"): (1e-4, SMALL_ENCODER),
    ("small encoder", "freeze"): (3e-4, "above a frozen prefix the learning rate can be higher"),
    ("small encoder", "gradual"): (1e-4, SMALL_ENCODER),
    ("small encoder", "lora"): (1e-3, "adapters learn at about ten times the learning rate of full tuning"),
    ("encoder", "full"): (5e-5, ENCODER),
    ("encoder", "freeze"): (1e-4, "above a frozen prefix the learning rate can be higher"),
    ("encoder", "gradual"): (5e-5, ENCODER),
    ("encoder", "lora"): (5e-4, "adapters learn at about ten times the learning rate of full tuning"),
    ("decoder", "full"): (1e-4, "full fine-tuning of 100–400M decoders on fewer than 10,000 rows"),
    ("decoder", "freeze"): (1e-4, "as full fine-tuning"),
    ("decoder", "gradual"): (1e-4, "as full fine-tuning"),
    ("decoder", "lora"): (3e-4, "flat optimum over 35 models and all ranks (Tinker cookbook's sweep)"),
    ("vectors", "full"): (1e-3, VECTORS),
    ("vectors", "freeze"): (3e-3, "above a frozen average the learning rate can be higher; not measured"),
    ("vectors", "gradual"): (1e-3, "as full tuning; not measured"),
    ("vectors", "lora"): (3e-3, "above that of full tuning; not measured"),
    ("reader", "full"): (3e-4, READER),
    ("reader", "freeze"): (6e-4, READER),
    ("reader", "gradual"): (3e-4, "as full fine-tuning"),
    ("reader", "lora"): (1e-3, "as adapters in an encoder; not measured"),
}
"""(what the base does, adaptation) → learning rate and where it comes from; a reader is a decoder that classifies."""
WHOLE = ("full", "a base of this size is tuned whole")
"""What moves, and why, where a base has no head that needs more."""
SCALES: dict[tuple[str, str], tuple[float, str]] = {
    ("reader", "gemma3_text"): (1 / 6, "Gemma 3 with a new head: 1e-4 was better than 3e-4 and 6e-4, three sets (docs/defaults.md)"),
    ("decoder", "gemma3_text"): (1 / 5, "Gemma 3: 1e-5 and 3e-5 learned in thirty steps what 1e-4 did not (docs/defaults.md)"),
}
"""(what the base does, its architecture) → what the learning rate is multiplied by where the base's own weights move, and where that comes from."""


def learning_rate(role: str, base: Base | None, adaptation: str) -> tuple[float, str]:
    """The learning rate to start from for what a base does and how it is adapted, and where it comes from."""
    lr, why = RATES[role, adaptation]
    if base is None or adaptation == "lora" or (role, base.family) not in SCALES:
        return lr, why
    scale, why = SCALES[role, base.family]
    return float(f"{lr * scale:.2g}"), why


def adaptations(role: str) -> tuple[str, ...]:
    """Adaptations whose learning rates are known for what a base does."""
    return tuple(adaptation for of, adaptation in RATES if of == role)


def adaptation_for(role: str, depth: int) -> tuple[dict[str, Any], str]:
    """What moves by default, and why."""
    if depth and role == "reader":
        return {"kind": "freeze", "depth": depth}, "a decoder that classifies does better with its lower half kept (docs/defaults.md)"
    return {"kind": WHOLE[0]}, WHOLE[1]


def schedule() -> list[Choice]:
    """How the learning rate goes."""
    return [
        Choice("schedule.kind", "linear", "straight to zero beats cosine-to-10 % (D2Z)"),
        Choice("schedule.warmup", 0.1, "10 %: prevents early divergence (Mosbach et al. 2021)"),
    ]


def regularisation(dropout: float, decay: float) -> list[Choice]:
    """Dropout and weight decay."""
    return [
        Choice("model.dropout", dropout, "the base's own" if dropout else "decoders are tuned without"),
        Choice("optimizer.weight_decay", decay, "not on biases and norms" if decay else "one pass over few rows needs none"),
    ]


def largest_batch(batches: Sequence[int], rows: float, steps: int) -> Choice:
    """The most rows a step that leave so many steps.

    Args:
        batches: the most first.
        rows: that are passed in all epochs together.
        steps: that a run should have.
    """
    batch = next((batch for batch in batches if rows >= batch * steps), batches[-1])
    if batch == batches[-1]:
        return Choice("training.batch_size", batch, "small batches for few rows")
    return Choice("training.batch_size", batch, f"the most rows a step that leave at least {steps} steps")


def vllm_command(bundle: str, dtype: str) -> str:
    """How vLLM serves a decoder's bundle: in the dtype that it was evaluated in, and without code that comes with a model.

    Args:
        bundle: its folder.
        dtype: such as float32.
    """
    return f"vllm serve {bundle} --dtype {dtype}"
