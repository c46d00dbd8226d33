"""The adapter itself, its way into the base's weights, and PEFT's layout on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from luthier.adaptation.lora import Lora
from luthier.core.randomness import seed_of
from luthier.models.dropout import Dropout, DropoutKeys


class LoraLinear(nn.Module):
    """A linear layer that stays, and a product of two thin ones that moves.

    Args:
        base: the layer; its weights are frozen.
        rank: width of the adapter.
        alpha: the adapter's output is multiplied by alpha / rank.
        dropout: share of the adapter's inputs set to zero while training.
        site: the layer's dotted name; it keys the first weights and the dropout.
        dropout_keys: where dropout finds its keys.
    """

    def __init__(self, base: nn.Linear, rank: int, alpha: float, dropout: float, site: str, dropout_keys: DropoutKeys) -> None:
        super().__init__()
        self.base = base
        generator = torch.Generator().manual_seed(seed_of("lora", site))
        bound = base.in_features**-0.5  # PEFT's: kaiming_uniform with a = √5
        self.lora_A = nn.Parameter((torch.rand(rank, base.in_features, generator=generator) * 2 - 1) * bound)
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
        self.scale = alpha / rank
        self.dropout = Dropout(dropout, dropout_keys, f"{site}.lora")

    @property
    def weight(self) -> Tensor:
        """The base's: some networks ask a layer for its dtype before they use it (T5)."""
        return self.base.weight

    def forward(self, values: Tensor) -> Tensor:
        """# (…, in) → (…, out)"""
        return self.base(values) + (self.dropout(values) @ self.lora_A.t()) @ self.lora_B.t() * self.scale

    def merged(self) -> nn.Linear:
        """The layer with the adapter folded into its weights."""
        with torch.no_grad():
            self.base.weight += (self.lora_B.float() @ self.lora_A.float() * self.scale).to(self.base.weight.dtype)
        return self.base


def merge(network: nn.Module) -> None:
    """Fold every adapter of a network into the base's weights, in place."""
    for name, module in list(network.named_modules()):
        if isinstance(module, LoraLinear):
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, module.merged())


def save_adapter(network: nn.Module, spec: Lora, base: str, task: str, head: list[str], folder: Path) -> None:
    """Write the adapters as PEFT reads them.

    Args:
        network: with `LoraLinear` layers.
        spec: rank, alpha and dropout.
        base: the base's name, for PEFT's configuration.
        task: PEFT's task type, SEQ_CLS or CAUSAL_LM.
        head: dotted names of modules trained whole, written beside the adapters.
        folder: made when it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Tensor] = {}
    targets = []
    for name, module in network.named_modules():
        if isinstance(module, LoraLinear):
            targets.append(name)
            state[f"base_model.model.{name}.lora_A.weight"] = module.lora_A.detach().float().contiguous()
            state[f"base_model.model.{name}.lora_B.weight"] = module.lora_B.detach().float().contiguous()
        elif name in head:
            for key, tensor in module.state_dict().items():
                state[f"base_model.model.{name}.{key}"] = tensor.detach().float().contiguous()
    config: dict[str, Any] = {
        "peft_type": "LORA", "task_type": task, "base_model_name_or_path": base, "r": spec.rank, "lora_alpha": spec.alpha,
        "lora_dropout": spec.dropout, "target_modules": targets, "bias": "none", "fan_in_fan_out": False,
        "modules_to_save": [name.rsplit(".", 1)[-1] for name in head] or None, "inference_mode": True,
    }  # fmt: skip
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))
