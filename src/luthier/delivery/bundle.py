"""What is shipped: weights, tokenizer, configuration and card, in the Hugging Face layout."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file

from luthier.adaptation.adapter_files import save_adapter
from luthier.adaptation.lora import Lora
from luthier.adaptation.lora_layer import merge
from luthier.core.errors import ModelError
from luthier.core.interfaces import Processor, TrainableModel
from luthier.core.run import file_hash, name_disk_errors
from luthier.core.types import Link
from luthier.experiment import Experiment
from luthier.families import family_of
from luthier.families.family import Family
from luthier.models import preprocessing
from luthier.models.base import Base
from luthier.models.encode import depths_read
from luthier.models.linear_probe import AveragedModel, LinearProbe
from luthier.models.manifest import write_facts
from luthier.models.precision import round_weights_to
from luthier.models.pretrained import PackedNetwork
from luthier.models.store import KEPT_FILES, inspect
from luthier.objectives.objective import fit_length


@dataclass(frozen=True)
class Shipped:
    """Which of the candidates a bundle holds.

    Args:
        ships: trained, probe or average.
        temperature: of the trained model (divided into its weights already), or of what ships instead.
        probe: where it is part of what ships.
        abstention: how many answers above which confidence were wrong on the validation rows (`Abstention.as_json`); None where answers have none.
        fitted_thresholds: of several labels the thresholds, where they were fitted.
    """

    ships: str = "trained"
    temperature: float = 1.0
    probe: LinearProbe | None = None
    abstention: dict[str, Any] | None = None
    fitted_thresholds: tuple[float, ...] = ()


def write_bundle(
    folder: Path,
    model: TrainableModel,
    tokenizer: Processor,
    experiment: Experiment,
    base: Base | None,
    card: str,
    shipped: Shipped | None = None,
) -> None:
    """Write a bundle aside, then put it in place at once. Adapters are written too, and folded into the weights.

    Args:
        folder: the bundle's place.
        model: at its best weights; adapters are merged in place.
        tokenizer: the base's.
        experiment: what the model was trained for.
        base: what it was trained from; None where it was made from scratch.
        card: README.md.
        shipped: what of it ships; None is the trained model.
    """
    shipped = shipped or Shipped()
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    with name_disk_errors(str(folder)):
        aside.mkdir(parents=True)
        if base is not None and shipped.ships == "probe":
            _copy_base(base, aside)
        else:
            _write_trained(model, experiment, base, aside)
        if base is not None and shipped.ships == "average":
            _copy_base(base, aside / "base")
        if shipped.probe is not None:
            _write_probe(shipped, experiment, len(model.blocks), aside)
        tokenizer.save_pretrained(aside)
        family_of(experiment.data.task).write_files(aside, model, tokenizer)
        if base is not None and not (aside / "tokenizer.json").exists():
            for name in KEPT_FILES:
                if name.startswith(("tokenizer", "vocab", "merges")) and (base.folder / name).is_file() and not (aside / name).exists():
                    shutil.copyfile(base.folder / name, aside / name)
        (aside / "README.md").write_text(card)
        about = {
            "task": experiment.data.task,
            "objective": experiment.objective.model_dump(mode="json")
            | ({"fitted_thresholds": list(shipped.fitted_thresholds)} if shipped.fitted_thresholds else {}),
            "input": list(experiment.data.input),
            "target": experiment.data.target,
            "pooling": getattr(model, "pooling", None),
            "ships": shipped.ships,
            "temperature": shipped.temperature,
            "dtype": experiment.training.dtype,
            "base": {"name": base.name, "sha256": base.fingerprint} if base is not None else None,
            "experiment": experiment.key,
            **({} if shipped.abstention is None else {"abstention": shipped.abstention}),
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


def _write_trained(model: TrainableModel, experiment: Experiment, base: Base | None, folder: Path) -> None:
    """The trained network's adapter, weights and configuration."""
    network = model.network
    if isinstance(experiment.adaptation, Lora):
        names = {id(module): name for name, module in network.named_modules()}
        head = [names[id(module)] for module in getattr(model, "head", [])]
        task = getattr(model, "adapter_task", None)  # what PEFT calls it, where it has a name
        save_adapter(network, experiment.adaptation, base.name if base is not None else "", task, head, folder / "adapter")
        merge(network)
    _write_weights(network, folder)
    _write_config(network, folder)


