"""Why an exported form parts from the trainer, likely: what the first stage that parts and the settings of both tell."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.delivery.exports.exporter import LOG_PROBABILITIES, METRIC, RENDERED, TEXT, TOKENS, WEIGHTS
from luthier.delivery.parity.record import StageResult
from luthier.delivery.parity.trainer import Trainer

SETTINGS = (
    "config.json",
    "1_Pooling/config.json",
    "modules.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer_config.json",
)
"""Files whose fields are compared."""
OURS = ("dtype", "torch_dtype", "model_max_length", "transformers_version", "_name_or_path")
"""Fields that an export may change."""


def explain(first: StageResult, trainer: Trainer, folder: Path | None) -> str:
    """The likely reason, as the end of "because …"; empty where nothing is known.

    Args:
        first: the first stage that parts.
        trainer: opened.
        folder: of the export, where it is a folder.
    """
    by_stage = {RENDERED: _explain_rendered, TOKENS: _tokens, WEIGHTS: _weights, LOG_PROBABILITIES: _numbers, TEXT: _text, METRIC: _metric}
    reason = by_stage[first.name](first, trainer)
    changed = changed_settings(trainer.bundle.folder, folder) if folder is not None else []
    if changed and first.name in (LOG_PROBABILITIES, TEXT, TOKENS, METRIC):
        reason = "; ".join(filter(None, [reason, f"its settings are others: {', '.join(changed[:4])}"]))
    return reason


def changed_settings(bundle: Path, folder: Path) -> list[str]:
    """Fields of the settings that both have and that say something else: "config.json: rope_theta 100000 → 10000"."""
    results = []
    for name in SETTINGS:
        if not ((bundle / name).is_file() and (folder / name).is_file()):
            continue
        ours, theirs = (json.loads((directory / name).read_text()) for directory in (bundle, folder))
        if isinstance(ours, list):
            results += [f"{name} is another"] if ours != theirs else []
            continue
        for key in sorted({*ours, *theirs} - set(OURS)):
            if ours.get(key) != theirs.get(key):
                results.append(f"{name}: {key} {_shorten(ours.get(key))} → {_shorten(theirs.get(key))}")
    return results


def _shorten(value: Any) -> str:
    result = json.dumps(value, ensure_ascii=False)
    return result if len(result) <= 60 else result[:57] + "…"


def _explain_rendered(first: StageResult, trainer: Trainer) -> str:
    if "ours" not in first.evidence:
        return "it resizes or turns images in another way"
    begin = trainer.tokenizer.bos_token
    theirs, ours = first.evidence["theirs"], first.evidence["ours"]
    if begin and theirs.startswith(begin * 2) and not ours.startswith(begin * 2):
        return f"its chat template begins with {begin} once more than the trainer's (a double beginning token)"
    end = trainer.tokenizer.eos_token
    if end and ours.count(end) > theirs.count(end):
        return f"its chat template has lost {end}, which ends an answer"
    return "its chat template is another one"


def _tokens(first: StageResult, trainer: Trainer) -> str:
    if "end" in first.evidence:
        return (
            "the end token was lost or changed in its settings (generation_config.json, config.json): answers would go on until their limit"
        )
    if first.evidence.get("lowercase"):
        return "its words are in lower case"
    ours, theirs = first.evidence.get("ours"), first.evidence.get("theirs")
    if ours is None or theirs is None:
        return ""
    if theirs[1:] == ours and theirs:
        return f"its tokenizer puts another {trainer.tokenizer.decode([theirs[0]])!r} in front (a double beginning token)"
    if ours[1:] == theirs:
        return f"its tokenizer has lost {trainer.tokenizer.decode([ours[0]])!r} in front"
    if ours[:-1] == theirs:
        return f"its tokenizer has lost {trainer.tokenizer.decode([ours[-1]])!r} at the end"
    for change, what in ((str.lower, "lower-cases texts, and the trainer's does not"), (str.upper, "changes the case of texts")):
        texts = [change(text) for text in first.evidence.get("texts", ())]
        if texts and [int(token) for token in trainer.tokenizer(*texts)["input_ids"]][: len(theirs)] == theirs[: len(theirs)]:
            return f"its tokenizer {what}"
    if first.evidence.get("texts") and len(theirs) < len(ours) and theirs[:-1] == ours[: len(theirs) - 1]:
        return f"it reads {len(theirs)} tokens of a row, and the trainer {len(ours)}"
    lowered = [text.lower() for text in first.evidence.get("texts", ())]
    if lowered and [int(token) for token in trainer.tokenizer(*lowered)["input_ids"]] == ours and lowered != first.evidence["texts"]:
        return "its tokenizer keeps upper case, and the trainer's lower-cases"
    return "its tokenizer is another one"


def _weights(first: StageResult, trainer: Trainer) -> str:
    tensors = first.evidence["tensors"]
    if any("tied to the embeddings" in each.name or each.name.startswith("lm_head") for each in tensors):
        return "the output matrix is no longer tied to the embeddings"
    if any(each.largest == float("inf") for each in tensors):
        return "tensors have other names than the network looks for (a prefix of the adapters that does not match?), and were made anew"
    adapted = _adapted_layers(trainer.bundle.folder)
    names = [each.name.removesuffix(".weight") for each in tensors]
    largest = max(each.largest for each in tensors)
    added = _largest_added(trainer.bundle.folder)
    if adapted and all(any(name.endswith(target) or target.endswith(name) for target in adapted) for name in names) and largest <= added:
        return "the adapters were not merged, or were merged in another precision or into other weights"
    heads = [name for name in names if name.startswith(("classifier", "score", "pre_classifier"))]
    if heads == names:
        return "the last layer was scaled: the temperature was lost or applied twice, or another head was exported"
    if all("position" in name for name in names):
        return "positions were moved: each token gets the position of another"
    scale = max((float(np.abs(value)) for value in _scale(trainer, names)), default=1.0)
    if largest < scale * 2.0**-3:  # even 4 bits move a weight by no more than a fourteenth of its row's largest
        return "the weights were rounded on the way: merged in another precision, or quantised before"
    return "other weights were exported"


def _scale(trainer: Trainer, names: Sequence[str]) -> list[float]:
    """The largest number of each of these tensors in the trainer."""
    state = dict(trainer.model.network.named_parameters())
    return [float(state[f"{name}.weight"].detach().abs().max()) for name in names if f"{name}.weight" in state]


def _adapted_layers(bundle: Path) -> list[str]:
    """The layers that adapters were merged into."""
    file = bundle / "adapter" / "adapter_config.json"
    return list(json.loads(file.read_text())["target_modules"]) if file.is_file() else []


def _largest_added(bundle: Path) -> float:
    """By how much a weight can differ at most where adapters were not merged, or merged otherwise: twice the most that they add to one; inf where that is not known."""
    import torch
    from safetensors.torch import load_file

    file = bundle / "adapter" / "adapter_model.safetensors"
    if not file.is_file():
        return float("inf")
    settings, state = json.loads((file.parent / "adapter_config.json").read_text()), load_file(file)
    scale = settings["lora_alpha"] / settings["r"]
    with torch.no_grad():
        sums = [
            scale * float((state[name.replace("lora_A", "lora_B")].float() @ factor.float()).abs().max())
            for name, factor in state.items()
            if name.endswith("lora_A.weight")
        ]
    return 2 * max(sums, default=float("inf"))


def _numbers(first: StageResult, trainer: Trainer) -> str:
    gives, ours, theirs = first.evidence.get("gives"), first.evidence.get("ours", []), first.evidence.get("theirs", [])
    if gives in ("classes", "labels") and ours:
        with np.errstate(divide="ignore"):
            one, other = (np.log(np.clip(np.stack(side), 1e-12, 1)) for side in (ours, theirs))
        if gives == "classes":
            one, other = (side - side.mean(1, keepdims=True) for side in (one, other))
        else:
            one, other = (logged - np.log(np.clip(1 - np.stack(side), 1e-12, 1)) for logged, side in ((one, ours), (other, theirs)))
        slope = float((one * other).sum() / max((one * one).sum(), 1e-30))
        rest = float(np.abs(other - slope * one).max())
        if abs(slope - 1) > 1e-3 and rest < 0.02 * float(np.abs(other).max()):
            return f"its logits are the trainer's times {slope:.3g}: the temperature was lost or applied twice"
    return ""


def _text(first: StageResult, trainer: Trainer) -> str:
    names = first.evidence.get("names")
    if names and names[0] != names[1]:
        same = sorted(names[0]) == sorted(names[1])
        return f"its labels are {'in another order' if same else 'other ones'} ({', '.join(names[1][:4])} where the trainer has {', '.join(names[0][:4])})"
    if first.evidence.get("goes_on"):
        return "the end token was lost in its settings"
    return ""


def _metric(first: StageResult, trainer: Trainer) -> str:
    rounded, ours, theirs = (first.evidence.get(name) for name in ("rounded", "trainer", "export"))
    if rounded is not None and ours is not None and theirs is not None and abs(theirs - rounded) < abs(ours - rounded) / 2:
        return f"its weights are too coarse for this task: the trainer's own, rounded as they are, come to {rounded:.4g} (export it with a finer --dtype)"
    return "its weights are too coarse for this task: small differences of many rows add up"
