"""GGUF, the file that llama.cpp and Ollama run: network, tokenizer and chat template in one, with a Modelfile beside it."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import ModelError
from luthier.delivery.exports.exporter import Runtime, Say, facts_of
from luthier.delivery.exports.gguf_architecture import ARCHITECTURES, context_of, describe_network, refuse_network, window_of
from luthier.delivery.exports.gguf_file import NAMED_ENDS
from luthier.delivery.exports.gguf_modelfile import Layout, find_layout, modelfile
from luthier.delivery.exports.gguf_tensors import kind_of, plan_tensors, round_tensor, tensors_of
from luthier.delivery.exports.gguf_tokenizer import BYTE_LEVEL, CONTROL, Vocabulary, changes_of, read_vocabulary, refuse_tokenizer
from luthier.delivery.exports.llama_bindings import PACKAGES, installed_package
from luthier.families import family_of
from luthier.models.base import Base
from luthier.models.llama_process import error_line

FILE, MODELFILE = "model.gguf", "Modelfile"
QUANTIZER = "llama-quantize"
SMALLER = {"q4_k_m": ("Q4_K_M", 15), "q4_0": ("Q4_0", 2)}
"""Precision → its name and number for llama.cpp's own quantiser (`llama_ftype`), which is asked where it is installed."""
FILE_TYPES = {"float32": 0, "float16": 1, "q8_0": 7, "bfloat16": 32}
"""As llama.cpp numbers them (`general.file_type`)."""


class Gguf:
    """See the module."""

    name = "gguf"
    about = "one file for llama.cpp and Ollama, with a Modelfile"
    packages: tuple[str, ...] = ()
    precisions = ("float16", "q8_0", "bfloat16", "float32", *SMALLER)

    def refuse(self, bundle: Base, precision: str) -> str:
        """Why a GGUF file cannot hold a bundle."""
        about = facts_of(bundle)
        config = json.loads((bundle.folder / "config.json").read_text())
        network = refuse_network(config)
        if network:  # first: neither another --dtype nor training again would change it
            return network
        if about.get("ships", "trained") != "trained":
            return f"it ships {'a linear probe' if about['ships'] == 'probe' else 'the average of two models'}, and llama.cpp computes one language model"
        if precision in SMALLER and shutil.which(QUANTIZER) is None and installed_package() is None:
            return f"{precision} is written by llama.cpp's own quantiser: pip install llama-cpp-py-sync, or put {QUANTIZER} on the PATH (q8_0 needs nothing)"
        return refuse_tokenizer(_processor(bundle)[0])

    def losses(self, bundle: Base, precision: str) -> list[str]:
        """What llama.cpp and Ollama do otherwise."""
        config = json.loads((bundle.folder / "config.json").read_text())
        tokenizer, objective = _processor(bundle)
        losses = changes_of(tokenizer)
        window = window_of(config)
        if window is not None and context_of(config) == window:
            losses.append(
                f"the sliding window of {config['model_type']}: the file reads {window:,} tokens at most, within which both compute the same"
            )
        ends = _other_ends(tokenizer, objective, int(config["vocab_size"]))
        if ends:
            losses.append(f"answers that go on behind {', '.join(ends)}: llama.cpp ends there, by the token's name")
        layout = _layout_of(tokenizer, objective)
        if not _converses(bundle):
            return losses
        if not isinstance(layout, Layout):
            losses.append(f"a TEMPLATE for Ollama: {layout}; llama.cpp reads the chat template in the file")
        elif "system" not in layout.around:
            losses.append("system turns for Ollama: the chat template has no turn of its own for them")
        return losses

    def write(self, bundle: Base, folder: Path, precision: str, say: Say) -> None:
        """The file and the Modelfile."""
        whole = "float16" if precision in SMALLER else precision
        file = folder / FILE
        _write_file(bundle, file, whole)
        if precision in SMALLER:
            _quantize(file, *SMALLER[precision], say)
        tokenizer, objective = _processor(bundle)
        about = {"name": _name_of(bundle).lower().replace(" ", "-"), "context": context_of(json.loads((bundle.folder / "config.json").read_text())), "converses": _converses(bundle)}  # fmt: skip
        layout = _layout_of(tokenizer, objective) if _converses(bundle) else "it does not answer"
        ends = [tokenizer.convert_ids_to_tokens(_marks(tokenizer, objective)[1])]
        (folder / MODELFILE).write_text(modelfile(FILE, layout, ends, about))

    def usage(self, bundle: Base, folder: Path) -> str:
        """llama.cpp's own programs, and Ollama's."""
        name = _name_of(bundle).lower().replace(" ", "-")
        server = f"llama-server -m {folder / FILE}" + (" --jinja" if _converses(bundle) else "")
        return f"{server}   # or: cd {folder} && ollama create {name} -f {MODELFILE} && ollama run {name}"

    def open(self, folder: Path) -> Runtime:
        """llama.cpp where it is installed; else the file, read back."""
        from luthier.delivery.exports.llama_cpp import open_gguf

        file = folder / FILE
        if not file.is_file():
            raise ModelError(f"{folder} holds no {FILE}", "export it again: `luthier export RUN --to gguf`")
        return open_gguf(file)


def _converses(bundle: Base) -> bool:
    return family_of(facts_of(bundle)["task"]).converses


def _processor(bundle: Base) -> tuple[Any, Any]:
    """A bundle's tokenizer, and its objective."""
    about = facts_of(bundle)
    family = family_of(about["task"])
    spec: Any = family.spec_class.model_validate(about["objective"])
    tokenizer = family.load_processor(bundle, spec)
    return tokenizer, spec.open(tokenizer, tuple(about["input"]), about["target"])


