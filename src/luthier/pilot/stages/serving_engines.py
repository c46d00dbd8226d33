"""What computes behind a server instead of the bundle's own network: who can be served by it, and how it is opened."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.core.errors import ExperimentError, ModelError, nearest
from luthier.core.extras import require_extra
from luthier.delivery.exports import EXPORTERS
from luthier.delivery.exports.exporter import Exporter, facts_of
from luthier.families import FAMILIES, family_of
from luthier.models.base import Base
from luthier.models.llama_process import PLACE, SERVER, LlamaProcess, find_server, options_of, version_of
from luthier.pilot.stages.opened_bundle import Say
from luthier.pilot.stages.proven_export import keep_export, why_not
from luthier.serving.limits import Limits

if TYPE_CHECKING:
    from luthier.delivery.exports.gguf_file import GgufFile
    from luthier.serving.interface import GenerationEngine

ENGINES = ("auto", "torch", "llama.cpp", "onnx")
"""What computes; `auto` takes torch, with which the verdict was reached: `docs/serve.md#engines` says when another pays."""

SLOTS = 8
"""Requests that llama.cpp answers at once."""
CACHE_MIB = 512
"""Memory that it has for keys and values."""
FEWEST = 2048
"""Tokens of which it holds keys and values at least, whatever they need."""


@dataclass(frozen=True)
class OpenedEngine:
    """A bundle, opened in an engine.

    Args:
        model: that the family's `predict` asks.
        objective: as the evaluation used it.
        engine: that writes text; None where the model writes none with a decoder.
        about: what computes, for a person.
        parity: the record of the proof that it says what the trainer says; None where the bundle's own network computes.
    """

    model: Any
    objective: Any
    engine: GenerationEngine | None
    about: str
    parity: dict[str, Any] | None = None


def check_engine(engine: str, base: Base | None = None) -> None:
    """Refuse an engine that is not known, that is not installed, or that cannot serve a bundle.

    Args:
        engine: as after `--engine`.
        base: the bundle; None asks for the name alone.

    Raises:
        ExperimentError: it is none of `ENGINES`.
        ModelError: it lacks a program or package, or cannot hold the bundle.
    """
    if engine not in ENGINES:
        raise ExperimentError(f"there is no engine {engine!r}", nearest(engine, ENGINES))
    if base is None or engine in ("auto", "torch"):
        return
    (_check_llama if engine == "llama.cpp" else _check_onnx)(base)


def _check_onnx(base: Base) -> None:
    """Refuse what onnxruntime cannot serve; see `check_engine`."""
    task = facts_of(base)["task"]
    gives = family_of(task).gives
    exporter: Exporter = EXPORTERS["onnx"]()
    why = why_not(exporter, base, exporter.precisions[0])
    if gives == "sequence":
        why = "its ONNX form takes the likeliest token each time, where the verdict was reached by beam search"
    if why:
        raise ModelError(f"--engine onnx cannot serve this {task} model: {why}", "serve it with --engine torch")
    for module in exporter.packages:
        require_extra(module, "--engine onnx", ModelError, "serve it with --engine torch")


def _check_llama(base: Base) -> None:
    """Refuse what llama.cpp cannot serve, or that it is not installed; see `check_engine`."""
    task = facts_of(base)["task"]
    if family_of(task).gives != "text":
        able = ", ".join(name for name in FAMILIES if FAMILIES[name].gives == "text")
        raise ModelError(
            f"--engine llama.cpp writes text with a decoder, and this is a {task} model: it can serve {able}",
            "serve it with --engine torch, or onnx",
        )
    exporter: Exporter = EXPORTERS["gguf"]()
    why = why_not(exporter, base, exporter.precisions[0])
    if why:
        raise ModelError(f"--engine llama.cpp cannot serve this {task} model: {why}", "serve it with --engine torch")
    if find_server() is None:
        raise ModelError(
            f"--engine llama.cpp needs its program {SERVER}, which is not on the PATH",
            f"install llama.cpp (its releases, brew, conda or nix have it; or build the target {SERVER}) and put {SERVER} on the PATH or its place into {PLACE}; or serve with --engine torch",
        )


def open_onnx(base: Base, limits: Limits, say: Say) -> OpenedEngine:
    """Serve a bundle by the graph of its ONNX export.

    Args:
        base: a bundle that `check_engine` let pass.
        limits: of the server.
        say: told what takes long.

    Raises:
        ModelError: it cannot be exported, or the export does not say what the trainer says.
    """
    import onnxruntime
    import torch

    from luthier.models.exported_network import ExportedNetwork
    from luthier.pilot.stages.opened_bundle import load_bundle
    from luthier.serving.onnx_generation import open_onnx_engine
    from luthier.serving.onnx_prediction import OnnxPredictor
    from luthier.training.devices import configure_torch

    configure_torch()
    runtime = f"onnxruntime {onnxruntime.__version__}"
    kept = keep_export(base, "onnx", runtime, say)
    file, threads = kept.folder / "model.onnx", torch.get_num_threads()
    gives = family_of(facts_of(base)["task"]).gives
    about = f"{runtime}, the graph of the ONNX export in fp32 ({_describe_parity(kept.record)})"
    if gives == "text":
        config = json.loads((kept.folder / "config.json").read_text())
        context = int(config.get("max_position_embeddings") or config.get("n_positions") or 2048)
        about += ", one answer at a time"
        engine = open_onnx_engine(file, about, context, int(config["vocab_size"]), limits.generating, threads)
        return open_engine_network(engine, base, about, kept.record)
    objective = open_objective(base)
    network = load_bundle(base)[0].network if gives in ("picture", "rebuilt") else None  # it holds the threshold
    model = ExportedNetwork(OnnxPredictor(file, threads).outputs, gives, objective.spec, network=network)
    return OpenedEngine(model, objective, None, about, kept.record)


def open_llama(base: Base, limits: Limits, say: Say) -> OpenedEngine:
    """Serve a bundle of a decoder by a llama-server of our own, on its GGUF export.

    Args:
        base: a bundle that `check_engine` let pass.
        limits: of the server.
        say: told what takes long, and where the program ends by itself.

    Raises:
        ModelError: it cannot be exported, the export does not say what the trainer says, or the program does not start.
    """
    import torch

    from luthier.delivery.exports.gguf import FILE
    from luthier.delivery.exports.gguf_file import GgufFile
    from luthier.serving.llama_engine import LlamaEngine
    from luthier.serving.prompts import Prompts

    program = find_server()
    assert program is not None
    runtime = version_of(program)
    kept = keep_export(base, "gguf", runtime, say)
    file, threads = kept.folder / FILE, torch.get_num_threads()
    held = GgufFile(file)
    tokens = min(SLOTS * held.context, max(FEWEST, CACHE_MIB * 2**20 // _cache_bytes(held)))
    unified = options_of(program, "--kv-unified")
    options = [
        "-c",
        str(tokens),
        "-np",
        str(SLOTS),
        "-t",
        str(threads),
        *unified,
        *(("--cache-ram", "0") if options_of(program, "--cache-ram") else ()),
    ]
    context = min(held.context, tokens if unified else tokens // SLOTS)
    precision = EXPORTERS["gguf"]().precisions[0]
    about = f"llama.cpp, {runtime}, on the GGUF export in {precision} ({_describe_parity(kept.record)}); {SLOTS} slots, {tokens} tokens of keys and values"
    prompts = Prompts(family_of(facts_of(base)["task"]), open_objective(base))
    engine = LlamaEngine(
        lambda on_end: LlamaProcess(program, file, options, on_end), about, context=context, total=tokens, vocabulary=len(held.tokens), slots=SLOTS,
        waiting=limits.generating, bytes_of=lambda token: bytes(prompts.token_bytes(token)), say=say,
    )  # fmt: skip
    return open_engine_network(engine, base, about, kept.record)


def _cache_bytes(held: GgufFile) -> int:
    """Memory for the keys and values of one token, in 16 bits."""
    layers, width, heads = (int(held.of_network(key)) for key in ("block_count", "embedding_length", "attention.head_count"))
    per_head = int(held.of_network("attention.key_length") or width // heads)
    return 2 * 2 * layers * per_head * int(held.of_network("attention.head_count_kv") or heads)


def open_engine_network(engine: GenerationEngine, base: Base, about: str, parity: dict[str, Any] | None) -> OpenedEngine:
    """A bundle of a decoder whose text an engine writes, that of `/predict` too.

    Args:
        engine: opened.
        base: the bundle.
        about: what computes.
        parity: the record of the proof.
    """
    from luthier.serving.engine_network import EngineNetwork

    return OpenedEngine(EngineNetwork(engine), open_objective(base), engine, about, parity)


def open_objective(base: Base) -> Any:
    """What a bundle learned, with its tokenizer, without its network.

    Args:
        base: a bundle, resolved.
    """
    from luthier.delivery.bundle import read_bundle_spec

    about = facts_of(base)
    family = family_of(about["task"])
    spec = read_bundle_spec(base)
    return spec.open(family.load_processor(base, spec), tuple(about["input"]), about["target"])


def _describe_parity(record: dict[str, Any]) -> str:
    """What a record of parity comes to."""
    return "says what the trainer says" if record.get("same") else str(record["verdict"])
