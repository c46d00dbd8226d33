"""Where training a language model starts from: each value with its reason. Data, not code: the tables are the point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.families.by_size import affordable_depth, row_for
from luthier.families.choice import Choice

if TYPE_CHECKING:
    from luthier.objectives.causal_lm import CausalLm

VOCABULARIES = (
    (200_000, 257, 1.0, "too little text for longer tokens to be met often: bytes"),
    (3_000_000, 500, 1.9, "a byte-level BPE whose tokens are each met some hundred times"),
    (30_000_000, 4_000, 3.4, "a byte-level BPE whose tokens are each met some hundred times"),
    (300_000_000, 8_000, 3.7, "a byte-level BPE; its table is a small part of the network"),
    (1 << 62, 16_000, 4.1, "a byte-level BPE; its table is a small part of the network"),
)
"""Below this many training characters, tokens of a tokenizer from scratch, characters of a token (about, English), and why."""
EPOCHS = (
    (200_000, 20, "few texts: passes until the validation texts say stop"),
    (
        3_000_000,
        6,
        "up to some four passes a text seen again is worth nearly as much as a new one, and up to sixteen something (Muennighoff et al. 2023)",
    ),
    (30_000_000, 3, "up to four passes a text seen again is worth nearly as much as a new one (Muennighoff et al. 2023)"),
    (1 << 62, 1, "much text: each once"),
)
"""Below this many training characters, passes, and why."""
DEPTHS = (
    (5_000_000, 3, "little text: a small network"),
    (30_000_000, 4, "what two cores train in minutes"),
    (300_000_000, 6, "some hundred million tokens"),
    (1 << 62, 8, "much text"),
)
"""Below this many tokens of the whole run, blocks of a network from scratch, and why."""
CONTEXT = {"scratch": (256, "a page; attention costs little yet"), "base": (512, "two pages, which the base is used to")}
HIGHEST_RATE = 4e-3
"""The Step Law was fitted on networks of 60 million weights and more; below, its learning rates are cut to this."""
FEWEST_STEPS = 100
DIALS = ("objective.depth", "objective.width", "objective.heads", "objective.context", "training.epochs")
"""Fields on which the Step Law's learning rate or batch depend; whoever sets one by hand gets these reckoned again."""


def step_law(parameters: float, tokens: float) -> tuple[float, float]:
    """The peak learning rate, and the tokens of a step, for pretraining with AdamW.

    Args:
        parameters: weights without the embeddings.
        tokens: of the whole run.

    Returns:
        the learning rate, cut to `HIGHEST_RATE`, and the tokens

    Source: Li et al. 2025, "Predictable Scale: Part I, Step Law", equation 1: 1.79 N^-0.713 D^0.307 and 0.58 D^0.571.
    """
    return min(HIGHEST_RATE, 1.79 * parameters**-0.713 * tokens**0.307), 0.58 * tokens**0.571


def operations(weights: float, vocabulary: int, width: int) -> float:
    """Floating-point operations to learn from one token: six for each weight that it passes.

    Args:
        weights: without the embeddings.
        vocabulary: tokens that the output layer tells apart.
        width: numbers a token.
    """
    return 6 * (weights + vocabulary * width)


def learning_rate(weights: float, tokens: float) -> Choice:
    """The peak learning rate by the Step Law.

    Args:
        weights: without the embeddings.
        tokens: of the whole run.
    """
    rate, _ = step_law(weights, tokens)
    law = f"the Step Law for {weights / 1e6:.1f} million weights and {tokens / 1e6:.1f} million tokens (Li et al. 2025)"
    return Choice("optimizer.lr", float(f"{rate:.2g}"), law + (", cut to what small networks bear" if rate == HIGHEST_RATE else ""))


def batch_size(tokens: float, context: int = CONTEXT["scratch"][0]) -> Choice:
    """Blocks a step by the Step Law.

    Args:
        tokens: of the whole run.
        context: tokens of a block.
    """
    _, batch = step_law(1, tokens)
    rows = max(1, round(min(batch, tokens / FEWEST_STEPS) / context))
    return Choice(
        "training.batch_size", rows, f"the Step Law for {tokens / 1e6:.1f} million tokens: {batch:,.0f} tokens a step (Li et al. 2025)"
    )


def tokens_in(characters: int) -> float:
    """Tokens of one pass over so many training characters, about."""
    return characters / row_for(VOCABULARIES, characters)[1]


def from_scratch(characters: int, seconds: float | None = None) -> list[Choice]:
    """The network, its tokenizer and how it is trained, by how much text there is and how much time.

    Args:
        characters: of the training rows.
        seconds: for everything; of these the network is the deepest that is carried over the text once, at most that which suits the text.
    """
    from luthier.models.causal import parameters
    from luthier.models.machine_speed import operations_in

    vocabulary, a_token, why_vocabulary = row_for(VOCABULARIES, characters)
    epochs, why_epochs = row_for(EPOCHS, characters)
    tokens = characters / a_token * epochs
    chosen = Choice("objective.depth", *row_for(DEPTHS, tokens))

    def of_a_token(depth: int) -> float:
        """Floating-point operations to learn from one."""
        return operations(parameters(depth, 64 * depth), vocabulary, 64 * depth)

    if seconds is not None:
        chosen = affordable_depth(chosen, lambda blocks: of_a_token(blocks) * characters / a_token, seconds)
    depth: Any = chosen.value
    context, why_context = CONTEXT["scratch"]
    if seconds is not None:
        tokens = min(tokens, operations_in(seconds) / of_a_token(depth))
    return [
        Choice("objective.vocabulary", vocabulary, why_vocabulary),
        chosen,
        Choice("objective.context", context, why_context),
        learning_rate(parameters(depth, 64 * depth), tokens),
        Choice(
            "optimizer.betas", (0.9, 0.95), "as for pretraining: the second moment forgets sooner (Brown et al. 2020; Touvron et al. 2023)"
        ),
        Choice("training.epochs", epochs, why_epochs),
        batch_size(tokens),
        Choice("schedule.kind", "linear", "straight to zero beats cosine-to-10 % (D2Z)"),
        Choice("schedule.warmup", 0.05, "a network that knows nothing needs little"),
        Choice("model.dropout", 0.0, "the validation texts say when to stop"),
        Choice("optimizer.weight_decay", 0.1, "as for pretraining (Brown et al. 2020)"),
    ]


def reckon_again(spec: CausalLm, characters: int, epochs: float, seconds: float | None) -> list[Choice]:
    """Learning rate and batch of a network from scratch whose size or passes somebody set.

    Args:
        spec: with the size as set.
        characters: of the training rows.
        epochs: passes over them.
        seconds: for everything; None where there is no limit.

    Source: the Step Law, see `step_law`.
    """
    from luthier.models.causal import parameters
    from luthier.models.machine_speed import operations_in

    width, _ = spec.size
    weights = parameters(spec.depth, width)
    tokens = tokens_in(characters) * epochs
    if seconds is not None:
        tokens = min(tokens, operations_in(seconds) / operations(weights, spec.vocabulary, width))
    return [learning_rate(weights, tokens), batch_size(tokens, spec.context)]
