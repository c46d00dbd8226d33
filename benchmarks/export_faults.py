"""Are faults that people make when they export found, at the right stage, and are healthy exports left alone?

    python benchmarks/export_faults.py --data DIR --out export-faults

DIR holds `gsm8k` and `sms_spam`. Two small runs are made, a chat model on smollm2-135m with adapters and a classifier on minilm-l6, and an embedding model
beside them; each is exported once, then each fault is planted into a copy and `luthier parity` is asked. One JSON line a fault, one a healthy export.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Plant = Callable[[Path, Path], None]
"""The folder of an export and the bundle that it is of → the fault is in the folder."""


def edit_json(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file in place; where it is not there, an empty one is changed."""
    content = json.loads(file.read_text()) if file.is_file() else {}
    content = change(content) or content
    file.write_text(json.dumps(content, ensure_ascii=False))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the weights of an export in place."""
    state = load_file(folder / "model.safetensors")
    state = change(state) or state
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def change_template(folder: Path, bundle: Path) -> None:
    """Another chat template: the roles have other names."""
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("'<|im_start|>' + message['role']", "'<|im_start|>' + message['role'] | upper"))


def double_beginning(folder: Path, bundle: Path) -> None:
    """The tokenizer puts a beginning token before every text, which the template or the trainer does not know of."""
    mark = json.loads((folder / "tokenizer_config.json").read_text())["bos_token"]
    mark = mark if isinstance(mark, str) else mark["content"]

    def add(content: dict[str, Any]) -> None:
        known = {each["content"]: each["id"] for each in content["added_tokens"]}
        special = {mark: {"id": mark, "ids": [known[mark]], "tokens": [mark]}}
        pieces = [{"SpecialToken": {"id": mark, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": pieces,
            "pair": [*pieces, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": special,
        }

    edit_json(folder / "tokenizer.json", add)


def double_beginning_in_template(folder: Path, bundle: Path) -> None:
    """The template writes a beginning token once more."""
    file = folder / "chat_template.jinja"
    file.write_text("{{ bos_token }}" + file.read_text())


def lose_end(folder: Path, bundle: Path) -> None:
    """The token that ends an answer is no longer in the settings."""
    for name in ("generation_config.json", "config.json"):
        edit_json(folder / name, lambda content: content.update(eos_token_id=0, pad_token_id=1))


def adapted_layers(bundle: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The adapters of a bundle, and their settings."""
    return load_file(bundle / "adapter" / "adapter_model.safetensors"), json.loads((bundle / "adapter" / "adapter_config.json").read_text())


def deltas(bundle: Path) -> dict[str, torch.Tensor]:
    """What the adapters of a bundle add to each weight."""
    state, settings = adapted_layers(bundle)
    scale = settings["lora_alpha"] / settings["r"]
    return {
        f"{name}.weight": scale * (state[f"base_model.model.{name}.lora_B.weight"] @ state[f"base_model.model.{name}.lora_A.weight"])
        for name in settings["target_modules"]
    }


def merge_in_bf16(folder: Path, bundle: Path) -> None:
    """The adapters were merged into weights in bf16, and the sum stored in fp32."""
    added = deltas(bundle)

    def change(state: dict[str, torch.Tensor]) -> None:
        for name, delta in added.items():
            base = (state[name].float() - delta).bfloat16()
            state[name] = (base + delta.bfloat16()).to(state[name].dtype)

    edit_weights(folder, change)


def leave_unmerged(folder: Path, bundle: Path) -> None:
    """The base was exported without its adapters."""
    added = deltas(bundle)
    edit_weights(
        folder, lambda state: state.update({name: (state[name].float() - delta).to(state[name].dtype) for name, delta in added.items()})
    )


def round_to(tensor: torch.Tensor, levels: int) -> torch.Tensor:
    """A matrix on a grid of so many levels on each side of 0, one scale a row."""
    scale = tensor.float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / levels
    return ((tensor.float() / scale).round() * scale).to(tensor.dtype)


def quantise_twice(folder: Path, bundle: Path) -> None:
    """The matrices were on a grid of 8 bits, then of 4, before they were stored."""
    edit_weights(
        folder,
        lambda state: {
            name: round_to(round_to(tensor, 127), 7) if tensor.ndim == 2 and "embed" not in name else tensor
            for name, tensor in state.items()
        },
    )


def mismatch_prefix(folder: Path, bundle: Path) -> None:
    """The adapted weights have the names that they have in PEFT, which the network does not look for."""
    added = deltas(bundle)
    edit_weights(folder, lambda state: {(f"base_model.model.{name}" if name in added else name): tensor for name, tensor in state.items()})


