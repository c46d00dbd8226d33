"""An exported folder as transformers alone reads it. Nothing of Luthier is imported here: the file runs by itself, in a process whose network is off."""

from __future__ import annotations

import atexit
import base64
import gc
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # as `core.collector` does: a third of what the imports take is Python's collector of rubbish
    gc.set_threshold(10_000, 10, 10)
    atexit.register(gc.freeze)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import transformers

AUTO = {
    "classes": "AutoModelForSequenceClassification",
    "labels": "AutoModelForSequenceClassification",
    "number": "AutoModelForSequenceClassification",
    "tags": "AutoModelForTokenClassification",
    "gaps": "AutoModelForMaskedLM",
    "text": "AutoModelForCausalLM",
    "sequence": "AutoModelForSeq2SeqLM",
    "vector": "AutoModel",
}
"""What a network gives → the class of transformers that loads it."""
IMAGES = "AutoModelForImageClassification"
WORST = 5
"""Tensors that are named where weights differ."""


class PlainTransformers:
    """The calls that parity makes, each by transformers' own means.

    Args:
        folder: of the export.
        gives: what its network gives, as `Family.gives` says it.
        images: whether it reads images.
    """

    def __init__(self, folder: str, gives: str, images: bool = False) -> None:
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.folder, self.gives, self.images = folder, gives, images
        self.loader: Any = getattr(transformers, IMAGES if images else AUTO[gives])
        self.stored = _stored_dtype(Path(folder))
        network, loaded = self.loader.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        self.network: Any = _round_weights(network.eval(), self.stored)
        self.missing = sorted(str(name) for name in loaded["missing_keys"])
        reader = transformers.AutoImageProcessor if images else transformers.AutoTokenizer
        self.reader: Any = reader.from_pretrained(folder)
        self.pooling = _pooling(Path(folder)) if gives == "vector" else ""

    def about(self) -> dict[str, Any]:
        """Versions, precision, the names of the outputs, and where it stops writing."""
        names = getattr(self.network.config, "id2label", None) or {}
        generation = getattr(self.network, "generation_config", None)
        ends = None if generation is None else generation.eos_token_id
        return {
            "version": transformers.__version__,
            "precision": str(self.stored).removeprefix("torch."),
            "labels": [names[key] for key in sorted(names, key=int)],
            "ends": [] if ends is None else [ends] if isinstance(ends, int) else list(ends),
        }

    def compute_as_used(self) -> bool:
        """From now on, compute in the dtype of the weights, as `from_pretrained` does unless told otherwise; whether that is not fp32."""
        if self.stored == torch.float32:
            return False
        self.network = None  # the other one's memory is given back first
        self.network = self.loader.from_pretrained(self.folder).eval()
        return True

    def encode(self, texts: Sequence[str]) -> dict[str, Any]:
        """A row, cut to what the tokenizer says that the network reads."""
        if self.images:
            return {"pixels": self._pixels(texts[0])}
        encoded = self.reader(*texts, truncation=True)
        return {"tokens": encoded["input_ids"], "segments": encoded.get("token_type_ids") if len(texts) == 2 else None}

    def _pixels(self, file: str) -> np.ndarray:
        """An image as the network reads it, back on the scale of its file, # (side, side, channels) of uint8"""
        from PIL import Image, ImageOps

        grey = self.network.config.num_channels == 1
        with Image.open(file) as image:
            turned = ImageOps.exif_transpose(image).convert("RGB").convert("L" if grey else "RGB")
            size = self.reader.size
            small = turned.resize((size["width"], size["height"]), Image.Resampling(self.reader.resample))
        pixels = np.asarray(small, dtype=np.uint8)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def outputs(self, rows: Sequence[dict[str, Any]]) -> list[np.ndarray]:
        """What the network gives for each row, of every token that is kept."""
        results = []
        with torch.no_grad():
            for row in rows:
                if self.images:
                    results.append(self.network(pixel_values=self._scale_pixels(row["pixels"])).logits[0].float().numpy())
                    continue
                inputs = {"input_ids": torch.tensor([row["tokens"]])}
                if row.get("segments") is not None:
                    inputs["token_type_ids"] = torch.tensor([row["segments"]])
                result = self.network(**inputs, attention_mask=torch.ones_like(inputs["input_ids"]))
                if self.gives == "vector":
                    results.append(self._pool(result.last_hidden_state[0].float()).numpy())
                    continue
                logits = result.logits[0].float()
                results.append((logits if row.get("keep") is None else logits[torch.tensor(row["keep"], dtype=torch.long)]).numpy())
        return results

    def _scale_pixels(self, pixels: np.ndarray) -> torch.Tensor:
        mean, deviation = (torch.tensor(values)[:, None, None] for values in (self.reader.image_mean, self.reader.image_std))
        values = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() * self.reader.rescale_factor
        return ((values - mean) / deviation)[None].to(next(self.network.parameters()).dtype)

    def _pool(self, states: torch.Tensor) -> torch.Tensor:
        """A text's vector as the folder's files for sentence-transformers say."""
        vector = states[0] if self.pooling == "cls" else states.mean(0)
        normalises = any(step["type"].endswith("Normalize") for step in json.loads((Path(self.folder) / "modules.json").read_text()))
        return torch.nn.functional.normalize(vector, dim=0) if normalises else vector

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """A conversation by the folder's own chat template."""
        waits = messages[-1]["role"] != "assistant"
        return str(self.reader.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=waits))

    def prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The tokens that a text-generation pipeline reads of a conversation."""
        encoded = self.reader.apply_chat_template(list(messages), tokenize=True, add_generation_prompt=True, return_dict=True)
        return [int(token) for token in encoded["input_ids"]]

    def log_probabilities(self, tokens: Sequence[int]) -> np.ndarray:
        """Of each token but the first, behind those before it, # (tokens - 1,)"""
        ids = torch.tensor([list(tokens)])
        with torch.no_grad():
            result = self.network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1].float().log_softmax(-1)
        return result.gather(1, ids[0, 1:, None])[:, 0].numpy()

    def log_probabilities_behind(self, source: Sequence[int], target: Sequence[int]) -> np.ndarray:
        """Of each target token behind the source and those before it, # (target tokens,)"""
        ids, result = torch.tensor([list(source)]), torch.tensor([list(target)])
        begin = self.network.config.decoder_start_token_id
        decoder_input = torch.cat(
            [torch.full_like(result[:, :1], self.network.config.pad_token_id if begin is None else begin), result[:, :-1]], 1
        )
        with torch.no_grad():
            logits = self.network(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=decoder_input).logits[0]
        return logits.float().log_softmax(-1).gather(1, result[0, :, None])[:, 0].numpy()

    def write(self, tokens: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time, until the folder's own generation settings say stop."""
        ids = torch.tensor([list(tokens)])
        with torch.no_grad():
            made = self.network.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False, num_beams=1
            )
        return [int(token) for token in made[0, 0 if self.gives == "sequence" else len(tokens) :]][self.gives == "sequence" :]

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without control tokens."""
        return str(self.reader.decode(list(tokens), skip_special_tokens=True))

    def compare_weights(self, bundle: str) -> list[dict[str, Any]]:
        """The tensors that are not the bundle's, rounded to what they are stored in; the worst first.

        A tensor that the bundle does not hold is tied to one that it holds, or new; a new one was missing from the export too.
        """
        from safetensors import safe_open

        ours = dict(self.network.state_dict())
        results = []
        with safe_open(Path(bundle) / "model.safetensors", "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # safetensors' handle is no dict
                expected, there = opened.get_tensor(name), ours.get(name)
                if there is None and self.gives == "vector":
                    continue  # a pooler that nobody reads
                if there is None or there.shape != expected.shape or name in self.missing:
                    results.append({"name": name, "largest": float("inf"), "allowed": 0.0})
                    continue
                rounded = expected.to(self.stored if there.is_floating_point() else there.dtype)
                apart = float((there.double() - rounded.double()).abs().max()) if there.numel() else 0.0
                if apart != 0.0:  # a NaN is none
                    results.append({"name": name, "largest": apart, "allowed": 0.0})
            tied = set(self.network.all_tied_weights_keys or {}) if hasattr(self.network, "all_tied_weights_keys") else set()
            known = set(opened.keys())
        results += [
            {"name": name, "largest": float("inf"), "allowed": 0.0}
            for name in self.missing
            if name not in known and name not in tied and not (self.gives == "vector" and "pooler" in name) and "position_ids" not in name
        ]
        output = self.network.get_output_embeddings() if self.gives in ("text", "sequence", "gaps") else None
        if output is not None and not any(each["name"].startswith("lm_head") for each in results):
            results += _find_untied(self.network, output, known)
        return sorted(results, key=lambda each: -each["largest"])[:WORST]


def _stored_dtype(folder: Path) -> torch.dtype:
    """What the weights are rounded to: as the configuration says, else as the first of them is."""
    from safetensors import safe_open

    config = json.loads((folder / "config.json").read_text())
    named = config.get("dtype") or config.get("torch_dtype")
    if named:
        return getattr(torch, named)
    with safe_open(folder / "model.safetensors", "pt") as opened:
        return next(tensor.dtype for tensor in map(opened.get_tensor, opened.keys()) if tensor.is_floating_point())


def _round_weights(network: Any, dtype: torch.dtype) -> Any:
    """A network that computes in fp32, with the weights that transformers would take in a dtype."""
    if dtype != torch.float32:
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(tensor.to(dtype))
    return network


def _find_untied(network: Any, output: Any, known: set[str]) -> list[dict[str, Any]]:
    """The output matrix, where the bundle ties it to the embeddings and the export does not."""
    if any(name.endswith(("lm_head.weight", "decoder.weight")) for name in known):
        return []
    ours, table = output.weight.detach(), network.get_input_embeddings().weight.detach()
    if ours.shape != table.shape or torch.equal(ours, table):
        return []
    apart = (ours.double() - table.double()).abs().max()
    return [{"name": "lm_head.weight, which is tied to the embeddings", "largest": float(apart), "allowed": 0.0}]


def _pooling(folder: Path) -> str:
    """How a text's tokens become its vector, as sentence-transformers reads it."""
    result = json.loads((folder / "1_Pooling" / "config.json").read_text())
    return "cls" if result.get("pooling_mode_cls_token") else "mean"


