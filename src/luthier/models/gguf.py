"""A GGUF file, converted once to safetensors."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any


def convert(source: Path, target: Path) -> None:
    """Dequantise a GGUF decoder to fp32 safetensors, with its configuration, tokenizer and chat template.

    Args:
        source: the .gguf file, already checked against its hash.
        target: an existing folder.
    """
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    import luthier.core.hub  # noqa: F401  # keeps transformers offline

    hide_progress()
    folder, file = str(source.parent), source.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    config = model.config
    for name in ("quantization_config", "_model_name_or_path", "_name_or_path"):
        if hasattr(config, name):
            delattr(config, name)
    config.architectures = [type(model).__name__]
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(target)
    if model.generation_config is not None:
        model.generation_config.save_pretrained(target)
    tokenizer.save_pretrained(target)


def hide_progress() -> None:
    """Hide the progress bars of transformers while it reads a GGUF file: its own, and one that it takes from tqdm, which asks TQDM_DISABLE only when it is imported."""
    from transformers import modeling_gguf_pytorch_utils
    from transformers.utils import logging

    logging.disable_progress_bar()
    reading: Any = modeling_gguf_pytorch_utils
    reading.tqdm = partial(reading.tqdm, disable=True)
