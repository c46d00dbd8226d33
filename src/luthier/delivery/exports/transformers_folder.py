"""Merged safetensors in bf16 or fp32: a folder that transformers reads by itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from luthier.delivery.exports.exporter import Runtime, Say, facts_of
from luthier.delivery.exports.facts import read_facts
from luthier.families import family_of
from luthier.models.base import OWN_VISION, Base

COPIED = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json",
    "chat_template.jinja", "generation_config.json", "preprocessor_config.json", "source.spm", "target.spm", "spiece.model",
    "sentencepiece.bpe.model", "1_Pooling/config.json", "modules.json", "2_Normalize/config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
)  # fmt: skip
"""Files of a bundle that transformers and sentence-transformers read beside weights and configuration."""
NATIVE = {"encoder": "cls", "decoder": "last"}
"""What transformers' own classification heads read of a row."""
IMAGE_PIPELINE = 'from transformers import pipeline; pipeline("image-classification", "PATH")("image.png")'
"""How transformers alone classifies images, where the family does not say so itself."""
TRAIN_AGAIN = "a model trained again with --set training.ships=trained fits"
"""Said of a bundle that only what ships keeps out of a format."""
CLOSED = ("picture", "rebuilt", "words")
"""What networks give whose classes transformers does not have."""


class TransformersFolder:
    """See the module."""

    name = "safetensors"
    about = "weights with adapters merged, for transformers, vLLM and all that read the Hugging Face layout"
    packages: tuple[str, ...] = ()
    precisions = ("auto", "float32", "bfloat16")
    apart = True
    """Whether the runtime works in a process of its own."""

    def refuse(self, bundle: Base, precision: str) -> str:
        """What transformers' classes cannot compute."""
        facts, gives = facts_of(bundle), family_of(facts_of(bundle)["task"]).gives
        if gives in CLOSED or bundle.family in OWN_VISION:
            return "transformers has no class for this network"
        unlike = _unlike_native_head(bundle, facts) if gives in ("classes", "labels", "number") else ""
        if unlike:  # first: training again would not change it
            return unlike
        if facts.get("ships", "trained") == "probe":
            linear = "ridge regression" if gives == "number" else "logistic regression"
            return f"what ships is {linear} on the hidden states of the untouched base, and transformers has no class for that: it would load the base alone ({TRAIN_AGAIN})"
        if facts.get("ships", "trained") == "average":
            return f"what ships is the average of the trained model and a linear probe, and transformers would load the trained model alone ({TRAIN_AGAIN})"
        return ""

    def losses(self, bundle: Base, precision: str) -> list[str]:
        """The scale of a number, rounding, and what of images depends on the reader."""
        facts, results = facts_of(bundle), []
        objective, gives = facts["objective"], family_of(facts_of(bundle)["task"]).gives
        if gives == "number":
            results.append(
                f"the scale of the number: the network gives standard deviations; multiply by {objective['spread']:g} and add {objective['mean']:g}"
            )
        if self.stored_dtype(bundle, precision) == "bfloat16" and facts["dtype"] != "bfloat16":
            results.append("the last 16 bits of each weight: they are rounded to bfloat16")
        if gives == "vector" and self.name == "safetensors":
            results.append("how tokens become one vector: sentence-transformers reads it from modules.json, transformers alone does not")
        return results

    def stored_dtype(self, bundle: Base, precision: str) -> str:
        """What the weights are rounded to."""
        return facts_of(bundle)["dtype"] if precision == "auto" else precision

    def write(self, bundle: Base, folder: Path, precision: str, say: Say) -> None:
        """Copy the bundle's files, with the weights rounded and the lengths that were trained on."""
        import torch
        from safetensors.torch import load_file, save_file

        dtype = getattr(torch, self.stored_dtype(bundle, precision))
        state = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in load_file(bundle.folder / "model.safetensors").items()
        }
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((bundle.folder / "config.json").read_text()) | {"dtype": str(dtype).removeprefix("torch.")}
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        copy_reader(bundle, folder)

    def usage(self, bundle: Base, folder: Path) -> str:
        """What the family says, with the place filled in and the result printed."""
        family = family_of(facts_of(bundle)["task"])
        code = family.without_luthier() or IMAGE_PIPELINE
        begin, _, last = code.partition("  # ")[0].rpartition("; ")
        return f"python -c '{f'{begin}; ' if begin else ''}print({last})'".replace("PATH", str(folder))

    def open(self, folder: Path) -> Runtime:
        """By transformers alone."""
        from luthier.delivery.exports.transformers_runtime import TransformersRuntime

        facts = read_facts(folder)
        return TransformersRuntime(folder, facts["gives"], facts["images"], self.apart)


class SentenceTransformersFolder(TransformersFolder):
    """The same files, of a model whose vectors are the point."""

    name = "sentence-transformers"
    about = "an embedding model with its pooling, for sentence-transformers"

    def refuse(self, bundle: Base, precision: str) -> str:
        """Only what gives vectors."""
        task = facts_of(bundle)["task"]
        return "" if family_of(task).gives == "vector" else f"{task} models give no vectors of texts"


def _unlike_native_head(bundle: Base, facts: dict[str, Any]) -> str:
    """Where a classifier reads a row in another way than transformers' own head does."""
    pooling = facts.get("pooling")
    if pooling is not None and pooling != NATIVE.get(bundle.kind, pooling):
        return f"its head reads {'the mean of all tokens' if pooling == 'mean' else f'the {pooling} token'}, and that of transformers the {'first' if bundle.kind == 'encoder' else 'last'} one"
    if facts["objective"].get("long_rows") == "windows":
        return "it reads long rows in windows, and transformers reads only their beginning"
    return ""


def copy_reader(bundle: Base, folder: Path) -> None:
    """Copy what makes numbers of a row: tokenizer, template, image settings; the tokenizer is told how much of a row was read in training."""
    for name in COPIED:
        if (bundle.folder / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(bundle.folder / name, folder / name)
    longest = facts_of(bundle)["objective"].get("max_length")
    settings = folder / "tokenizer_config.json"
    if longest and settings.is_file() and family_of(facts_of(bundle)["task"]).gives != "text":
        settings.write_text(
            json.dumps(json.loads(settings.read_text()) | {"model_max_length": longest}, indent=2, ensure_ascii=False) + "\n"
        )
