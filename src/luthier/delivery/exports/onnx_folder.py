"""ONNX in fp32: the whole computation of a bundle, for onnxruntime and all that read ONNX; and the same with weights of 8 bits."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from luthier.core.errors import ModelError
from luthier.core.types import Message
from luthier.delivery.exports.exporter import WEIGHTS, Encoded, Runtime, Say, WeightDifference, facts_of
from luthier.delivery.exports.facts import read_facts
from luthier.delivery.exports.transformers_folder import copy_reader
from luthier.families import family_of
from luthier.models.base import Base

OPSET = 20
"""Of the ONNX operators."""
SCRIPT = "use.py"
"""Beside the model: a program that uses it with onnxruntime alone, and which parity is proven by."""


class OnnxFolder:
    """See the module."""

    name = "onnx"
    about = "the whole computation, for onnxruntime on any processor and for browsers"
    packages: tuple[str, ...] = ("onnx", "onnxruntime")
    precisions: tuple[str, ...] = ("float32",)

    def refuse(self, bundle: Base, precision: str) -> str:
        """What cannot be traced."""
        facts = facts_of(bundle)
        gives = family_of(facts["task"]).gives
        if gives == "words":
            return "word vectors are a table, and nothing is computed"
        if (
            gives in ("classes", "labels", "number", "rebuilt")
            and facts["objective"].get("long_rows") == "windows"
            and len(facts["input"]) != 2
        ):
            return "it reads long rows in windows whose vectors are averaged, and the graph reads one window"
        return ""

    def losses(self, bundle: Base, precision: str) -> list[str]:
        """What whoever calls the graph has to do."""
        facts = facts_of(bundle)
        gives, objective = family_of(facts["task"]).gives, facts["objective"]
        results = []
        if gives == "number":
            results.append(f"the scale of the number (use.py does): multiply by {objective['spread']:g} and add {objective['mean']:g}")
        if gives == "gaps":
            results.append(f"the pieces in which texts longer than {objective['max_length']} tokens are read: cut them before")
        if gives == "tags":
            results.append(f"the windows in which texts longer than {objective['max_length']} tokens are read: cut them before")
        if gives == "picture":
            results.append("the anomaly score and its threshold: the graph gives the picture and its code")
        if gives == "rebuilt":
            results.append("the threshold: use.py says the anomaly score, and not whether it is high")
        if gives == "sequence":
            results.append("beam search: use.py takes the likeliest token each time")
        return results

    def write(self, bundle: Base, folder: Path, precision: str, say: Say) -> None:
        """Trace the network and write what reads a row beside it."""
        from luthier.delivery.exports import onnx_graphs as graphs
        from luthier.delivery.parity.trainer import open_trainer

        trainer = open_trainer(bundle)
        gives, model = trainer.family.gives, trainer.model
        if trainer.family.kind.images:
            _write_images(graphs.ImageGraph(model, gives), trainer.objective.spec, folder)
        elif gives == "text":
            _write_decoder(graphs.DecoderGraph(model), folder)
        elif gives == "sequence":
            _write_halves(graphs.EncoderGraph(model), graphs.TargetGraph(model), folder)
        else:
            pairs = len(trainer.objective.input) == 2 and gives in ("classes", "labels", "number")
            _write_rows(graphs.RowGraph(model, gives), pairs, gives in ("tags", "gaps"), folder)
        labels = list(trainer.objective.tags) if gives == "tags" else list(getattr(trainer.objective.spec, "labels", ()))
        config = json.loads((bundle.folder / "config.json").read_text())
        config |= (
            {
                "id2label": {str(index): label for index, label in enumerate(labels)},
                "label2id": {label: index for index, label in enumerate(labels)},
            }
            if labels
            else {}
        )
        (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        copy_reader(bundle, folder)
        shutil.copyfile(Path(__file__).with_name("plain_onnx.py"), folder / SCRIPT)

    def usage(self, bundle: Base, folder: Path) -> str:
        """The program beside the model."""
        family = family_of(facts_of(bundle)["task"])
        arguments = (
            "image.png"
            if family.kind.images
            else '"your text"'
            + (' "and the other"' if len(facts_of(bundle)["input"]) == 2 and family.gives in ("classes", "labels", "number") else "")
        )
        return f"python {folder / SCRIPT} {folder} {arguments}"

    def open(self, folder: Path) -> Runtime:
        """In onnxruntime."""
        return OnnxRuntime(folder)


class Int8Folder(OnnxFolder):
    """ONNX whose matrices have 8 bits a weight, with a scale for each 32 of them; activations stay in fp32."""

    name = "int8"
    about = "ONNX with weights of 8 bits, for processors: about a quarter of the size"
    packages = ("onnx", "onnxruntime", "onnx_ir")
    precisions = ("int8",)

    def refuse(self, bundle: Base, precision: str) -> str:
        """What is no matrix."""
        if family_of(facts_of(bundle)["task"]).kind.images:
            return "its weights are those of convolutions, and only matrices are rounded to 8 bits"
        return super().refuse(bundle, precision)

    def losses(self, bundle: Base, precision: str) -> list[str]:
        """Bits."""
        return ["all bits of its matrices: 8 a weight are kept, with a scale for each 32", *super().losses(bundle, precision)]

    def write(self, bundle: Base, folder: Path, precision: str, say: Say) -> None:
        """Write it in fp32, and round the matrices."""
        from luthier.delivery.exports.onnx_int8 import quantise

        super().write(bundle, folder, "float32", say)
        for file in sorted(folder.glob("*.onnx")):
            quantise(file)


class OnnxRuntime:
    """An exported folder in onnxruntime, by the program that lies beside it.

    Args:
        folder: of the export.
    """

    def __init__(self, folder: Path) -> None:
        import onnxruntime
        import torch

        from luthier.delivery.exports.plain_onnx import PlainOnnx

        self.precision: str = read_facts(folder)["precision"]
        try:
            self._served = PlainOnnx(str(folder), torch.get_num_threads())
        except Exception as problem:  # onnxruntime's own kinds
            raise ModelError(f"onnxruntime cannot open {folder}: {str(problem)[:300]}", "export it again") from None
        self.about = f"onnxruntime {onnxruntime.__version__}"
        self.unseen: Mapping[str, str] = {
            WEIGHTS: "an ONNX file does not keep the bundle's tensors by name: what they compute is looked at"
        }
        self.labels: Sequence[str] = self._served.labels
        self.ends: Sequence[int] = self._served.ends

    def encode(self, texts: Sequence[str]) -> Encoded:
        """A row by the folder's own tokenizer."""
        return Encoded(**self._served.encode(texts))

    def outputs(self, rows: Sequence[Encoded]) -> list[np.ndarray]:
        """What the graph gives for each row."""
        return self._served.outputs([vars(row) for row in rows])

    def render(self, messages: Sequence[Message]) -> str:
        """A conversation by the folder's own template."""
        return self._served.render([{"role": each["role"], "content": each["content"]} for each in messages])

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The tokens of a conversation that waits for an answer."""
        return self._served.prompt([{"role": each["role"], "content": each["content"]} for each in messages])

    def log_probabilities(self, tokens: Sequence[int]) -> np.ndarray:
        """Of each token but the first, # (tokens - 1,)"""
        return self._served.log_probabilities(tokens)

    def log_probabilities_behind(self, source: Sequence[int], target: Sequence[int]) -> np.ndarray:
        """Of each target token, # (target tokens,)"""
        return self._served.log_probabilities_behind(source, target)

    def write(self, tokens: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time."""
        return self._served.write(tokens, limit)

    def translate(self, source: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time."""
        return self._served.translate(source, limit)

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text."""
        return self._served.decode(tokens)

    def compare_weights(self, bundle: Path) -> list[WeightDifference]:
        """Not asked: see `unseen`."""
        return []

    def close(self) -> None:
        """Let go of the sessions."""
        self._served.sessions.clear()


def _trace(
    graph: Any,
    example_inputs: tuple[Any, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    varying: dict[str, dict[int, str]],
    file: Path,
) -> None:
    """Trace a graph and write it; sides that vary have names."""
    import torch

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer: every branch that it warns of is the same for all inputs here, and parity tells
        torch.onnx.export(
            graph.eval(),
            example_inputs,
            str(file),
            dynamo=False,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes=varying,
            opset_version=OPSET,
        )


def _write_rows(graph: Any, pairs: bool, each_token: bool, folder: Path) -> None:
    import torch

    ids = torch.arange(3, 13).view(2, 5)
    example_inputs = (ids, torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]), *([torch.zeros_like(ids)] if pairs else []))
    inputs = ["input_ids", "attention_mask", "token_type_ids"][: len(example_inputs)]
    varying = {name: {0: "rows", 1: "length"} for name in inputs} | {"output": {0: "rows", **({1: "length"} if each_token else {})}}
    _trace(graph, example_inputs, inputs, ["output"], varying, folder / "model.onnx")


def _write_images(graph: Any, spec: Any, folder: Path) -> None:
    import torch

    outputs = ["picture", "code", "log_variance"][: 3 if spec.variant == "variational" else 2] if graph.gives == "picture" else ["output"]
    pixels = torch.randint(0, 256, (2, spec.channels, spec.side, spec.side), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    _trace(graph, (pixels,), ["pixels"], outputs, {name: {0: "images"} for name in ("pixels", *outputs)}, folder / "model.onnx")


def _write_decoder(graph: Any, folder: Path) -> None:
    import torch

    config = graph.network.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kinds = [f"{layer}.{what}" for layer in range(config.num_hidden_layers) for what in ("key", "value")]
    past, present = [f"past_key_values.{kind}" for kind in kinds], [f"present.{kind}" for kind in kinds]
    cached = [torch.zeros(2, heads, 3, width) for _ in kinds]
    example_inputs = (torch.arange(3, 11).view(2, 4), torch.ones(2, 7, dtype=torch.long), torch.arange(3, 7).expand(2, 4), *cached)
    varying = {
        "input_ids": {0: "rows", 1: "new"},
        "attention_mask": {0: "rows", 1: "all"},
        "position_ids": {0: "rows", 1: "new"},
        "logits": {0: "rows", 1: "new"},
    }
    varying |= {name: {0: "rows", 2: "cached"} for name in past} | {name: {0: "rows", 2: "all"} for name in present}
    _trace(
        graph, example_inputs, ["input_ids", "attention_mask", "position_ids", *past], ["logits", *present], varying, folder / "model.onnx"
    )


def _write_halves(encoder: Any, decoder: Any, folder: Path) -> None:
    import torch

    ids, mask = torch.arange(3, 13).view(2, 5), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    kinds = [f"{layer}.{{}}.{what}" for layer in range(len(encoder.crossings)) for what in ("key", "value")]
    source = [f"past_key_values.{kind.format('encoder')}" for kind in kinds]
    past, present = [f"past_key_values.{kind.format('decoder')}" for kind in kinds], [f"present.{kind.format('decoder')}" for kind in kinds]
    read = {name: {0: "rows", 1: "length"} for name in ("input_ids", "attention_mask", "encoder_hidden_states")}
    read |= {name: {0: "rows", 2: "length"} for name in source}
    _trace(encoder, (ids, mask), ["input_ids", "attention_mask"], ["encoder_hidden_states", *source], read, folder / "encoder.onnx")
    with torch.no_grad():
        _, *crossed = encoder(ids, mask)
    cached = [torch.zeros(2, each.shape[1], 3, each.shape[3]) for each in crossed]
    varying = {
        "decoder_input_ids": {0: "rows", 1: "new"},
        "encoder_attention_mask": {0: "rows", 1: "length"},
        "logits": {0: "rows", 1: "new"},
    }
    varying |= {name: {0: "rows", 2: "length"} for name in source}
    varying |= {name: {0: "rows", 2: "cached"} for name in past} | {name: {0: "rows", 2: "all"} for name in present}
    inputs = ["decoder_input_ids", "encoder_attention_mask", *past, *source]
    _trace(
        decoder, (torch.arange(3, 9).view(2, 3), mask, *cached, *crossed), inputs, ["logits", *present], varying, folder / "decoder.onnx"
    )
