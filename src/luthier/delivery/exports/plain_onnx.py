"""Use an ONNX export: `python use.py FOLDER "your text"`. Only onnxruntime, numpy and tokenizers are needed (Pillow for images, transformers for chat templates)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

LIMIT = 64
"""Tokens that an answer may have."""


class PlainOnnx:
    """An exported folder in onnxruntime.

    Args:
        folder: of the export.
        threads: that compute; 0: as many as onnxruntime likes.
    """

    def __init__(self, folder: str, threads: int = 0) -> None:
        self.folder = Path(folder)
        self.facts: dict[str, Any] = json.loads((self.folder / "export.json").read_text())
        self.gives: str = self.facts["gives"]
        config = json.loads((self.folder / "config.json").read_text())
        names = config.get("id2label") or {}
        self.labels = [names[key] for key in sorted(names, key=int)]
        self.config = config
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.log_severity_level = 3

        def session(name: str) -> Any:
            return onnxruntime.InferenceSession(str(self.folder / name), settings, providers=["CPUExecutionProvider"])

        self.sessions = [session(name) for name in (("encoder.onnx", "decoder.onnx") if self.gives == "sequence" else ("model.onnx",))]
        self._tokenizer: Any = None
        self._full: Any = None

    @property
    def ends(self) -> list[int]:
        """Tokens at which it stops writing."""
        file = self.folder / "generation_config.json"
        settings = json.loads(file.read_text()) if file.is_file() else {}
        ends = settings.get("eos_token_id", self.config.get("eos_token_id"))
        return [] if ends is None else [ends] if isinstance(ends, int) else list(ends)

    @property
    def full_tokenizer(self) -> Any:
        """The tokenizer of transformers: for chat templates, and where there is no tokenizer.json."""
        if self._full is None:
            from transformers import AutoTokenizer

            self._full = AutoTokenizer.from_pretrained(self.folder)
        return self._full

    def encode(self, texts: Sequence[str]) -> dict[str, Any]:
        """A row as it is read: token ids, or the pixels of an image."""
        if self.facts["images"]:
            return {"pixels": self._pixels(texts[0])}
        if not (self.folder / "tokenizer.json").is_file():
            encoded = self.full_tokenizer(*texts, truncation=True)
            return {"tokens": encoded["input_ids"], "segments": encoded.get("token_type_ids") if len(texts) == 2 else None}
        if self._tokenizer is None:
            from tokenizers import Tokenizer

            self._tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
            self._tokenizer.no_padding()
            self._tokenizer.no_truncation()
            longest = json.loads((self.folder / "tokenizer_config.json").read_text()).get("model_max_length")
            if longest and longest < 1 << 20:
                self._tokenizer.enable_truncation(longest)
        encoded = self._tokenizer.encode(texts[0], texts[1] if len(texts) == 2 else None)
        return {"tokens": list(encoded.ids), "segments": list(encoded.type_ids) if len(texts) == 2 else None}

    def _pixels(self, file: str) -> np.ndarray:
        """An image as a square, turned as the camera says, # (side, side, channels) of uint8"""
        from PIL import Image, ImageOps

        size = json.loads((self.folder / "preprocessor_config.json").read_text())["size"]
        grey = self.config["num_channels"] == 1
        with Image.open(file) as image:
            turned = ImageOps.exif_transpose(image).convert("RGB").convert("L" if grey else "RGB")
            small = turned.resize((size["width"], size["height"]), Image.Resampling.BILINEAR)
        pixels = np.asarray(small, dtype=np.uint8)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def outputs(self, rows: Sequence[dict[str, Any]]) -> list[np.ndarray]:
        """What the network gives for each row; of a network that gives something of each token, of those that are kept."""
        results = []
        for row in rows:
            if self.facts["images"]:
                answer = self.sessions[0].run(None, {"pixels": np.ascontiguousarray(row["pixels"].transpose(2, 0, 1))[None]})
                results.append(np.concatenate([answer[0][0].transpose(1, 2, 0).ravel(), *(each[0] for each in answer[1:])]) if self.gives == "picture" else answer[0][0])  # fmt: skip
                continue
            ids = np.array([row["tokens"]], dtype=np.int64)
            inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
            if any(each.name == "token_type_ids" for each in self.sessions[0].get_inputs()):
                inputs["token_type_ids"] = np.array([row.get("segments") or [0] * len(row["tokens"])], dtype=np.int64)
            (answer,) = (each[0] for each in self.sessions[0].run(None, inputs))
            results.append(answer if row.get("keep") is None else answer[np.array(row["keep"], dtype=np.int64)])
        return results

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """A conversation by the folder's own chat template."""
        waits = messages[-1]["role"] != "assistant"
        return str(self.full_tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=waits))

    def prompt(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """The tokens of a conversation that waits for an answer."""
        encoded = self.full_tokenizer.apply_chat_template(list(messages), tokenize=True, add_generation_prompt=True, return_dict=True)
        return [int(token) for token in encoded["input_ids"]]

    def _step(self, tokens: Sequence[int], cache: dict[str, np.ndarray] | None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Scores behind each new token, # (new, vocabulary), and the cache with them in it."""
        cache = self._empty_cache(self.sessions[0], "") if cache is None else cache
        before = next(iter(cache.values())).shape[2]
        positions = np.arange(before, before + len(tokens), dtype=np.int64)[None]
        mask = np.ones((1, before + len(tokens)), dtype=np.int64)
        ids = np.array([list(tokens)], dtype=np.int64)
        return self._run_cached(self.sessions[0], {"input_ids": ids, "attention_mask": mask, "position_ids": positions, **cache})

    def _empty_cache(self, session: Any, kind: str) -> dict[str, np.ndarray]:
        """Keys and values of no token, for those inputs whose name has `kind` in it."""
        shapes = {each.name: each.shape for each in session.get_inputs() if each.name.startswith("past") and kind in each.name}
        return {name: np.zeros((1, shape[1], 0, shape[3]), dtype=np.float32) for name, shape in shapes.items()}

    def _run_cached(self, session: Any, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Scores behind each new token, # (new, vocabulary), and the cache with them in it."""
        scores, *present = session.run(None, inputs)
        names = [each.name.replace("present", "past_key_values") for each in session.get_outputs()[1:]]
        return scores[0], dict(zip(names, present, strict=True))

    def log_probabilities(self, tokens: Sequence[int]) -> np.ndarray:
        """Of each token but the first, behind those before it, # (tokens - 1,); the second half behind the cache of the first."""
        return _of_tokens(_in_two_steps(self._step, tokens)[:-1], tokens[1:])

    def write(self, tokens: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time, up to `limit` or to one that ends an answer, which is given too."""
        scores, cache = self._step(tokens, None)
        results: list[int] = []
        while len(results) < limit:
            results.append(int(scores[-1].argmax()))
            if results[-1] in self.ends:
                break
            scores, cache = self._step(results[-1:], cache)
        return results

    def _begin(self) -> int:
        begin = self.config.get("decoder_start_token_id")
        return int(self.config["pad_token_id"] if begin is None else begin)

    def _read(self, source: Sequence[int]) -> dict[str, np.ndarray]:
        """What the decoder attends to of a source: its keys and values in each layer."""
        ids = np.array([list(source)], dtype=np.int64)
        names = [each.name for each in self.sessions[0].get_outputs()]
        outputs = dict(zip(names, self.sessions[0].run(None, {"input_ids": ids, "attention_mask": np.ones_like(ids)}), strict=True))
        outputs.pop("encoder_hidden_states")
        return {"encoder_attention_mask": np.ones_like(ids), **outputs}

    def _follow(
        self, tokens: Sequence[int], read: dict[str, np.ndarray], cache: dict[str, np.ndarray] | None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Scores behind each new token of a translation, # (new, vocabulary), and the cache with them in it."""
        cache = self._empty_cache(self.sessions[1], ".decoder.") if cache is None else cache
        return self._run_cached(self.sessions[1], {"decoder_input_ids": np.array([list(tokens)], dtype=np.int64), **read, **cache})

    def log_probabilities_behind(self, source: Sequence[int], target: Sequence[int]) -> np.ndarray:
        """Of each target token behind the source and those before it, # (target tokens,); the second half behind the cache of the first."""
        read = self._read(source)
        scores = _in_two_steps(lambda tokens, cache: self._follow(tokens, read, cache), [self._begin(), *target[:-1]])
        return _of_tokens(scores, target)

    def translate(self, source: Sequence[int], limit: int) -> list[int]:
        """The likeliest token each time, never the padding; up to `limit` or to one that ends a text, which is given too."""
        read, results, padding = self._read(source), [self._begin()], self.config.get("pad_token_id")
        cache = None
        while len(results) <= limit:
            scores, cache = self._follow(results[-1:], read, cache)
            if padding is not None:
                scores[-1, padding] = -np.inf
            results.append(int(scores[-1].argmax()))
            if results[-1] in self.ends:
                break
        return results[1:]

    def decode(self, tokens: Sequence[int]) -> str:
        """Tokens as text, without control tokens."""
        return str(self.full_tokenizer.decode(list(tokens), skip_special_tokens=True))

    def answer(self, texts: Sequence[str]) -> Any:
        """What the network says of one text, two texts that are read together, or an image."""
        if self.gives == "text":
            talks = (self.folder / "chat_template.jinja").is_file() and self.facts["talks"]
            tokens = self.prompt([{"role": "user", "content": texts[0]}]) if talks else self.encode(texts)["tokens"]
            return self.decode(self.write(tokens, LIMIT)).strip()
        if self.gives == "sequence":
            return self.decode(self.translate(self.encode([self.facts["objective"].get("prefix", "") + texts[0]])["tokens"], LIMIT)).strip()
        (output,) = self.outputs([self.encode(texts)])
        if self.gives == "classes":
            shares = np.exp(output.astype(np.float64) - output.max())
            return dict(zip(self.labels, (shares / shares.sum()).round(6).tolist(), strict=True))
        if self.gives == "labels":
            return dict(zip(self.labels, (1 / (1 + np.exp(-output.astype(np.float64)))).round(6).tolist(), strict=True))
        if self.gives == "number":
            return float(output[0] * self.facts["objective"]["spread"] + self.facts["objective"]["mean"])
        if self.gives == "rebuilt":
            rebuilt, target = np.split(output.astype(np.float64), 2)
            return {"anomaly_score": float(((rebuilt - target) ** 2).mean())}
        return self._of_tokens_said(output, texts) if self.gives in ("tags", "gaps") else output.tolist()

    def _of_tokens_said(self, output: np.ndarray, texts: Sequence[str]) -> Any:
        """For each word its label, or for each gap the likeliest token."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        read = tokenizer.encode(texts[0], texts[1] if len(texts) == 2 else None)
        if self.gives == "gaps":
            mask = json.loads((self.folder / "tokenizer_config.json").read_text()).get("mask_token", "[MASK]")
            mask = mask["content"] if isinstance(mask, dict) else mask
            return [tokenizer.decode([int(output[position].argmax())]) for position, token in enumerate(read.tokens) if token == mask]
        firsts = {word: position for position, word in reversed(list(enumerate(read.word_ids))) if word is not None}
        return [
            (texts[0][slice(*read.offsets[position])], self.labels[int(output[position].argmax())]) for position in sorted(firsts.values())
        ]


def _in_two_steps(step: Callable[[Sequence[int], Any], tuple[np.ndarray, Any]], tokens: Sequence[int]) -> np.ndarray:
    """The scores behind each token, the second half computed behind the cache of the first, # (tokens, vocabulary)"""
    half = (len(tokens) + 1) // 2
    scores, cache = step(tokens[:half], None)
    more = [step(tokens[half:], cache)[0]] if half < len(tokens) else []
    return np.concatenate([scores, *more])


def _of_tokens(scores: np.ndarray, tokens: Sequence[int]) -> np.ndarray:
    """The log-probability of each token under its scores, # (tokens, vocabulary), (tokens,) → (tokens,)"""
    precise = scores.astype(np.float64)
    precise -= precise.max(-1, keepdims=True)
    logged = precise - np.log(np.exp(precise).sum(-1, keepdims=True))
    return logged[np.arange(len(tokens)), np.array(list(tokens), dtype=np.int64)]


if __name__ == "__main__":
    print(json.dumps(PlainOnnx(sys.argv[1]).answer(sys.argv[2:]), ensure_ascii=False))
