"""What is shipped: weights, tokenizer, configuration and card, in the Hugging Face layout."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from luthier.adaptation.lora import Lora
from luthier.adaptation.lora_layer import merge, save_adapter
from luthier.core.errors import ModelError
from luthier.core.run import file_hash, writing
from luthier.experiment import Experiment
from luthier.models.manifest import write_facts
from luthier.models.precision import compute_in
from luthier.models.pretrained import Classifier, PackedNetwork
from luthier.models.store import KEPT_FILES, Base


def write_bundle(folder: Path, model: PackedNetwork, tokenizer: Any, experiment: Experiment, base: Base, card: str) -> None:
    """Write a bundle aside, then put it in place at once. Adapters are written too, and folded into the weights.

    Args:
        folder: the bundle's place.
        model: at its best weights; adapters are merged in place.
        tokenizer: the base's.
        experiment: what the model was trained for.
        base: what it was trained from.
        card: README.md.
    """
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    with writing(str(folder)):
        aside.mkdir(parents=True)
        network = model.network
        if isinstance(experiment.adaptation, Lora):
            names = {id(module): name for name, module in network.named_modules()}
            head = [names[id(module)] for module in getattr(model, "head", [])]
            task = "SEQ_CLS" if isinstance(model, Classifier) else "CAUSAL_LM"
            save_adapter(network, experiment.adaptation, base.name, task, head, aside / "adapter")
            merge(network)
        _write_weights(network, aside)
        _write_config(network, model, aside)
        tokenizer.save_pretrained(aside)
        if not (aside / "tokenizer.json").exists():
            for name in KEPT_FILES:
                if name.startswith(("tokenizer", "vocab", "merges")) and (base.folder / name).is_file() and not (aside / name).exists():
                    shutil.copyfile(base.folder / name, aside / name)
        (aside / "README.md").write_text(card)
        about = {
            "task": experiment.data.task,
            "objective": experiment.objective.model_dump(mode="json"),
            "input": list(experiment.data.input),
            "target": experiment.data.target,
            "pooling": model.pooling if isinstance(model, Classifier) else None,
            "dtype": experiment.training.dtype,
            "base": {"name": base.name, "sha256": base.fingerprint},
            "experiment": experiment.key,
            "sha256": file_hash(aside / "model.safetensors"),
        }
        write_facts(aside, about)  # last: it holds the hash of every other file
        for file in aside.rglob("*"):
            if file.is_file():
                handle = os.open(file, os.O_RDONLY)
                os.fsync(handle)
                os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)


def _write_weights(network: Any, folder: Path) -> None:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if getattr(network.config, "tie_word_embeddings", False):
        state.pop("lm_head.weight", None)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _write_config(network: Any, model: PackedNetwork, folder: Path) -> None:
    config = json.loads(network.config.to_json_string())
    for key in [key for key in config if key.startswith("_")]:
        del config[key]
    config["architectures"] = [type(network).__name__]
    config["dtype"] = str(next(network.parameters()).dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    if getattr(network, "generation_config", None) is not None:
        network.generation_config.save_pretrained(folder)


def open_bundle(base: Base, tokenizer: Any) -> tuple[PackedNetwork, Any]:
    """A bundle's model, in the dtype it was evaluated in, and its objective.

    Args:
        base: a bundle, resolved: its files were checked against its manifest.
        tokenizer: its own.

    Raises:
        ModelError: it is not a bundle.
    """
    from luthier.models.pretrained import load_classifier, load_generator
    from luthier.objectives import OBJECTIVES

    about = base.bundle
    if about is None:
        raise ModelError(f"{base.folder} is not a Luthier bundle: it has no luthier.json", "give RUN/bundle, or the run's folder")
    spec = OBJECTIVES[about["objective"]["kind"]].model_validate(about["objective"])
    objective = spec.open(tokenizer, tuple(about["input"]), about["target"])
    if about["task"] == "classification":
        model: PackedNetwork = load_classifier(base, list(spec.labels), about["pooling"], 0.0, 0)
    else:
        model = load_generator(base, 0.0)
    return compute_in(model, getattr(torch, about["dtype"])).eval(), objective
