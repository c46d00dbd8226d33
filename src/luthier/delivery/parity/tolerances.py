"""How far an exported form may be from the trainer before they are said to part: by what its weights are rounded to, with what was measured beside each number."""

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

    @property
    def tie(self) -> float:
        """By how much likelier one of two tokens may be in the trainer where either may be written: each may move by the largest difference of an exact form, else by the mean."""
        return 2 * (self.log_probability if self.exact else self.mean)


# Behind each line stands what healthy exports were apart at most: probabilities of MiniLM (77 intents, and two kinds of messages; 200 rows each) | log-probabilities of
# SmolLM2-135M (school problems, 16 rows, 1,457 tokens), and those in the mean. Allowed is three times that; in four bits twice, for the tensors and the metric are finer sieves
# there; of fp32 ten times, for its kernels differ more on longer rows and with larger logits, and a fault is far above it (positions at another rate: 1.8).
TOLERANCES: dict[str, Tolerance] = {
    "float32": Tolerance(1e-4, 5e-4, 1e-4, True, "24 bits of mantissa; other kernels sum in another order"),  # 1.7e-6 | transformers 1.9e-6, 6.8e-7; ONNX 5.6e-5, 8.8e-6
    "float32 in llama.cpp": Tolerance(1e-4, 2.4e-3, 7e-4, True, "it takes GELU from a table of 16 bits"),  # 5.4e-5, 8.7e-6; tiny networks with GELU 8e-4, 2.2e-4
    "text": Tolerance(1e-5, 5e-4, 1e-4, True, "six digits of each number are written"),
    "float16": Tolerance(7e-3, 0.25, 0.05, False, "11 bits of mantissa: 5e-4 of each weight, over some ten blocks"),  # 2.4e-3 | 0.076, 0.016 of a run in fp32 (102 tokens); of one in bf16, whose weights float16 holds as they are, 0.020, 0.0010
    "bfloat16": Tolerance(0.06, 1.5, 0.09, False, "8 bits of mantissa: 4e-3 of each weight and, where it computes so, of each state"),  # 0.021 | 0.49, 0.030
    "int8": Tolerance(0.11, 4.0, 0.1, False, "8 bits a weight, one scale for a block or a row: 4e-3 of the largest of these"),  # 0.036 | 1.35, 0.033
    "q8_0": Tolerance(0.11, 3.5, 0.17, False, "8 bits a weight, one scale for 32 of them; llama.cpp rounds the states so too"),  # as int8 | 1.16, 0.055
    "q4_k_m": Tolerance(0.25, 9.0, 0.5, False, "4 to 6 bits a weight, a scale and a lowest value for 32 of them: 3e-2 of their range"),  # not measured | 4.4, 0.24
    "q4_0": Tolerance(0.5, 16.0, 1.1, False, "4 bits a weight, one scale for 32 of them: 7e-2 of the largest of these"),  # not measured | 8.1, 0.56
    "int4": Tolerance(0.5, 16.0, 1.1, False, "4 bits a weight, and nobody says how: as q4_0"),
}  # fmt: skip
"""Precision of the weights → what rounding explains (benchmarks/export_faults.py)."""


def tolerance_of(precision: str, program: str = "") -> Tolerance:
    """What rounding to a precision explains.

    Args:
        precision: of the weights.
        program: that computes with them, as a runtime says it of itself.

    Raises:
        ModelError: nobody has said so.
    """
    if precision not in TOLERANCES:
        raise ModelError(f"there is no tolerance for weights in {precision}", nearest(precision, TOLERANCES))
    return TOLERANCES.get(f"{precision} in {program.split(' ')[0]}", TOLERANCES[precision])
