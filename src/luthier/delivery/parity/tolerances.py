"""How far an exported form may be from the trainer before they are said to part: by what its weights are rounded to, with the reason of each number."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.core.errors import ModelError, nearest


@dataclass(frozen=True)
class Tolerance:
    """What is still rounding.

    Args:
        probability: largest difference of a probability, a share of a vector's length, or of a number in standard deviations.
        log_probability: largest difference of a token's log-probability.
        mean: of the tokens' differences, without sign; a fault moves many tokens, rounding few.
        exact: whether the same answers are expected but for ties.
        why: the reason.
    """

    probability: float
    log_probability: float
    mean: float
    exact: bool
    why: str


TOLERANCES: dict[str, Tolerance] = {
    "float32": Tolerance(
        1e-4, 2e-3, 2e-4, True, "24 bits of mantissa; the sums of another kernel's other order leave about 1e-5 of a logit of 20"
    ),
    "text": Tolerance(1e-5, 2e-3, 2e-4, True, "six digits of each number are written"),
    "float16": Tolerance(2e-2, 0.25, 0.02, False, "11 bits of mantissa: 5e-4 of each weight, over some ten blocks"),
    "bfloat16": Tolerance(6e-2, 1.0, 0.08, False, "8 bits of mantissa: 4e-3 of each weight and, where it computes so, of each state"),
    "q8_0": Tolerance(
        6e-2,
        1.3,
        0.15,
        False,
        "8 bits a weight, one scale for 32 of them: 4e-3 of the largest of these; llama.cpp rounds the states so too",
    ),
    "int8": Tolerance(6e-2, 1.0, 0.08, False, "8 bits a weight, one scale for a block or a row: 4e-3 of the largest of these"),
    "int4": Tolerance(
        0.25,
        9.0,
        0.5,
        False,
        "4 bits a weight: 7e-2 of the largest of its block; twice what a healthy model was apart; the metric tells whether that is enough",
    ),
}
"""Precision of the weights → what rounding explains. Healthy exports: smollm2-135m in int8 is 0.37 apart in the largest and 0.035 in the mean of 153 tokens;
in q4_k_m 4.4 and 0.24 of 1,457 tokens; small networks in fp32 2e-6 (benchmarks/export_faults.py)."""


def tolerance_of(precision: str) -> Tolerance:
    """What rounding to a precision explains.

    Raises:
        ModelError: nobody has said so.
    """
    if precision not in TOLERANCES:
        raise ModelError(f"there is no tolerance for weights in {precision}", nearest(precision, TOLERANCES))
    return TOLERANCES[precision]
