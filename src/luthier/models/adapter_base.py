"""A PEFT adapter as a base: the base that it names, with its products folded into the weights.

Source: Hu et al. 2021, "LoRA", equation 3; the files are PEFT's.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ModelError
from luthier.core.run import AGAIN, file_hash, name_disk_errors
from luthier.models.disk import NOTE
from luthier.models.manifest import FACTS

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.base import Base

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
UNKNOWN = (
    "use_dora",
    "use_qalora",
    "alora_invocation_tokens",
    "megatron_config",
    "target_parameters",
    "trainable_token_indices",
    "layer_replication",
)
"""Settings of PEFT that make the adapter something else than a product that is added."""
CARRIED = ("tokenizer", "special_tokens", "added_tokens", "vocab", "merges", "chat_template")
"""How the names of files begin that an adapter may bring along in place of its base's."""


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, and no model of its own."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def fold_adapter(folder: Path, store: Path, resolve: Callable[[str], Base], say: Callable[[str], None]) -> tuple[Path, Base]:
    """Put an adapter's base with the adapter folded in into the store, where it is kept by the hashes of both.

    Args:
        folder: with adapter_config.json and adapter_model.safetensors.
        store: the folder in which models are kept.
        resolve: finds a base by its name.
        say: told what is folded into what, the first time.

    Returns:
        The folder of the folded model, and the base.

    Raises:
        ModelError: it is no adapter of a kind that can be folded, its base is not to be had, or it was made for another one.
    """
    config = _read_config(folder)
    base = _find_base(folder, str(config["base_model_name_or_path"]), resolve)
    _check_trained_on(folder, base)
    sha256 = hashlib.sha256(f"{file_hash(folder / WEIGHTS)}{file_hash(folder / CONFIG)}{base.fingerprint}".encode()).hexdigest()
    folded = store / f"adapter-{sha256[:16]}"
    if (folded / NOTE).is_file():
        return folded, base
    say(f"{folder}: its adapter (SHA-256 {file_hash(folder / WEIGHTS)[:12]}…) is folded into {base.name}, once")
    with name_disk_errors(str(store), AGAIN):
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=store, prefix=f".adapter-{sha256[:16]}-") as scratch:
            stage = Path(scratch) / "stage"
            _write_folded(folder, config, base, stage, say)
            try:
                stage.rename(folded)
            except OSError:
                if not (folded / NOTE).is_file():
                    raise
    return folded, base


def _read_config(folder: Path) -> dict[str, Any]:
    """adapter_config.json, where the adapter is of a kind that is known."""
    try:
        config = json.loads((folder / CONFIG).read_text())
        kind, base = config.get("peft_type"), config.get("base_model_name_or_path")
    except (ValueError, AttributeError):
        raise ModelError(f"{folder / CONFIG} is not valid JSON", "fetch the adapter again") from None
    if kind != "LORA":
        raise ModelError(
            f"{folder} holds an adapter of the kind {kind}; only LORA can be folded into a base",
            "merge it with PEFT, and give the merged folder",
        )
    if not base:
        raise ModelError(
            f"{folder / CONFIG} does not say which base it was made for", "write its name or folder there as base_model_name_or_path"
        )
    special = [name for name in UNKNOWN if config.get(name)]
    if special or config.get("bias", "none") != "none":
        settings_read = special[0] if special else f"bias={config['bias']}"
        raise ModelError(
            f"{folder}: an adapter with {settings_read} is not folded here",
            "merge it with PEFT (merge_and_unload), and give the merged folder",
        )
    if not (folder / WEIGHTS).is_file():
        other = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "nothing"
        raise ModelError(
            f"{folder} has no {WEIGHTS} (found: {other})", "only safetensors are opened; save the adapter again with a newer PEFT"
        )
    return config


def _find_base(folder: Path, name: str, resolve: Callable[[str], Base]) -> Base:
    beside = folder / name
    if Path(name).expanduser().resolve() == folder.resolve() or (not Path(name).is_absolute() and beside.resolve() == folder.resolve()):
        raise ModelError(
            f"{folder / CONFIG} names the adapter itself as its base", "write the base's name or folder there as base_model_name_or_path"
        )
    try:
        return resolve(name)
    except ModelError as problem:
        raise ModelError(f"{folder} was made for {name}, which is not to be had: {problem.message}",
                         f"{problem.remedy}; or write where it lies into {folder / CONFIG} as base_model_name_or_path") from None  # fmt: skip


