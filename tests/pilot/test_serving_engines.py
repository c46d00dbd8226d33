"""Engines beside torch: what they say is what the bundle's own network says, and what they cannot serve they refuse before a port is open."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.errors import ExperimentError, ModelError
from luthier.models.decoding.precision import PrecisionParity
from luthier.models.kernels.shared_library import can_compile
from luthier.models.llama_process import PLACE, SERVER, find_server
from luthier.pilot.serve import check_bundle, load_model
from luthier.pilot.stages.serving_engines import check_engine
from luthier.pilot.stages.serving_precision import record_int8
from luthier.serving.engine_network import EngineNetwork
from luthier.serving.interface import GenerationRequest
from luthier.serving.service import ServedModel
from tests.app.server.conftest import Client, until
from tests.families.cases import CASES, base_of

QUICK = ("training.steps=2", "training.checkpoint_seconds=0", "training.dtype=float32")
PREDICTED = ("classification", "multi_label", "regression", "embedding", "token_labels", "masked_lm", "image_classification", "autoencoder", "text_autoencoder")  # fmt: skip
"""Families that say something of a row."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Name of a family → a run's folder, made once; what engines keep goes into a folder of its own."""
    folder, made = tmp_path_factory.mktemp("engines"), {}

    def run_of(name: str) -> Path:
        if name not in made:
            case, place = CASES[name], folder / name
            place.mkdir()
            changes = [*QUICK, *case.changes]
            made[name] = luthier.run(
                case.write(place), base=base_of(case, folder), out=place / "run", set=changes, force=True, **case.options
            ).folder
        return made[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(folder / "home"))
        yield run_of


PROGRAM = find_server()
NEEDS = pytest.mark.peer(PROGRAM is not None, f"llama.cpp's {SERVER}")
GREEDY = 8
"""Tokens of an answer."""


def open_served(run: Path, engine: str, lines: list[str] | None = None) -> ServedModel:
    return load_model(check_bundle(run, print), engine=engine, say=(lines if lines is not None else []).append)


def answers(model: ServedModel, rows: Any, limit: int = 8) -> Any:
    try:
        return model.queue.submit(model.read(rows), limit).future.result()
    finally:
        model.close(5)


