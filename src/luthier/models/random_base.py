"""A base's network with random weights, to compare pretrained starts with."""

from __future__ import annotations

import shutil
from pathlib import Path

from luthier.core.errors import ModelError
from luthier.models.base import DECODERS, ENCODERS, Base

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt", "added_tokens.json",
    "chat_template.jinja", "1_Pooling/config.json",
)  # fmt: skip


def write_random_base(base: Base, folder: Path, seed: int) -> Path:
    """Write a folder with a base's configuration and tokenizer, and weights drawn as its authors began with.

    Args:
        base: an encoder or a decoder.
        folder: to be made.
        seed: of the weights.

    Returns:
        The folder, which is a base.

    Raises:
        ModelError: a base of another kind.
    """
    if base.family not in (*ENCODERS, *DECODERS):
        raise ModelError(f"new weights are not drawn for {base.name}, which is of the kind {base.kind}", "leave scratch out of --from")
    import torch
    from safetensors.torch import save_file
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

    folder.mkdir(parents=True)
    config = AutoConfig.from_pretrained(base.folder)
    torch.manual_seed(seed)
    network = (AutoModel if base.family in ENCODERS else AutoModelForCausalLM).from_config(config)
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if getattr(config, "tie_word_embeddings", False):
        state.pop("lm_head.weight", None)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config.architectures = [type(network).__name__]
    config.id2label = {0: "LABEL_0", 1: "LABEL_1"}
    config.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (base.folder / name).is_file():
            (folder / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(base.folder / name, folder / name)
    return folder
