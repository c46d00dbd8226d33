"""Each fault that a GGUF file can have is found at its stage, and a healthy file raises no alarm: read back, and in llama.cpp where that is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from luthier.core.errors import ModelError
from luthier.core.types import Record
from luthier.delivery.exports.exporter import LOG_PROBABILITIES, RENDERED, TOKENS, WEIGHTS, Runtime
from luthier.delivery.exports.gguf import FILE, Gguf
from luthier.delivery.exports.gguf_file import GgufFile
from luthier.delivery.exports.gguf_read_back import ReadBack
from luthier.delivery.exports.gguf_tensors import compare_file
from luthier.delivery.exports.llama_bindings import PACKAGES, installed_package
from luthier.delivery.exports.llama_cpp import ServedFile, open_gguf
from luthier.delivery.exports.llama_package import PackagedFile
from luthier.delivery.parity.check import check_parity
from luthier.models.base import Base
from luthier.models.llama_process import SERVER, find_server
from tests.conftest import TEMPLATE
from tests.delivery.exports.gguf_bundles import config_of, make_bundle, other_bundle, rewritten

PROGRAM = find_server()
NEEDS = pytest.mark.peer(PROGRAM is not None, f"llama.cpp's {SERVER}")
NEEDS_PACKAGE = pytest.mark.peer(installed_package() is not None, "a package that brings llama.cpp")
FIVE_IN_SIX: dict[str, Any] = {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
"""Layers of a Gemma as llama.cpp takes them where it does not read the file's pattern; others it computes otherwise, and parity finds it (docs/gguf.md)."""
RUNTIMES = [
    pytest.param(ReadBack, id="read back"),
    pytest.param(lambda file: ServedFile(file, PROGRAM), id="llama.cpp", marks=NEEDS),
    *(
        pytest.param(
            partial(PackagedFile, package=module),
            id=module,
            marks=pytest.mark.peer(find_spec(module) is not None, module),
        )
        for module in PACKAGES
    ),
]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Base, Path]:
    """A bundle whose answers end with a token that llama.cpp does not know by name, and its file."""
    folder = tmp_path_factory.mktemp("parity")
    bundle = make_bundle(folder / "bundle", "llama", template=TEMPLATE.replace("<|im_end|>", "[SEP]"), end="[SEP]")
    return bundle, write(bundle, folder)


def write(bundle: Base, folder: Path, precision: str = "float32") -> Path:
    (folder / precision).mkdir(parents=True, exist_ok=True)
    Gguf().write(bundle, folder / precision, precision, lambda line: None)
    return folder / precision / FILE


def few(chats: list[Record]) -> list[Record]:
    return chats[:3]


def part(bundle: Base, file: Path, opened: Callable[[Path], Runtime], records: list[Record]) -> tuple[str, Any]:
    runtime = opened(file)
    try:
        record = check_parity(bundle, runtime, records)
    finally:
        runtime.close()
    return record.first.name if record.first else "", record


def unpermute(name: str, numbers: np.ndarray, heads: int = 4) -> np.ndarray:
    return numbers.reshape(heads, -1, 2, numbers.shape[1]).swapaxes(1, 2).reshape(numbers.shape) if ".attn_q." in name else numbers


def coarse(name: str, numbers: np.ndarray) -> np.ndarray:
    step = np.abs(numbers).max(-1, keepdims=True) / 7
    return np.round(numbers / step) * step if numbers.ndim == 2 else numbers


FAULTS = {
    "nothing": ({}, ""),
    "template changed": ({"metadata": {"tokenizer.chat_template": TEMPLATE.replace("<|im_end|>", "[SEP]").replace("'\n' }}{% endfor", "'\n\n' }}{% endfor")}}, RENDERED),
    "end of an answer left out of the template": ({"metadata": {"tokenizer.chat_template": TEMPLATE.replace("<|im_end|>", "")}}, RENDERED),
    "double beginning": ({"metadata": {"tokenizer.ggml.add_bos_token": True}}, TOKENS),
    "end token lost": ({"metadata": {"tokenizer.ggml.eos_token_id": 3}}, TOKENS),
    "queries not permuted": ({"tensors": unpermute}, WEIGHTS),
    "rounded twice": ({"tensors": coarse}, WEIGHTS),
    "untied": ({"more": {"output.weight": np.zeros(0)}}, WEIGHTS),
    "positions scaled": ({"metadata": {"llama.rope.freq_base": 100.0}}, LOG_PROBABILITIES),
    "positions stretched": ({"metadata": {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 8.0}}, LOG_PROBABILITIES),
}  # fmt: skip


@pytest.mark.parametrize("opened", RUNTIMES)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_at_its_stage(exported: tuple[Base, Path], chats: list[Record], tmp_path: Path, opened: Any, fault: str) -> None:
    bundle, file = exported
    how, stage = FAULTS[fault]
    if "more" in how:
        how = {"more": {"output.weight": np.full((len(GgufFile(file).tokens), 32), 0.01, dtype=np.float32)}}
    found, record = part(bundle, rewritten(file, tmp_path / FILE, **how), opened, few(chats))
    assert found == stage, record.lines()
    if not stage:
        assert record.same
    if fault == "queries not permuted":
        assert "order of transformers" in str(record.lines())
    if fault == "untied":
        assert "tied" in record.reason