def near(one: Any, other: Any) -> bool:
    """Whether two answers say the same, numbers within what another order of sums explains."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(near(*pair) for pair in zip(one, other, strict=True))
    return one == pytest.approx(other, abs=1e-4, rel=1e-4) if isinstance(one, float) else one == other


def ask(name: str, model: ServedModel) -> list[dict[str, Any]]:
    """Rows of several lengths."""
    if model.family.kind.images:
        return [model.example] * 3
    ask = CASES[name].ask
    given = [row if isinstance(row, dict) else {model.columns[0]: row} for row in ask]
    rows = [{column: row[column] for column in model.columns if column in row} for row in given]
    return [model.example, *rows, *({key: f"{text} {text} {text}" for key, text in row.items()} for row in rows)]


@pytest.mark.parametrize("name", PREDICTED)
def test_predictions_by_onnxruntime_are_those_of_the_network(name: str, runs: Any) -> None:
    pytest.importorskip("onnxruntime")
    one, other, lines = open_served(runs(name), "torch"), open_served(runs(name), "onnx"), []
    rows = ask(name, one)
    assert near(answers(other, rows), answers(one, rows))
    assert other.about["engine"].startswith("onnxruntime") and other.about["parity"]["same"]
    answers(open_served(runs(name), "onnx", lines), rows)
    assert not lines, "the second start exports and proves again"


def test_text_by_onnxruntime_is_that_of_the_network_drawn_tokens_and_json_too(runs: Any) -> None:
    pytest.importorskip("onnxruntime")
    one, other = open_served(runs("chat"), "torch"), open_served(runs("chat"), "onnx")
    assert one.engine is not None and other.engine is not None and one.prompts is not None
    prompt = tuple(one.prompts.of_conversation([{"role": "user", "content": "what about 3?"}]))
    for options in ({}, {"temperature": 1.2, "seed": 3, "top_k": 20}):
        request = GenerationRequest(prompt, 12, stop=one.prompts.ends, logprobs=2, **options)
        ours, theirs = list(one.engine.submit(request)), list(other.engine.submit(request))
        assert [token.id for token in ours] == [token.id for token in theirs]
        assert near([token.logprob for token in ours], [token.logprob for token in theirs])
    assert other.context == one.context and other.engine.holds_grammars and other.engine.vocabulary == one.engine.vocabulary
    rows = [{"prompt": "what about 3?"}, {"prompt": "what about the number 4?"}]
    assert answers(other, rows) == answers(one, rows)


def test_a_bundle_without_its_run_is_served_unproven_and_says_so(runs: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    shutil.copytree(runs("regression") / "bundle", tmp_path / "alone")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(tmp_path / "home"))
        lines: list[str] = []
        model = open_served(tmp_path / "alone", "onnx", lines)
        model.close()
    assert model.about["parity"]["same"] is None and "lies in no run" in model.about["parity"]["verdict"]
    assert any(line.startswith("not proven") for line in lines) and "not proven" in model.about["engine"]


def test_an_export_that_says_something_else_is_not_served_and_a_changed_one_is_made_again(runs: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    run, home = runs("classification"), tmp_path / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_HOME", str(home))
        open_served(run, "onnx").close()
        (folder,) = (home / "exports").iterdir()
        record = json.loads((folder / "parity.json").read_text())
        (folder / "parity.json").write_text(json.dumps({**record, "same": False, "verdict": "parts at log-probabilities"}))
        with pytest.raises(ModelError, match="does not say what the trainer says: parts at log-probabilities") as refused:
            open_served(run, "onnx")
        assert "--engine torch" in refused.value.remedy
        (folder / "parity.json").write_text(json.dumps({**record, "proven_in": "onnxruntime 0.1"}))
        lines: list[str] = []
        open_served(run, "onnx", lines).close()
        assert [line.split()[0] for line in lines] == ["proving", "proven:"]
        (folder / "model.onnx").write_bytes(b"something else")
        lines.clear()
        open_served(run, "onnx", lines).close()
        assert [line.split()[0] for line in lines] == ["exporting", "proving", "proven:"]


def test_what_an_engine_cannot_serve_is_refused_before_a_port_is_open(runs: Any, tmp_path: Path) -> None:
    for name, engine, words in (
        ("translation", "onnx", "likeliest token"),
        ("classification", "llama.cpp", "is a classification model: it can serve causal_lm, chat"),
    ):
        with pytest.raises(ModelError, match=words) as refused:
            luthier.serve(runs(name), port=0, engine=engine, say=print, wait=False)
        assert "--engine torch" in refused.value.remedy and refused.value.exit_code == 2
    with pytest.raises(ExperimentError, match="no engine 'onx'") as unknown:
        check_engine("onx")
    assert "onnx" in unknown.value.remedy
    with pytest.raises(
        ModelError, match=r"--precision int8 is for decoders that write text \(.*chat.*\), and this is a classification model"
    ):
        luthier.serve(runs("classification"), port=0, precision="int8", say=print, wait=False)
    for engine, words in (("onnx", "onnx computes in fp32"), ("llama.cpp", "llama.cpp computes in float16")):
        with pytest.raises(ExperimentError, match=f"--precision int8 is for the engine torch: {words}"):
            luthier.serve(runs("chat"), port=0, engine=engine, precision="int8", say=print, wait=False)
    with pytest.raises(ExperimentError, match="no precision 'in8'") as unknown:
        luthier.serve(runs("chat"), port=0, precision="in8", say=print, wait=False)
    assert "int8" in unknown.value.remedy
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(tmp_path))
        patch.delenv(PLACE, raising=False)
        with pytest.raises(ModelError, match="needs its program llama-server") as missing:
            luthier.serve(runs("chat"), port=0, engine="llama.cpp", say=print, wait=False)
        assert "install llama.cpp" in missing.value.remedy
        patch.setenv(PLACE, str(tmp_path / "nothing"))
        with pytest.raises(ModelError, match=f"{PLACE} is .*nothing, which is no program"):
            luthier.serve(runs("chat"), port=0, engine="llama.cpp", say=print, wait=False)


@pytest.mark.skipif(not can_compile(), reason="there is no C++ compiler")
def test_text_in_int8_brings_its_record_and_every_route_is_written_so(runs: Any, compiling: None) -> None:
    lines: list[str] = []
    running = luthier.serve(runs("chat"), port=0, name="talker", precision="int8", say=lines.append, wait=False)
    client = Client(running)
    try:
        about = client("GET", "/info")[1]["model"]
        record = about["parity"]
        assert record["same"] and record["precision"] == "int8" and record["rows"].endswith("sealed test rows") and record["tokens"] > 50
        assert 0 < record["mean"] <= record["largest"] < 0.5 and "weights in int8" in about["engine"]
        assert record["verdict"] in lines and any(line.startswith("comparing int8 with fp32 on ") for line in lines)
        turns = [{"role": "user", "content": "what about 3?"}]
        chat = client.post("/v1/chat/completions", {"model": "talker", "messages": turns, "max_tokens": 8})["choices"][0]
        (row,) = client.post("/predict", {"rows": ["what about 3?"], "limit": 8})["data"]
        assert row["text"] == chat["message"]["content"].strip()
        assert isinstance(running.service.model.model, EngineNetwork), "the network in fp32 stays in memory"
    finally:
        running.close(0)


def test_int8_that_is_farther_from_fp32_than_rounding_explains_is_not_served() -> None:
    near = PrecisionParity(tokens=100, largest=1.0, mean=0.05, equal_greedy=0.97, perplexity=10.0, reduced_perplexity=10.1)
    assert record_int8(near, "3 rows")["verdict"] == f"int8 beside fp32 on 3 rows: {near}"
    for change in ({"mean": 0.5}, {"largest": 9.0}, {"mean": float("nan")}):
        with pytest.raises(ModelError, match="int8 does not say what the trainer says: int8 beside fp32 on 3 rows") as refused:
            record_int8(dataclasses.replace(near, **change), "3 rows")
        assert "--precision auto" in refused.value.remedy


@NEEDS
def test_llama_cpp_writes_what_the_network_finds_likeliest(runs: Any) -> None:
    one, lines = open_served(runs("chat"), "torch"), []
    other = open_served(runs("chat"), "llama.cpp", lines)
    assert one.engine is not None and other.engine is not None and one.prompts is not None
    assert other.about["parity"]["same"] and "proven" in " ".join(lines)
    prompts = [tuple(one.prompts.of_conversation([{"role": "user", "content": f"what about {number}?"}])) for number in range(12)]
    requests = [GenerationRequest(prompt, GREEDY, logprobs=3) for prompt in prompts]
    written = [list(generation) for generation in [other.engine.submit(request) for request in requests]]
    for request, tokens in zip(requests, written, strict=True):
        assert len(tokens) == GREEDY
        for place, token in enumerate(tokens):
            behind = (*request.prompt, *(each.id for each in tokens[:place]))
            (ours,) = list(one.engine.submit(GenerationRequest(behind, 1, logprobs=5)))
            assert any(token.id == number and ours.top[0][1] - value < 0.05 for number, value in ours.top), (token, ours)
            if token.id == ours.id and token.logprob > -1e9:
                assert token.logprob == pytest.approx(ours.logprob, abs=0.05)
    drawn = GenerationRequest(prompts[0], GREEDY, temperature=1.5, seed=7)
    assert [token.id for token in other.engine.submit(drawn)] == [token.id for token in other.engine.submit(drawn)]
    rows = [{"prompt": "what about 3?"}]
    assert answers(other, rows) == answers(one, rows)
    lines.clear()
    open_served(runs("chat"), "llama.cpp", lines).close()
    assert not lines, "the second start exports and proves again"


@NEEDS
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_llama_cpp_behind_the_server_streams_frees_slots_and_is_named_when_it_dies(runs: Any) -> None:
    lines: list[str] = []
    running = luthier.serve(runs("chat"), port=0, name="talker", engine="llama.cpp", say=lines.append, wait=False)
    client = Client(running)
    try:
        assert any(line.startswith("ready: llama.cpp, version") for line in lines)
        asked = {
            "model": "talker",
            "messages": [{"role": "user", "content": "what about 3?"}],
            "max_tokens": 24,
            "temperature": 1.2,
            "seed": 5,
        }
        whole = client.post("/v1/chat/completions", {**asked, "logprobs": True, "top_logprobs": 2})
        assert whole["usage"]["completion_tokens"] == len(whole["choices"][0]["logprobs"]["content"]) <= 24
        events = client.post("/v1/chat/completions", {**asked, "stream": True}).decode().split("\n\n")
        pieces = [json.loads(event[6:])["choices"][0]["delta"].get("content", "") for event in events if event and "[DONE]" not in event]
        assert "".join(pieces) == whole["choices"][0]["message"]["content"]
        status, said, _ = client("POST", "/v1/chat/completions", {**asked, "response_format": {"type": "json_object"}})
        assert (status, said["error"]["param"]) == (400, "response_format")
        assert client("GET", "/info")[1]["model"]["parity"]["same"]
        engine: Any = running.service.model.engine
        pid = engine.process.pid
        os.kill(pid, signal.SIGKILL)
        assert until(lambda: engine.fault is not None)
        status, said, _ = client("GET", "/health")
        assert (status, said) == (503, {"status": "failed", "reason": f"llama-server (process {pid}) ended by signal 9"})
        status, said, _ = client("POST", "/v1/chat/completions", asked)
        assert (status, said["error"]["code"]) == (503, "engine_failed") and "ended by signal 9" in said["error"]["message"]
        assert any("ended by signal 9" in line for line in lines)
    finally:
        running.close(0)