def _name_of(bundle: Base) -> str:
    """What the model is called in the file: its base and what it learned."""
    about = facts_of(bundle)
    base = ((about.get("base") or {}).get("name") or "luthier").rstrip("/").rsplit("/", 1)[-1]
    return f"{base} {about['task']}"


def _layout_of(tokenizer: Any, objective: Any) -> Layout | str:
    """What the chat template puts around the turns, without the mark that llama.cpp puts before a text itself."""

    def render(messages: Any, answers: bool) -> str:
        return tokenizer.apply_chat_template([dict(each) for each in messages], tokenize=False, add_generation_prompt=answers)

    begins = tokenizer.bos_token if _marks(tokenizer, objective)[2] else ""
    return find_layout(render, begins) if tokenizer.chat_template else "it has no chat template"


def _marks(tokenizer: Any, objective: Any) -> tuple[int | None, int, bool]:
    """The token that begins a text, the one that ends it, and whether llama.cpp has to put the first there itself: where the objective does so before every text; else where the tokenizer does, and the chat template has it too (llama.cpp then leaves one out)."""
    before = getattr(objective, "before", None)
    if before is not None:
        return int(before), int(objective.end), True
    turns = [{"role": "user", "content": "?"}]
    opening = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) if tokenizer.chat_template else ""
    begins, own = tokenizer.bos_token_id, list(tokenizer("x")["input_ids"])
    adds = begins is not None and own[:1] == [begins] and (not opening or opening.startswith(tokenizer.bos_token))
    return begins, int(tokenizer.eos_token_id), adds


def _other_ends(tokenizer: Any, objective: Any, rows: int) -> list[str]:
    """Tokens at which llama.cpp stops and the trainer does not."""
    known, end = tokenizer.get_vocab(), _marks(tokenizer, objective)[1]
    return [each for each in NAMED_ENDS if each in known and known[each] != end and known[each] < rows]


def _write_file(bundle: Base, file: Path, precision: str) -> None:
    """The GGUF file: what is known of the network and its tokenizer, then its tensors one after the other."""
    import gguf

    config = json.loads((bundle.folder / "config.json").read_text())
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(file, architecture.name)
    writer.add_name(_name_of(bundle))
    writer.add_file_type(FILE_TYPES[precision])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string("luthier.weights.sha256", bundle.fingerprint)
    _add(writer, {f"{architecture.name}.{key}": value for key, value in describe_network(config).items()})
    tokenizer, objective = _processor(bundle)
    vocabulary = read_vocabulary(tokenizer, int(config["vocab_size"]))
    _add_vocabulary(writer, vocabulary, _marks(tokenizer, objective), tokenizer)
    if tokenizer.chat_template and (_converses(bundle) or (bundle.folder / "chat_template.jinja").is_file()):
        writer.add_chat_template(tokenizer.chat_template)
    kinds = {written: (kind_of(written, shape, precision), shape) for _, written, shape in plan_tensors(bundle.folder, config)}
    for written, (kind, shape) in kinds.items():
        byte_shape = gguf.quant_shape_to_byte_shape(shape, gguf.GGMLQuantizationType[kind])
        writer.add_tensor_info(written, byte_shape, np.dtype(np.uint8), math.prod(byte_shape), raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, written, numbers in tensors_of(bundle.folder, config):
        writer.write_tensor_data(round_tensor(numbers, kinds[written][0], written))
    writer.close()


def _add(writer: Any, facts: Mapping[str, Any]) -> None:
    """Write values by their types."""
    for key, value in facts.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_array(key, value)


def _add_vocabulary(writer: Any, vocabulary: Vocabulary, marks: tuple[int | None, int, bool], tokenizer: Any) -> None:
    """Tokens, merges, and the tokens that begin and end a text."""
    begins, ends, begun = marks
    kinds = list(vocabulary.kinds)
    for mark in (begins, ends):
        if mark is not None:
            kinds[mark] = CONTROL  # llama.cpp would show it in the answer otherwise
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(kinds)
    if vocabulary.model == BYTE_LEVEL:
        writer.add_token_merges(vocabulary.merges)
    else:
        writer.add_token_scores(vocabulary.scores)
    writer.add_add_space_prefix(vocabulary.space_before)
    if begins is not None:
        writer.add_bos_token_id(begins)
    writer.add_eos_token_id(ends)
    for add, number in ((writer.add_unk_token_id, tokenizer.unk_token_id), (writer.add_pad_token_id, tokenizer.pad_token_id)):
        if number is not None and number < len(kinds):
            add(int(number))
    writer.add_add_bos_token(begun)
    writer.add_add_eos_token(False)


def _quantize(file: Path, kind: str, number: int, say: Say) -> None:
    """Let llama.cpp's own quantiser make the file smaller, in its place: the program where it is on the PATH, else a package's library.

    Raises:
        ModelError: it does not.
    """
    import torch

    whole = file.with_name("whole.gguf")
    file.rename(whole)
    program, package = shutil.which(QUANTIZER), installed_package()
    say(f"llama.cpp's quantiser ({program or package}) rounds the weights to {kind}")
    if program is None and package is not None:
        problem = PACKAGES[package].quantize(whole, file, number, torch.get_num_threads())
    else:
        done = subprocess.run([program or QUANTIZER, str(whole), str(file), kind], capture_output=True, text=True, check=False)
        problem = error_line(done.stderr.splitlines()) if done.returncode else ""
    whole.unlink()
    if problem or not file.is_file():
        raise ModelError(f"llama.cpp's quantiser failed: {problem}", "export it with --dtype q8_0, which needs nothing")