def _refuse_network(*arguments: Any, **keywords: Any) -> Any:
    raise OSError("the network is off in this process")


def as_json(value: Any) -> Any:
    """An answer with its arrays as shape, type and bytes."""
    if isinstance(value, np.ndarray):
        return {"shape": value.shape, "dtype": str(value.dtype), "bytes": base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()}
    if isinstance(value, dict):
        return {name: as_json(each) for name, each in value.items()}
    return [as_json(each) for each in value] if isinstance(value, list | tuple) else value


def from_json(value: Any) -> Any:
    """The same, read back."""
    if isinstance(value, dict) and set(value) == {"shape", "dtype", "bytes"}:
        return np.frombuffer(base64.b64decode(value["bytes"]), dtype=value["dtype"]).reshape(value["shape"])
    if isinstance(value, dict):
        return {name: from_json(each) for name, each in value.items()}
    return [from_json(each) for each in value] if isinstance(value, list) else value


def main() -> None:
    """Answer one call a line: {"call": …, "given": […]} → {"said": …}, or {"problem": …}."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for name in ("connect", "connect_ex", "sendto"):
        setattr(socket.socket, name, _refuse_network)
    folder, gives, images, threads = sys.argv[1:5]
    torch.set_num_threads(int(threads))
    served: Any = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            served = served or PlainTransformers(folder, gives, images == "images")
            result = {"said": as_json(getattr(served, request["call"])(*from_json(request["given"])))}
        except BaseException as problem:  # also what a tokenizer in Rust panics about
            result = {"problem": f"{type(problem).__name__}: {problem}"}
        answers.write(json.dumps(result) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