def untie_embeddings(folder: Path, bundle: Path) -> None:
    """The output matrix is another one than the embeddings."""
    edit_json(folder / "config.json", lambda content: content.update(tie_word_embeddings=False))

    def change(state: dict[str, torch.Tensor]) -> None:
        table = state["model.embed_tokens.weight"].float()
        state["lm_head.weight"] = (table + table.std() * 0.1 * torch.sin(torch.arange(table.numel()).view_as(table).float())).to(
            state["model.embed_tokens.weight"].dtype
        )

    edit_weights(folder, change)


def change_rope(folder: Path, bundle: Path) -> None:
    """Positions turn at another rate."""

    def change(content: dict[str, Any]) -> None:
        rope = dict(content.get("rope_parameters") or {"rope_type": "default", "rope_theta": content.get("rope_theta", 10_000.0)})
        content["rope_parameters"] = {**rope, "rope_theta": float(rope["rope_theta"]) / 4}

    edit_json(folder / "config.json", change)


def reverse_labels(folder: Path, bundle: Path) -> None:
    """The classes are named in another order."""

    def change(content: dict[str, Any]) -> None:
        names = [content["id2label"][key] for key in sorted(content["id2label"], key=int)][::-1]
        content["id2label"] = {str(place): name for place, name in enumerate(names)}
        content["label2id"] = {name: place for place, name in enumerate(names)}

    edit_json(folder / "config.json", change)


def lose_temperature(folder: Path, bundle: Path) -> None:
    """The last layer is that before its temperature was divided in."""
    edit_weights(
        folder, lambda state: state.update({name: tensor * 1.7 for name, tensor in state.items() if name.startswith("classifier.")})
    )


def change_pooling(folder: Path, bundle: Path) -> None:
    """The vector of a text is that of its first token, not the mean."""
    edit_json(
        folder / "1_Pooling" / "config.json", lambda content: content.update(pooling_mode_mean_tokens=False, pooling_mode_cls_token=True)
    )


def change_case(folder: Path, bundle: Path) -> None:
    """The tokenizer treats upper and lower case in the other way."""

    def change(content: dict[str, Any]) -> None:
        normaliser = content.get("normalizer")
        if normaliser and "lowercase" in normaliser:
            normaliser["lowercase"] = not normaliser["lowercase"]
        else:
            content["normalizer"] = {"type": "Lowercase"}

    edit_json(folder / "tokenizer.json", change)
    settings = folder / "tokenizer_config.json"
    if "do_lower_case" in json.loads(settings.read_text()):  # by which transformers makes the normaliser of BERT's tokenizers anew
        edit_json(settings, lambda content: content.update(do_lower_case=not content["do_lower_case"]))


def shift_positions(folder: Path, bundle: Path) -> None:
    """Each token has the position behind its own."""
    edit_weights(
        folder,
        lambda state: state.update(
            {name: tensor.roll(-1, 0) for name, tensor in state.items() if name.endswith("position_embeddings.weight")}
        ),
    )


@dataclass(frozen=True)
class Fault:
    """A fault that is planted into a healthy export in safetensors.

    Args:
        plant: puts it there.
        stage: at which it has to be found.
        runs: which of the three runs it is planted into.
    """

    plant: Plant
    stage: str
    runs: str


FAULTS: dict[str, Fault] = {
    "chat template changed": Fault(change_template, "rendered text", "chat"),
    "double beginning token (tokenizer)": Fault(double_beginning, "token ids", "chat"),
    "double beginning token (template)": Fault(double_beginning_in_template, "rendered text", "chat"),
    "end token lost": Fault(lose_end, "token ids", "chat"),
    "merged in the wrong dtype": Fault(merge_in_bf16, "weights", "chat"),
    "adapters not merged": Fault(leave_unmerged, "weights", "chat"),
    "quantised twice": Fault(quantise_twice, "weights", "chat"),
    "adapter prefix mismatch": Fault(mismatch_prefix, "weights", "chat"),
    "untied embeddings": Fault(untie_embeddings, "weights", "chat"),
    "RoPE scale changed": Fault(change_rope, "log-probabilities", "chat"),
    "label order changed": Fault(reverse_labels, "decoded text", "classes"),
    "temperature lost": Fault(lose_temperature, "weights", "classes"),
    "lower-casing changed": Fault(change_case, "token ids", "classes"),
    "position offset": Fault(shift_positions, "weights", "classes"),
    "pooling changed": Fault(change_pooling, "log-probabilities", "vectors"),
}
"""Eight that ruin decoders (two in two forms), five that ruin encoders."""


