"""Tiny bundles of decoders, and GGUF files of them with a fault."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.core.run import file_hash
from luthier.families import family_of
from luthier.models.base import Base
from luthier.models.manifest import write_facts
from luthier.models.store import inspect
from tests.conftest import SIZES, small_tokenizer

GEMMA = {
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 5,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
CHANGES: dict[str, dict[str, Any]] = {"mistral": {"sliding_window": None}, "gemma3_text": GEMMA, "llama": {"tie_word_embeddings": True}}
"""What a tiny network has otherwise, so that llama.cpp computes it."""


def make_bundle(folder: Path, family: str, task: str = "chat", template: str | None = None, end: str | None = None, **config: Any) -> Base:
    """A bundle of a tiny decoder with random weights, as a run ships it."""
    folder.mkdir(parents=True)
    tokenizer = small_tokenizer(folder, True)
    if template is not None:
        tokenizer.chat_template = template
        tokenizer.eos_token = end or tokenizer.eos_token
        tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    values = SIZES[family] | CHANGES.get(family, {}) | config
    made = AutoConfig.for_model(family, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, **values)
    model = AutoModelForCausalLM.from_config(made)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return as_bundle(folder, task)


def as_bundle(folder: Path, task: str, **more: Any) -> Base:
    """A folder with what Luthier writes about a bundle."""
    chat = task != "causal_lm"
    about = {
        "task": task, "objective": family_of(task).spec_class().model_dump(mode="json"), "input": ["prompt"] if chat else ["text"],
        "target": "completion" if chat else None, "pooling": None, "ships": "trained", "temperature": 1.0, "dtype": "float32",
        "base": {"name": "tiny", "sha256": ""}, "experiment": "none", "sha256": file_hash(folder / "model.safetensors"),
    }  # fmt: skip
    (folder / "luthier.json").unlink(missing_ok=True)
    write_facts(folder, about | more)
    return inspect(folder, str(folder))


def rewritten(source: Path, target: Path, metadata: Mapping[str, Any] = {}, tensors: Callable[[str, np.ndarray], np.ndarray | None] = lambda name, numbers: numbers,
              more: Mapping[str, np.ndarray] = {}) -> Path:  # fmt: skip
    """A GGUF file again, with other metadata (None leaves it out) and other fp32 tensors: how another converter would get it wrong."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, str(reader.fields["general.architecture"].contents()))
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or (key in metadata and metadata[key] is None):
            continue
        array = field.types[1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, metadata.get(key, field.contents()), field.types[0], sub_type=array)
    for key in set(metadata) - set(reader.fields):
        value = metadata[key]
        if value is not None:
            writer.add_key_value(key, value, gguf.GGUFValueType.STRING if isinstance(value, str) else gguf.GGUFValueType.FLOAT32)
    for tensor in reader.tensors:
        numbers = gguf.dequantize(tensor.data, tensor.tensor_type).reshape([int(size) for size in tensor.shape[::-1]])
        changed = tensors(tensor.name, numbers)
        if changed is not None:
            kind = tensor.tensor_type
            writer.add_tensor(tensor.name, gguf.quantize(np.ascontiguousarray(changed), kind), raw_dtype=kind)
    for name, numbers in more.items():
        writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def other_bundle(bundle: Base, folder: Path, task: str) -> Base:
    """The same files, as a bundle of another task."""
    shutil.copytree(bundle.folder, folder)
    return as_bundle(folder, task)


def config_of(bundle: Base) -> dict[str, Any]:
    """config.json."""
    return json.loads((bundle.folder / "config.json").read_text())
