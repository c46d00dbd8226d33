"""Small real models, built from transformers' own classes, and rows to feed them."""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import luthier  # noqa: F401  # before torch: it says how long idle threads spin

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["LUTHIER_KERNELS"] = "no kernels are kept here"  # whether this machine has compiled some decides nothing
os.environ.setdefault("OMP_NUM_THREADS", "1")  # no test asks how busy the machine is; `make test-modes` sets 2 as well

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from luthier.core.types import Record
from luthier.models.base import Base
from luthier.models.store import inspect
from luthier.training import steps
from tests import processes

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
collect_ignore = [] if os.environ.get("KILLS") else ["torture"]  # `make torture`

SLOW = ("pilot/test_run", "pilot/test_search", "families/", "pilot/test_candidates", "pilot/test_threads", "app/test_cli", "pilot/test_real", "pilot/test_metric",
        "core/test_threads", "training/", "pilot/test_plan", "pilot/test_bench")  # fmt: skip
"""Files that take minutes, the slowest first: where they begin first, two workers end at about the same time."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow files first, each whole."""
    ranks = [next((rank for rank, name in enumerate(SLOW) if name in str(item.path)), len(SLOW)) for item in items]
    items[:] = [item for _, item in sorted(zip(ranks, items, strict=True), key=lambda pair: pair[0])]


os.fsync = lambda handle: None  # the power stays on: nobody waits for the disk
steps.gc_frozen = contextlib.nullcontext  # what imports brought is frozen below, and to count it takes a training a twentieth of a second
gc.disable()  # until all tests are collected
imported = 0


def pytest_collection_finish() -> None:
    """Let Python's collector look again: what was imported and collected until here stays anyway."""
    gc.set_threshold(10_000, 20, 100)  # seldom looks at all objects: as often as by default costs some percent of the time
    gc.enable()


def pytest_sessionfinish() -> None:
    """End the process that those of the tests were forked from."""
    processes.close()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out a test whose peer is not installed; let Python's collector pass over what imports have brought: torch, transformers and the tests take it a quarter of a second each time."""
    for there, name in (mark.args for mark in item.iter_markers("peer")):
        if not there:
            pytest.skip(f"{name} is not installed (make test-peers)")
    global imported
    if len(sys.modules) > imported + 50:
        gc.collect()
        gc.freeze()
        imported = len(sys.modules)


SELDOM = "import atexit, gc; gc.set_threshold(10_000, 10, 10); atexit.register(gc.freeze)\n"
"""What programs in processes of their own begin with: of the time in which they import torch and transformers a third is Python's collector."""
GOOD = ("good", "great", "lovely", "fine", "superb")
BAD = ("bad", "awful", "poor", "dull", "broken")