def plant(name: str, healthy: Path, folder: Path, bundle: Path) -> None:
    """Copy a healthy export and put a fault into the copy.

    Args:
        name: of the fault.
        healthy: the export.
        folder: of the copy, not yet there.
        bundle: that was exported.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(healthy, folder)
    FAULTS[name].plant(folder, bundle)


def make_runs(data: Path, out: Path) -> dict[str, Path]:
    """The three runs, made once."""
    import luthier

    wanted: dict[str, tuple[Path, str, dict[str, Any], list[str]]] = {
        "chat": (data / "gsm8k", "smollm2-135m", {"task": "chat"}, ["training.steps=8", "adaptation.kind=lora", "objective.max_length=192", "data.most_rows=200", "training.batch_size=4"]),
        "classes": (data / "sms_spam" / "sms.tsv", "minilm-l6", {}, ["training.steps=40", "training.ships=trained", "data.most_rows=1000"]),
        "vectors": (data / "gsm8k", "minilm-l6", {"task": "embedding", "input": "question,answer"}, ["training.steps=10", "data.most_rows=200"]),
    }  # fmt: skip
    for name, (rows, base, options, changes) in wanted.items():
        if not (out / name / "bundle" / "luthier.json").is_file():
            shutil.rmtree(out / name, ignore_errors=True)
            luthier.run(rows, base=base, out=out / name, set=changes, force=True, **options)
    return {name: out / name for name in wanted}


FORMATS = (
    ("safetensors", "bf16"),
    ("onnx", "auto"),
    ("int8", "auto"),
    *(("gguf", dtype) for dtype in ("fp16", "bf16", "q8_0", "q4_k_m", "q4_0")),
)
"""Healthy exports beside safetensors in fp32, into which faults are planted."""


def export_healthy(run: Path, folder: Path, format: str, dtype: str, most: int) -> None:
    """Export once and say what parity found; a format that cannot hold the model is said too.

    Args:
        run: of the bundle.
        folder: of the export; what is there already is kept.
        format: as after `--to`.
        dtype: as after `--dtype`.
        most: rows that are compared.
    """
    from luthier.core.errors import LuthierError
    from luthier.pilot.export import PartsError, export

    line: dict[str, Any] = {"run": run.name, "healthy": format, "dtype": dtype}
    try:
        if folder.exists():
            line["verdict"] = "exported before"
        else:
            record = export(run, to=format, out=folder, dtype=dtype, most=most).parity or {}
            line |= {"verdict": record["verdict"], "stages": {each["name"]: [each["largest"], each["detail"]] for each in record["stages"]}}
    except PartsError as problem:
        stages = {each["name"]: [each["largest"], each["detail"]] for each in problem.record["stages"]}
        line |= {"verdict": problem.record["verdict"], "stages": stages}
    except LuthierError as problem:
        line["verdict"] = f"refused: {problem.message}"
    print(json.dumps(line, ensure_ascii=False), flush=True)


def main() -> None:
    from luthier.pilot.export import parity

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("export-faults"))
    parser.add_argument("--most", type=int, default=16, help="rows that are compared")
    parser.add_argument("--runs", nargs="+", default=["chat", "classes", "vectors"], help="which of the three runs")
    parser.add_argument("--only", default="", help="a part of the names of the faults to be tried; other healthy exports are left out then")
    options = parser.parse_args()
    runs = {name: run for name, run in make_runs(options.data, options.out / "runs").items() if name in options.runs}
    healthy = {name: options.out / f"{name}-safetensors-fp32" for name in runs}
    for name, run in runs.items():
        export_healthy(run, healthy[name], "safetensors", "fp32", options.most)
    for name, fault in FAULTS.items():
        if options.only not in name or fault.runs not in runs:
            continue
        folder = options.out / f"planted-{fault.runs}"
        plant(name, healthy[fault.runs], folder, runs[fault.runs] / "bundle")
        record = parity(runs[fault.runs], folder, most=options.most)
        results = record["stage"] == fault.stage
        print(
            json.dumps({"fault": name, "found": results, "at": record["stage"], "expected": fault.stage, "verdict": record["verdict"]}),
            flush=True,
        )
        shutil.rmtree(folder)
    for name, run in runs.items() if not options.only else ():
        for format, dtype in FORMATS:
            export_healthy(run, options.out / f"{name}-{format}-{dtype}", format, dtype, options.most)


if __name__ == "__main__":
    main()
