"""Adapters on disk, as PEFT reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from luthier.adaptation.lora import Lora
from luthier.adaptation.lora_layer import LoraLinear


def save_adapter(network: nn.Module, spec: Lora, base: str, task: str | None, head: list[str], folder: Path) -> None:
    """Write the adapters as PEFT reads them.

    Args:
        network: with `LoraLinear` layers.
        spec: rank, alpha and dropout.
        base: the base's name, for PEFT's configuration.
        task: PEFT's task type, such as SEQ_CLS; None where it has none, as for images.
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
