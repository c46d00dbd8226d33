"""Word vectors as a base that reads texts: an encoder of one block which begins as the average of a text's word vectors.

It is transformers' BERT. Each word's vector is scaled by the first layer norm; the block's attention begins even, so that the first token, which is zero,
becomes the mean of all; what follows begins as nothing. From there everything can be trained, and what reads a BERT reads the result.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import luthier.core.hub  # noqa: F401  # keeps transformers offline; before it is imported

# isort: split
import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
from transformers.utils import logging

from luthier.core.run import AGAIN, file_hash, name_disk_errors
from luthier.models.base import VECTORS, Base
from luthier.models.disk import NOTE
from luthier.models.store import home, inspect
from luthier.models.word_vectors import VOCABULARY, WORD, load_tables, load_vocabulary

if TYPE_CHECKING:
    from luthier.models.word_vectors import Vocabulary

logging.disable_progress_bar()

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""They come before the words, and their vectors are zero."""
READS = 512
"""Words of a text."""
FORM = 1
"""Of what is written here: another number is made anew."""


def as_encoder(base: Base) -> Base:
    """The encoder that is made of a base's word vectors, kept in the store; it has the vectors' name, kind and fingerprint. Any other base as it is.

    Args:
        base: from the store.

    Raises:
        ModelError: the vectors or their vocabulary cannot be read.
    """
    if base.family not in VECTORS:
        return base
    sha256 = hashlib.sha256(f"{FORM} {base.fingerprint} {file_hash(base.folder / VOCABULARY)}".encode()).hexdigest()
    name = f"vectors-{sha256[:16]}"
    target = home() / name
    if not (target / NOTE).is_file():
        with name_disk_errors(str(home()), AGAIN):
            home().mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home(), prefix=f".{name}-") as scratch:
                stage = Path(scratch) / "stage"
                _write_encoder(base, stage, name)
                try:
                    stage.rename(target)
                except OSError:
                    if not (target / NOTE).is_file():
                        raise
    made = inspect(target, base.name)
    return replace(base, folder=target, bundle=None, family=made.family, blocks=made.blocks, width=made.width, positions=made.positions)


def _write_encoder(base: Base, stage: Path, name: str) -> None:
    """The network and its tokenizer in a folder."""
    vocabulary = load_vocabulary(base.folder)
    make_tokenizer(vocabulary).save_pretrained(stage)
    make_network(load_tables(base).vectors()).save_pretrained(stage)
    weights = stage / "model.safetensors"
    note = {"name": name, "package": str(base.folder), "licence": "", "sha256": file_hash(weights), "size": weights.stat().st_size}
    (stage / NOTE).write_text(json.dumps(note, indent=2))


def make_tokenizer(vocabulary: Vocabulary) -> Any:
    """A tokenizer of transformers that splits texts as the vocabulary does; a word without a vector is unknown."""
    numbers = {word: number for number, word in enumerate([*SPECIAL, *vocabulary.words])}
    made: Any = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    if vocabulary.lowercase:
        made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Split(Regex(WORD.pattern), behavior="removed", invert=True)
    marks = [(mark, SPECIAL.index(mark)) for mark in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks)
    pad, unknown, first, end, mask = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token=pad,
        unk_token=unknown,
        cls_token=first,
        sep_token=end,
        mask_token=mask,
        model_max_length=READS,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def make_network(vectors: torch.Tensor) -> BertModel:
    """The network, the same for the same vectors.

    Args:
        vectors: of the words, # (words, width)
    """
    words, width = vectors.shape
    config = BertConfig(
        vocab_size=len(SPECIAL) + words, hidden_size=width, num_hidden_layers=1, num_attention_heads=1, intermediate_size=width,
        max_position_embeddings=READS, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    network: Any = BertModel(config)
    with torch.no_grad():
        embeddings, block = network.embeddings, network.encoder.layer[0]
        for table in (embeddings.word_embeddings, embeddings.position_embeddings, embeddings.token_type_embeddings):
            table.weight.zero_()
        embeddings.word_embeddings.weight[len(SPECIAL) :] = vectors
        for even in (block.attention.self.value, block.attention.output.dense):
            even.weight.copy_(torch.eye(width))
        block.output.dense.weight.zero_()
    return network