def _copy_base(base: Base, folder: Path) -> None:
    """The base's weights as they are, and its configuration without classes.

    A text-classification pipeline of transformers would put a head on it that knows nothing; so it fails instead.
    """
    folder.mkdir(exist_ok=True)
    shutil.copyfile(base.folder / "model.safetensors", folder / "model.safetensors")
    config = json.loads((base.folder / "config.json").read_text()) | {"id2label": {}, "label2id": {}}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    if (base.folder / preprocessing.FILE).is_file():
        shutil.copyfile(base.folder / preprocessing.FILE, folder / preprocessing.FILE)


def _write_probe(shipped: Shipped, experiment: Experiment, blocks: int, folder: Path) -> None:
    """The matrix of the linear probe, and what it is multiplied with."""
    probe = shipped.probe
    assert probe is not None
    state = {name: probe.get_buffer(name).detach().cpu().contiguous() for name in ("weight", "bias")}
    save_file(state, folder / "probe.safetensors")
    objective: Any = experiment.objective
    link = link_of(family_of(experiment.data.task))
    about = {
        "format": 1,
        "labels": list(getattr(objective, "labels", ())),
        **({} if link == "softmax" else {"link": link}),
        "pooling": ["mean", "last"] if probe.base.causal else ["mean"],
        "layers": depths_read(blocks),
        "features": "for each pooling, for each layer: the states of a row's tokens behind so many blocks, pooled; all end to end",
        "temperature": probe.temperature,
        "average_temperature": shipped.temperature if shipped.ships == "average" else None,
    }
    (folder / "probe.json").write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n")


def _write_weights(network: Any, folder: Path) -> None:
    state: dict[str, torch.Tensor] = {}
    written: set[tuple[int, torch.Size]] = set()
    for name, tensor in network.state_dict().items():
        storage = (tensor.data_ptr(), tensor.shape)
        if storage in written and tensor.numel():
            continue  # tied to one that is written: transformers ties it again
        written.add(storage)
        state[name] = tensor.detach().cpu().contiguous()
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def _write_config(network: Any, folder: Path) -> None:
    config = json.loads(network.config.to_json_string())
    for key in [key for key in config if key.startswith("_")]:
        del config[key]
    config["architectures"] = [type(network).__name__]
    config["dtype"] = str(next(network.parameters()).dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    if getattr(network, "generation_config", None) is not None:
        network.generation_config.save_pretrained(folder)


def open_bundle(base: Base, tokenizer: Any) -> tuple[Any, Any]:
    """A bundle's model, in the dtype it was evaluated in, and its objective.

    Args:
        base: a bundle, resolved: its files were checked against its manifest.
        tokenizer: its own.

    Returns:
        The network; of a bundle that ships a linear probe or an average, a module with the same `model(batch)`.

    Raises:
        ModelError: it is not a bundle.
    """
    from luthier.models.spec import Model

    spec, about = read_bundle_spec(base), base.bundle
    assert about is not None
    family = family_of(about["task"])
    objective = spec.open(tokenizer, tuple(about["input"]), about["target"])
    dtype = getattr(torch, about["dtype"])
    ships = about.get("ships", "trained")
    network: Any = round_weights_to(cast(Any, family.load(spec, Model(dropout=0.0), base, 0)), dtype)
    if ships == "trained":
        return network.eval(), objective
    if ships == "probe":
        return _open_probe(base.folder, network).eval(), objective
    untouched = inspect(base.folder / "base", f"{base.name}/base")
    probe = _open_probe(base.folder, round_weights_to(cast(Any, family.load(spec, Model(dropout=0.0), untouched, 0)), dtype))
    return AveragedModel(network, probe, about["temperature"], link_of(family)).eval(), objective


def read_bundle_spec(base: Base) -> Any:
    """The hyperparameters of what a bundle learned, with no more tokens at once than its network can place.

    Args:
        base: a bundle, resolved.

    Raises:
        ModelError: it is not a bundle.
    """
    if base.bundle is None:
        raise ModelError(f"{base.folder} is not a Luthier bundle: it has no luthier.json", "give RUN/bundle, or the run's folder")
    return fit_length(family_of(base.bundle["task"]).spec_class.model_validate(base.bundle["objective"]), base.positions)


def link_of(family: Family) -> Link:
    """What makes of the outputs of a family's head what is said."""
    outputs = family.outputs()
    return outputs.link if outputs is not None else "identity"


def _open_probe(folder: Path, untouched: PackedNetwork) -> LinearProbe:
    """The linear probe of a bundle, on its base."""
    about = json.loads((folder / "probe.json").read_text())
    state = load_file(folder / "probe.safetensors")
    return LinearProbe(untouched, state["weight"], state["bias"], about["temperature"])
