"""What ONNX files compute, in onnxruntime, is what the trainer computes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import luthier
from luthier.delivery.exports import onnx_graphs
from luthier.delivery.exports.onnx_folder import _write_decoder, _write_halves, _write_rows
from luthier.models.pretrained import load_classifier, load_generator
from tests.conftest import DECODERS, ENCODERS, PADDED
from tests.models.test_encoder_decoder import NETWORKS
from tests.models.test_encoder_decoder import network as translator

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")


def session(folder: Path) -> Any:
    return onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("family", [*ENCODERS, *PADDED])
def test_every_encoder_gives_the_same_scores_for_rows_of_several_lengths(bases: Any, tmp_path: Path, family: str) -> None:
    model = load_classifier(bases(family), ["a", "b", "c"], "cls", 0.0, 1).eval()
    ids = torch.randint(5, 90, (3, 17), generator=torch.Generator().manual_seed(1))
    lengths = (17, 9, 4)
    seen = torch.tensor([[1] * length + [0] * (17 - length) for length in lengths])
    ids = torch.where(seen == 1, ids, model.network.config.pad_token_id)
    from luthier.core.types import Batch

    flat = torch.cat([row[:length] for row, length in zip(ids, lengths, strict=True)])
    with torch.no_grad():
        ours = model(Batch(torch.arange(3), torch.tensor(lengths), {"tokens": flat}, {})).numpy()
    _write_rows(onnx_graphs.RowGraph(model, "classes"), False, False, tmp_path)
    theirs = session(tmp_path).run(None, {"input_ids": ids.numpy(), "attention_mask": seen.numpy()})[0]
    assert np.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("family", DECODERS)
def test_every_decoder_gives_the_same_scores_at_once_by_its_cache_and_behind_padding(bases: Any, tmp_path: Path, family: str) -> None:
    model = load_generator(bases(family), 0.0).eval()
    tokens = torch.randint(5, 90, (1, 19), generator=torch.Generator().manual_seed(2))
    with model.for_generation() as network:
        wanted = network(input_ids=tokens).logits[0].numpy()
    _write_decoder(onnx_graphs.DecoderGraph(model), tmp_path)
    opened = session(tmp_path)
    empty = {
        each.name: np.zeros((1, each.shape[1], 0, each.shape[3]), np.float32)
        for each in opened.get_inputs()
        if each.name.startswith("past")
    }

    def ask(ids: Any, seen: Any, places: Any, past: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        said = opened.run(None, {"input_ids": ids, "attention_mask": seen, "position_ids": places, **past})
        return said[0], dict(zip(past, said[1:], strict=True))

    ids, every = tokens.numpy(), np.arange(19)[None]
    at_once, _ = ask(ids, np.ones_like(ids), every, empty)
    assert np.abs(at_once[0] - wanted).max() < 1e-4
    first, past = ask(ids[:, :11], np.ones((1, 11), np.int64), every[:, :11], empty)
    second, past = ask(ids[:, 11:18], np.ones((1, 18), np.int64), every[:, 11:18], past)
    last, _ = ask(ids[:, 18:], np.ones((1, 19), np.int64), every[:, 18:], past)
    assert np.abs(np.concatenate([first, second, last], 1)[0] - wanted).max() < 1e-4
    padded = np.concatenate([np.zeros((1, 4), np.int64), ids], 1)
    seen = np.concatenate([np.zeros((1, 4), np.int64), np.ones_like(ids)], 1)
    behind, _ = ask(padded, seen, np.concatenate([np.zeros((1, 4), np.int64), every], 1), empty)
    assert np.abs(behind[0, 4:] - wanted).max() < 1e-4


def test_an_average_with_a_linear_probe_is_held_whole_and_used_without_torch(runs: Any, tmp_path: Path) -> None:
    run, texts = runs("average"), ["the phone was great", "an awful meal"]
    done = luthier.export(run.folder, to="onnx", out=tmp_path / "out", most=8)
    assert done.parity is not None and done.parity["same"]
    assert done.usage == f'python {tmp_path}/out/use.py {tmp_path}/out "your text"'
    program = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__'); assert not {'torch', 'luthier', 'transformers'} & set(sys.modules)"
    for text, ours in zip(texts, luthier.predict(run.folder, texts), strict=True):
        command = [sys.executable, "-I", "-c", program, str(done.folder / "use.py"), str(done.folder), text]
        said = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert said == pytest.approx(ours["probabilities"], abs=1e-4)


@pytest.mark.parametrize("name", ["labels average", "numbers average", "labels"])
def test_labels_and_numbers_are_held_with_their_temperature_and_their_average(runs: Any, tmp_path: Path, name: str) -> None:
    run, texts = runs(name), ["pizza at the river", "a choir and soup"]
    for format in ("onnx", "int8"):
        done = luthier.export(run.folder, to=format, out=tmp_path / format, most=8)
        assert done.parity is not None and done.parity["same"]
    program = [sys.executable, "-I", str(tmp_path / "onnx" / "use.py"), str(tmp_path / "onnx")]
    for text, ours in zip(texts, luthier.predict(run.folder, texts), strict=True):
        said = json.loads(subprocess.run([*program, text], capture_output=True, text=True, check=True).stdout)
        assert said == pytest.approx(ours["probabilities"] if name.startswith("labels") else ours["value"], abs=1e-4)


@pytest.mark.parametrize("name", ["classes", "labels"])
def test_a_changed_temperature_in_the_graph_is_found_and_named(
    runs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from luthier.pilot.export import PartsError

    forward = onnx_graphs.RowGraph.forward
    monkeypatch.setattr(onnx_graphs.RowGraph, "forward", lambda *given: forward(*given) * 1.8)
    with pytest.raises(PartsError, match=r"parts at log-probabilities.*logits are the trainer's times 1\.8: the temperature"):
        luthier.export(runs(name).folder, to="onnx", out=tmp_path / "out", most=6)
    assert (tmp_path / "out-FAILED-PARITY" / "parity.json").is_file() and not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["chat", "average"])
def test_weights_of_eight_bits_are_smaller_and_say_nearly_the_same(runs: Any, tmp_path: Path, name: str) -> None:
    import onnx

    whole = luthier.export(runs(name).folder, to="onnx", out=tmp_path / "whole", parity=False)
    small = luthier.export(runs(name).folder, to="int8", out=tmp_path / "small", most=4)
    assert small.parity is not None and small.parity["same"] and small.parity["precision"] == "int8"
    assert whole.parity is None
    weights = [sum(len(each.raw_data) for each in onnx.load(done.folder / "model.onnx").graph.initializer) for done in (whole, small)]
    assert weights[1] < weights[0]
    kinds = {node.op_type for node in onnx.load(small.folder / "model.onnx").graph.node}
    assert "MatMulNBits" in kinds


@pytest.mark.parametrize("family", sorted(NETWORKS))
def test_every_translator_gives_the_same_scores_at_once_by_its_cache_and_beside_a_longer_source(tmp_path: Path, family: str) -> None:
    model = translator(family).eval()
    source = torch.randint(5, 40, (1, 9), generator=torch.Generator().manual_seed(3))
    target = torch.randint(5, 40, (1, 7), generator=torch.Generator().manual_seed(4))
    with model.for_generation() as network:
        wanted = network(input_ids=source, decoder_input_ids=target).logits[0].numpy()
    _write_halves(onnx_graphs.EncoderGraph(model), onnx_graphs.TargetGraph(model), tmp_path)
    encoder, decoder = (
        onnxruntime.InferenceSession(str(tmp_path / name), providers=["CPUExecutionProvider"]) for name in ("encoder.onnx", "decoder.onnx")
    )
    beside = torch.randint(5, 40, (1, 14), generator=torch.Generator().manual_seed(5)).numpy()
    ids = np.concatenate([np.pad(source.numpy(), ((0, 0), (0, 5))), beside])
    seen = np.array([[1] * 9 + [0] * 5, [1] * 14])
    names = [each.name for each in encoder.get_outputs()]
    read = dict(zip(names, encoder.run(None, {"input_ids": ids, "attention_mask": seen}), strict=True)) | {"encoder_attention_mask": seen}
    del read["encoder_hidden_states"]
    shapes = {each.name: each.shape for each in decoder.get_inputs() if ".decoder." in each.name}
    empty = {name: np.zeros((2, shape[1], 0, shape[3]), np.float32) for name, shape in shapes.items()}
    shown = np.repeat(target.numpy(), 2, 0)

    def ask(tokens: Any, past: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        scores, *present = decoder.run(None, {"decoder_input_ids": tokens, **read, **past})
        return scores, dict(zip(empty, present, strict=True))

    at_once, _ = ask(shown, empty)
    assert np.abs(at_once[0] - wanted).max() < 1e-4
    pieces, past = [], empty
    for begin, end in ((0, 1), (1, 4), (4, 5), (5, 7)):
        scores, past = ask(shown[:, begin:end], past)
        pieces.append(scores)
    assert np.abs(np.concatenate(pieces, 1)[0] - wanted).max() < 1e-4
    assert past[next(iter(past))].shape[2] == 7