@NEEDS
@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "gemma3_text"])
def test_llama_cpp_says_what_the_trainer_says(chats: list[Record], tmp_path: Path, family: str) -> None:
    bundle = make_bundle(tmp_path / family, family, **(FIVE_IN_SIX if family == "gemma3_text" else {}))
    found, record = part(bundle, write(bundle, tmp_path), lambda file: ServedFile(file, str(PROGRAM)), few(chats))
    assert not found, record.lines()


@NEEDS
@pytest.mark.parametrize("rope", ["llama3", "yarn", "linear"])
def test_llama_cpp_stretches_positions_as_the_trainer_does(chats: list[Record], tmp_path: Path, rope: str) -> None:
    from tests.delivery.exports.test_gguf import ROPES

    bundle = make_bundle(
        tmp_path / rope,
        "llama",
        hidden_size=64,
        rope_parameters=ROPES[rope] | {"original_max_position_embeddings": 8} if rope != "linear" else ROPES[rope],
    )
    found, record = part(bundle, write(bundle, tmp_path), lambda file: ServedFile(file, str(PROGRAM)), few(chats))
    assert not found, record.lines()


@NEEDS_PACKAGE
def test_the_gelu_of_llama_cpp_from_a_table_of_16_bits_raises_no_alarm(chats: list[Record], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "gemma", "gemma3_text", **FIVE_IN_SIX)
    longer = [Record(record.row, {name: f"{value} " * 12 for name, value in record.values.items()}) for record in few(chats)]
    found, record = part(bundle, write(bundle, tmp_path), PackagedFile, longer)
    assert not found, record.lines()
    (numbers,) = (stage for stage in record.stages if stage.name == LOG_PROBABILITIES)
    assert numbers.largest is not None and numbers.largest > 1e-4, "no longer so: then nothing more than in other programs need be allowed"


@pytest.mark.parametrize("opened", RUNTIMES)
@pytest.mark.parametrize("precision", ["float16", "q8_0"])
def test_rounded_weights_raise_no_alarm(
    exported: tuple[Base, Path], chats: list[Record], tmp_path: Path, opened: Any, precision: str
) -> None:
    bundle, _ = exported
    found, record = part(bundle, write(bundle, tmp_path, precision), opened, few(chats))
    assert not found, record.lines()
    assert record.precision == precision


@NEEDS_PACKAGE
@pytest.mark.parametrize(("precision", "kind", "rest"), [("q4_0", "Q4_0", "Q6_K"), ("q4_k_m", "Q4_K", "Q6_K")])
def test_llama_cpps_own_quantiser_makes_four_bits_of_the_same_weights(
    chats: list[Record], tmp_path: Path, precision: str, kind: str, rest: str
) -> None:
    bundle = make_bundle(tmp_path / "wide", "llama", hidden_size=256, intermediate_size=256, num_attention_heads=4)
    file = write(bundle, tmp_path, precision)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in GgufFile(file).tensors}
    assert kinds["blk.0.ffn_up.weight"] == kind and kinds["token_embd.weight"] == rest, kinds
    assert not (tmp_path / precision / "whole.gguf").exists()
    assert GgufFile(file).precision == precision
    assert compare_file(file, bundle.folder) == []
    stage, record = part(
        bundle, file, PackagedFile, few(chats)
    )  # what is left of random weights in 4 bits is not near: a trained model's is
    assert stage in ("", LOG_PROBABILITIES), record.lines()
    other = make_bundle(tmp_path / "other", "llama", hidden_size=256, intermediate_size=256, num_attention_heads=4, initializer_range=0.5)
    assert any("layers.0.mlp.up_proj" in each.name for each in compare_file(file, other.folder))


@pytest.mark.parametrize("opened", RUNTIMES)
def test_a_network_that_continues_texts_begins_them_as_it_was_trained(
    exported: tuple[Base, Path], records: list[Record], tmp_path: Path, opened: Any
) -> None:
    bundle = other_bundle(exported[0], tmp_path / "text", "causal_lm")
    found, record = part(bundle, write(bundle, tmp_path), opened, few(records))
    assert not found, record.lines()


def test_without_llama_cpp_the_record_says_that_it_was_not_asked(exported: tuple[Base, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("luthier.delivery.exports.llama_cpp.installed_package", lambda: None)
    runtime = open_gguf(exported[1])
    assert isinstance(runtime, ReadBack)
    assert "llama.cpp is not installed and was not asked" in runtime.about


def test_a_file_that_is_cut_off_is_refused(exported: tuple[Base, Path], tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(exported[1].read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read"):
        Gguf().open(tmp_path)
    with pytest.raises(ModelError, match=r"holds no model\.gguf"):
        Gguf().open(tmp_path / "nowhere")


@NEEDS
def test_what_llama_cpp_cannot_open_is_told_in_its_own_words(exported: tuple[Base, Path], tmp_path: Path) -> None:
    harmed = rewritten(exported[1], tmp_path / FILE, metadata={"tokenizer.ggml.pre": "no such thing"})
    with pytest.raises(ModelError, match=r"llama\.cpp cannot open") as caught:
        ServedFile(harmed, str(PROGRAM))
    assert "no such thing" in caught.value.message


def test_the_bundle_of_these_tests_ends_with_a_token_of_its_own(exported: tuple[Base, Path]) -> None:
    assert GgufFile(exported[1]).ends[0] == 4
    assert config_of(exported[0])["tie_word_embeddings"] is True