def _check_trained_on(folder: Path, base: Base) -> None:
    """An adapter within a bundle of ours: the bundle says which weights it was trained on."""
    try:
        settings_read = json.loads((folder.parent / FACTS).read_text())["base"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return
    if settings_read != base.fingerprint:
        raise ModelError(
            f"{folder} was trained on other weights of {base.name} (SHA-256 {settings_read[:12]}…) than are there now ({base.fingerprint[:12]}…)",
            "put the old base back",
        )


def _write_folded(folder: Path, config: Mapping[str, Any], base: Base, stage: Path, say: Callable[[str], None]) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(
        base.folder, stage, ignore=shutil.ignore_patterns("model.safetensors", NOTE, FACTS, "adapter", "base", "probe.*", "*.md", ".*")
    )
    for file in folder.iterdir():
        if file.is_file() and file.name.startswith(CARRIED):
            shutil.copyfile(file, stage / file.name)
    state = load_file(base.folder / "model.safetensors")
    adapter = load_file(folder / WEIGHTS)
    left = fold(state, adapter, config, f"{folder}: it was made for another base than {base.name}")
    if left:
        say(
            f"{folder}: {', '.join(left[:4])} {'is' if len(left) == 1 else 'are'} no part of the base and left out: a new head is made for your rows"
        )
    weights = stage / "model.safetensors"
    save_file(state, weights, metadata={"format": "pt"})
    note = {"name": str(folder), "sha256": file_hash(weights), "size": weights.stat().st_size, "base": {"name": base.name, "sha256": base.fingerprint},
            "adapter": file_hash(folder / WEIGHTS)}  # fmt: skip
    (stage / NOTE).write_text(json.dumps(note, indent=2))


def fold(state: dict[str, Tensor], adapter: Mapping[str, Tensor], config: Mapping[str, Any], otherwise: str) -> list[str]:
    """Add an adapter's products to the weights of its base, in place.

    Args:
        state: the base's weights, by name.
        adapter: what adapter_model.safetensors holds.
        config: what adapter_config.json says.
        otherwise: how the message begins where the adapter does not fit.

    Returns:
        The names of what was trained whole and is no part of the base, such as a head.

    Raises:
        ModelError: a layer of the adapter is not in the base, or has another shape there.
    """
    left, folded = [], 0
    for name, tensor in adapter.items():
        plain = name.removeprefix(PREFIX)
        if ".lora_B." in plain or plain.endswith((".lora_B", ".lora_embedding_B")):
            continue
        if ".lora_A." in plain:
            module = plain.partition(".lora_A.")[0]
            _add_product(state, module, tensor, adapter.get(name.replace(".lora_A.", ".lora_B.")), config, otherwise)
            folded += 1
        elif "lora_" in plain:
            raise ModelError(
                f"{otherwise}: {plain} is of a kind that is not folded here",
                "merge it with PEFT (merge_and_unload), and give the merged folder",
            )
        else:
            key = _own_name(state, plain.replace(".modules_to_save.default", "").replace(".modules_to_save", ""))
            if key is None:
                left.append(plain)
            elif state[key].shape != tensor.shape:
                raise ModelError(
                    f"{otherwise}: {plain} is {tuple(tensor.shape)} in the adapter and {tuple(state[key].shape)} in the base",
                    "give the base that it was made for",
                )
            else:
                state[key] = tensor.to(state[key].dtype)
    if not folded:
        raise ModelError(f"{otherwise.partition(':')[0]}: the adapter holds no layer", "save it again with PEFT")
    return left


def _add_product(state: dict[str, Tensor], module: str, down: Tensor, up: Tensor | None, config: Mapping[str, Any], otherwise: str) -> None:
    """One layer: W + scale · B · A, computed in fp32 and rounded once."""
    remedy = "give the base that it was made for"
    key = _own_name(state, f"{module}.weight")
    if key is None:
        raise ModelError(f"{otherwise}: there is no layer {module} in it", remedy)
    if up is None:
        raise ModelError(f"{otherwise.partition(':')[0]}: half of the adapter of {module} is missing", "fetch the adapter again")
    try:
        rank = int(_of_layer(config.get("rank_pattern"), module, config.get("r")) or len(down))
        alpha = float(_of_layer(config.get("alpha_pattern"), module, config.get("lora_alpha")) or rank)
    except (ValueError, TypeError, AttributeError):
        raise ModelError(
            f"{otherwise.partition(':')[0]}: {CONFIG} gives no numbers as r and lora_alpha", "fetch the adapter again"
        ) from None
    scale = alpha / (rank**0.5 if config.get("use_rslora") else rank)
    if rank != len(down) or up.shape[-1] != rank:
        raise ModelError(
            f"{otherwise.partition(':')[0]}: {module} has the rank {len(down)} in its weights and {rank} in {CONFIG}",
            "fetch the adapter again",
        )
    product = scale * (up.float() @ down.float())
    product = product.T if config.get("fan_in_fan_out") else product
    if product.shape != state[key].shape:
        raise ModelError(
            f"{otherwise}: {module} is {tuple(product.shape)} in the adapter and {tuple(state[key].shape)} in the base", remedy
        )
    state[key] = (state[key].float() + product).to(state[key].dtype)


def _of_layer(patterns: Any, module: str, usual: Any) -> Any:
    """What a layer has of its own, by the end of its name or a pattern; else what all have."""
    for pattern, value in (patterns or {}).items():
        if module.endswith(f".{pattern}") or module == pattern or fnmatch.fnmatchcase(module, pattern):
            return value
    return usual


def _own_name(state: Mapping[str, Tensor], name: str) -> str | None:
    """A weight's name in the base's file: bases are saved with or without their own first word (`bert.`, `model.`)."""
    if name in state:
        return name
    without = name.partition(".")[2]
    if without in state:
        return without
    return next((key for key in state if key.partition(".")[2] == name), None)
