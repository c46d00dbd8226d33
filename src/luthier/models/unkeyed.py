"""Layers that draw random numbers from torch's own generator: a run with them could not be resumed to the same bits, so they are refused by name."""

from __future__ import annotations

from torch import nn

from luthier.core.errors import ModelError

RATES = ("p", "drop_prob", "drop_path", "drop_path_rate", "drop_rate", "rate", "prob", "probability")
"""What layers call the share that they drop."""
DROPS_PATHS = ("droppath", "stochasticdepth")
"""Parts of the names of classes that leave out whole residual branches."""


def refuse_unkeyed(model: nn.Module) -> None:
    """Refuse a model with a layer whose random numbers cannot be keyed by seed, step and example.

    `nn.Dropout` is not refused, for ours takes its place. What a forward function draws by itself cannot be seen here; the proof "randomness is keyed"
    finds it.

    Args:
        model: before it is trained.

    Raises:
        ModelError: the layers, by name and class.
    """
    layers = [f"{name or 'the model itself'} ({type(module).__name__})" for name, module in model.named_modules() if _draws(module)]
    if layers:
        listing = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
        raise ModelError(
            f"{listing}: random numbers drawn there depend on all that was drawn before, so the run could not be resumed or repeated to the same bits",
            "set its probability to 0, or use nn.Dropout, which is keyed by seed, step and example",
        )


def _draws(module: nn.Module) -> bool:
    """Whether a layer draws from torch's generator in train mode."""
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0 and not isinstance(module, nn.Dropout)
    if isinstance(module, nn.RReLU):
        return module.lower < module.upper
    if isinstance(module, nn.FractionalMaxPool2d | nn.FractionalMaxPool3d):
        return module._random_samples is None
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0 and module.num_layers > 1
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout > 0
    if any(part in type(module).__name__.lower().replace("_", "") for part in DROPS_PATHS):
        rates = [getattr(module, name) for name in RATES if isinstance(getattr(module, name, None), int | float)]
        known = rates or [name for name in RATES if hasattr(module, name)]  # there, and None: it drops nothing
        return any(rates) if known else True
    return False