def rows(count: int = 60) -> list[dict[str, str]]:
    """Sentences whose class a word tells."""
    made = []
    for number in range(count):
        word = (GOOD if number % 2 else BAD)[number // 2 % 5]
        made.append(
            {
                "text": f"the {('phone', 'film', 'meal')[number % 3]} number {number} was {word}" + " indeed" * (number % 4),
                "label": "yes" if number % 2 else "no",
            }
        )
    return made


def small_tokenizer(folder: Path, chat: bool) -> Any:
    """A byte-level BPE trained on the rows above."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|im_start|>", "<|im_end|>", "[CLS]", "[SEP]"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([row["text"] for row in rows()], trainer)
    if not chat:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 3), ("[SEP]", 4)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )
    if chat:
        fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return fast


SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
SMALL_ENCODER = SMALL | {"max_position_embeddings": 128}
SMALL_DECODER = SMALL | {"max_position_embeddings": 256, "num_key_value_heads": 2}
SIZES: dict[str, dict[str, Any]] = {
    "bert": SMALL_ENCODER | {"type_vocab_size": 2},
    "roberta": SMALL_ENCODER | {"type_vocab_size": 1, "max_position_embeddings": 134},
    "camembert": SMALL_ENCODER | {"type_vocab_size": 1, "max_position_embeddings": 134},
    "electra": SMALL_ENCODER | {"embedding_size": 32},
    "distilbert": {"dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 128},
    "modernbert": SMALL_ENCODER | {"local_attention": 6, "global_attn_every_n_layers": 3, "cls_token_id": 3, "sep_token_id": 4},
    "ernie": SMALL_ENCODER | {"type_vocab_size": 2},
    "mpnet": SMALL_ENCODER | {"max_position_embeddings": 134, "relative_attention_num_buckets": 32},
    "deberta-v2": SMALL_ENCODER
    | {
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "llama": SMALL_DECODER | {"tie_word_embeddings": True},
    "qwen2": SMALL_DECODER,
    "qwen3": SMALL_DECODER | {"head_dim": 8},
    "mistral": SMALL_DECODER | {"sliding_window": 6},
    "gemma3_text": SMALL_DECODER
    | {"head_dim": 8, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "smollm3": SMALL_DECODER | {"no_rope_layer_interval": 2},
    "phi3": SMALL_DECODER | {"sliding_window": None},
    "gemma": SMALL_DECODER | {"head_dim": 8},
    "olmo2": SMALL_DECODER,
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_inner": 48, "n_positions": 256},
    "gpt_neox": SMALL | {"max_position_embeddings": 256},
}
ENCODERS = ("bert", "roberta", "camembert", "electra", "distilbert", "modernbert", "ernie")
PADDED = ("mpnet", "deberta-v2")
DECODERS = ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "smollm3", "phi3", "gemma", "olmo2", "gpt2", "gpt_neox")


def make_base(folder: Path, family: str, layers: int = 3) -> Base:
    """A tiny model of a family with random weights, saved as any base is. Where a proof does not hang on it, two layers are cheaper than three."""
    folder.mkdir(parents=True, exist_ok=True)
    chat = family in DECODERS
    tokenizer = small_tokenizer(folder, chat)
    torch.manual_seed(0)
    marks = {
        "pad_token_id": 3 if family in ("roberta", "camembert", "mpnet") else 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }  # RoBERTa counts positions from its padding
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), **marks, **SIZES[family] | ({} if layers == 3 else {"num_hidden_layers": layers})
    )
    kind = AutoModelForCausalLM if chat else AutoModelForSequenceClassification
    model = kind.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return inspect(folder, str(folder))


def make_image_base(folder: Path) -> Base:
    """A tiny ResNet of transformers with random weights, whose batch norms have seen something."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    network = ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16, 24], depths=[1, 1, 1], layer_type="basic"))
    network.train()(torch.randn(8, 3, 32, 32))
    network.eval().save_pretrained(folder)
    return inspect(folder, str(folder))


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tiny bases by family (and layers, where three are too many), made once."""
    folder = tmp_path_factory.mktemp("bases")

    def named(family: str, layers: int = 3) -> Base:
        return make_base(folder / (family if layers == 3 else f"{family}-{layers}"), family, layers)

    return functools.cache(named)


@pytest.fixture(scope="session")
def records() -> list[Record]:
    """Rows of two classes."""
    return [Record(number, row) for number, row in enumerate(rows(), 1)]


@pytest.fixture(scope="session")
def chats() -> list[Record]:
    """Rows of one turn each."""
    return [
        Record(number, {"prompt": f"what was {row['text'].split()[1]} {number}?", "completion": row["text"]})
        for number, row in enumerate(rows(), 1)
    ]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """The rows of two classes, as a file."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(120)))
    return file


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Exports for transformers are read in this process: a new one takes seconds to import it."""
    from luthier.delivery.exports.transformers_folder import TransformersFolder

    monkeypatch.setattr(TransformersFolder, "apart", False)


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder for the compiled step of decoders; it is made once for all tests."""
    return str(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def compiling(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders write by compiled code."""
    monkeypatch.setenv("LUTHIER_KERNELS", kernels)
