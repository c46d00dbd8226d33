"""The whole way, on small models: what is left in the folder, and what a stop leaves of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import luthier
from luthier.core.errors import DataError, ExperimentError, LuthierError, ModelError, NoGo, RunError, Stopped
from luthier.core.run import Run
from luthier.training.checkpoints import verify
from tests import processes
from tests.conftest import rows

QUICK = ["training.steps=16", "optimizer.lr=0.003", "training.checkpoint_seconds=0"]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "text": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(rows(240))))
    return file


@pytest.fixture(scope="module")
def conversations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "chat.jsonl"
    file.write_text(
        "".join(json.dumps({"prompt": f"what about {number}?", "completion": row["text"]}) + "\n" for number, row in enumerate(rows(90)))
    )
    return file


@pytest.fixture(scope="module")
def finished(bases, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return luthier.run(
        table, base=str(bases("bert", 2).folder), out=tmp_path_factory.mktemp("runs") / "run", set=[*QUICK, "training.ships=trained"]
    )


@pytest.fixture(scope="module")
def talked(bases, conversations: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return luthier.run(
        conversations, base=str(bases("llama", 2).folder), out=tmp_path_factory.mktemp("runs") / "chat", set=QUICK, force=True
    )


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "bundle" / "model.safetensors").read_bytes()).hexdigest()


def test_a_run_leaves_the_folder_that_was_promised(finished: Run, talked: Run) -> None:
    for run in (finished, talked):
        for name in ("experiment.yaml", "splits.json", "rejected.jsonl", "events.jsonl", "metrics.jsonl", "timing.jsonl", "samples.jsonl", "findings.jsonl", "verdict.json", "report.html", "bundle/config.json", "bundle/README.md", "bundle/luthier.json"):  # fmt: skip
            assert (run.folder / name).is_file(), name
        assert list((run.folder / "validation_losses").glob("*.safetensors"))
        (checkpoint,) = (run.folder / "checkpoints").iterdir()  # the best weights; what it would take to go on is not needed any more
        assert {file.name for file in checkpoint.iterdir()} == {"model.safetensors", "state.json", "manifest.json"}
        assert verify(checkpoint).state["step"] == run.events_named("trained")[0]["best"]["step"]


def test_the_verdict_holds_what_was_promised(finished: Run, talked: Run) -> None:
    for run, task in ((finished, "classification"), (talked, "chat")):
        verdict: Any = run.verdict
        assert verdict["task"] == task
        assert {"value", "low", "high", "n"} <= set(verdict["test"])
        assert {"name", "value"} <= set(verdict["base"]) & set(verdict["trivial"])
        assert {"against", "value", "low", "high"} <= set(verdict["difference"])
        assert verdict["verdict"] in ("improved", "no_evidence", "worse")
        assert verdict["test_opened"] == 1
        assert verdict["seconds"] > 0
        assert verdict["test"]["low"] <= verdict["test"]["value"] <= verdict["test"]["high"]
        improved = verdict["difference"]["low"] > 0
        assert (verdict["verdict"] == "improved") == improved
    assert "unfinished" not in repr(finished)


def test_the_report_is_one_page_without_scripts_or_addresses(finished: Run, talked: Run) -> None:
    for run in (finished, talked):
        page = (run.folder / "report.html").read_text()
        assert "<script" not in page
        assert "http://" not in page.replace("http://www.w3.org", "")
        assert "https://" not in page
        assert "src=" not in page


def test_data_in_the_report_is_text_and_never_markup(bases, tmp_path: Path) -> None:
    file = tmp_path / "evil.jsonl"
    file.write_text(
        "".join(
            json.dumps({**row, "text": f"<img src=x onerror=alert(1)> {row['text']} {number}"}) + "\n"
            for number, row in enumerate(rows(60))
        )
    )
    run = luthier.run(file, base=str(bases("bert", 2).folder), out=tmp_path / "run", set=["training.steps=2"], force=True)
    page = (run.folder / "report.html").read_text()
    assert "<img" not in page
    assert "&lt;img" in page


def test_the_bundle_loads_in_transformers_and_gives_the_same_answers(finished: Run, table: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder = finished.folder / "bundle"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = [json.loads(line)["text"] for line in table.read_text().splitlines()[:20]]
    ours, close = luthier.predict(folder, texts), 1e-5 if model.dtype == torch.float32 else 1e-2  # bf16 has three digits
    for text, row in zip(texts, ours, strict=True):
        with torch.no_grad():
            theirs = model(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits.softmax(-1)[0]
        for number, label in model.config.id2label.items():
            assert row["probabilities"][label] == pytest.approx(float(theirs[number]), abs=close)
        assert row["label"] == model.config.id2label[int(theirs.argmax())] or abs(float(theirs.max()) - 0.5) < close


def test_the_bundle_scores_the_test_rows_as_the_verdict_did(finished: Run, table: Path) -> None:
    lines = table.read_text().splitlines()
    chosen = [json.loads(lines[row - 1]) for _, row in finished.json("splits.json")["rows"]["test"]]
    said = luthier.predict(finished.folder, [row["text"] for row in chosen])
    right = sum(one["label"] == row["label"] for one, row in zip(said, chosen, strict=True)) / len(chosen)
    near = sum(max(one["probabilities"].values()) < 0.51 for one in said) / len(chosen)  # bf16 may round such a row to either side
    float32 = finished.json("bundle/config.json")["dtype"] == "float32"
    assert right == pytest.approx(finished.verdict["test"]["value"], abs=1e-9 if float32 else near + 1e-9)  # type: ignore[index]


def test_a_chat_bundle_answers_and_talks(talked: Run) -> None:
    answer = luthier.predict(talked.folder, "what about 3?", limit=24)[0]["text"]
    conversation = luthier.chat(talked.folder, limit=24)
    assert "".join(conversation.say("what about 3?")).strip() == answer
    assert [message["role"] for message in conversation.messages] == ["user", "assistant"]


def test_a_bundle_can_be_trained_further_on_new_rows(finished: Run, table: Path, tmp_path: Path) -> None:
    run = luthier.run(
        table, base=str(finished.folder / "bundle"), out=tmp_path / "more", set=["training.steps=2", "optimizer.lr=1e-9"], force=True
    )
    first, second = (folder / "bundle" / "model.safetensors" for folder in (finished.folder, run.folder))
    from safetensors.torch import load_file

    rounded = 2**-7 if any(weight.dtype == torch.bfloat16 for weight in load_file(first).values()) else 0.0
    one, two = ({name: weight.float() for name, weight in load_file(file).items()} for file in (first, second))
    scale = float(
        two["classifier.weight"].norm() / one["classifier.weight"].norm()
    )  # each is at the temperature of its own validation rows
    assert torch.allclose(scale * one["classifier.weight"], two["classifier.weight"], rtol=rounded, atol=1e-5)
    assert all(torch.allclose(one[name], two[name], rtol=rounded, atol=1e-5) for name in one if not name.startswith("classifier"))


@pytest.mark.parametrize("task", ["classification", "chat"])
def test_the_same_experiment_gives_the_same_bytes(
    bases, table: Path, conversations: Path, finished: Run, talked: Run, tmp_path: Path, task: str
) -> None:
    first = finished if task == "classification" else talked
    again = luthier.train(first.folder / "experiment.yaml", out=tmp_path / "again", force=True)
    assert weights(again.folder) == weights(first.folder)
    assert (again.folder / "metrics.jsonl").read_bytes() == (first.folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("task, stop_at", [("classification", 1), ("classification", 6), ("classification", 11), ("chat", 3), ("chat", 5)])
def test_a_run_stopped_at_a_step_and_resumed_ends_with_the_same_bytes(
    finished: Run, talked: Run, tmp_path: Path, task: str, stop_at: int
) -> None:
    first = finished if task == "classification" else talked

    def stop(step: Any) -> None:
        if step.number == stop_at:
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        luthier.train(first.folder / "experiment.yaml", out=tmp_path / "run", watchers=[stop], force=True)
    assert Run(tmp_path / "run").verdict is None
    resumed = luthier.resume(tmp_path / "run")
    assert weights(resumed.folder) == weights(first.folder)
    assert (resumed.folder / "metrics.jsonl").read_bytes() == (first.folder / "metrics.jsonl").read_bytes()
    assert resumed.verdict["difference"] == first.verdict["difference"]  # type: ignore[index]


@pytest.mark.parametrize("adaptation", ["freeze", "gradual", "lora"])
def test_every_adaptation_goes_the_whole_way_and_resumes_to_the_same_bytes(bases, table: Path, tmp_path: Path, adaptation: str) -> None:
    changes = [*QUICK, f"adaptation.kind={adaptation}", "model.dropout=0.1", "training.ships=trained"]
    straight = luthier.run(table, base=str(bases("bert", 2).folder), out=tmp_path / "one", set=changes, force=True)

    def stop(step: Any) -> None:
        if step.number == 7:
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        luthier.run(table, base=str(bases("bert", 2).folder), out=tmp_path / "two", set=changes, force=True, watchers=[stop])
    assert weights(luthier.resume(tmp_path / "two").folder) == weights(straight.folder)
    assert (straight.folder / "bundle" / "adapter" / "adapter_config.json").exists() == (adaptation == "lora")


KILLED = """
import os, sys, luthier
def kill(step):
    if step.number == int(sys.argv[3]):
        os.kill(os.getpid(), 9)
luthier.train(sys.argv[1], out=sys.argv[2], watchers=[kill], force=True)
"""


def test_a_run_killed_without_warning_resumes_to_the_same_bytes(finished: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    done = processes.run("-c", KILLED, finished.folder / "experiment.yaml", folder, "9")
    assert done.returncode == -signal.SIGKILL
    (folder / "validation_losses").mkdir(exist_ok=True)
    (folder / "validation_losses" / ".tmp6tHDhg").write_bytes(b"")  # as safetensors leaves it, killed between its write and its rename
    assert weights(luthier.resume(folder).folder) == weights(finished.folder)
    losses = [{file.name: file.read_bytes() for file in (run / "validation_losses").iterdir()} for run in (folder, finished.folder)]
    assert losses[0] == losses[1]


def test_watchers_change_no_bits(finished: Run, tmp_path: Path) -> None:
    seen: list[luthier.Step] = []
    watched = luthier.train(finished.folder / "experiment.yaml", out=tmp_path / "run", watchers=[seen.append], force=True)
    assert weights(watched.folder) == weights(finished.folder)
    assert (watched.folder / "metrics.jsonl").read_bytes() == (finished.folder / "metrics.jsonl").read_bytes()
    assert [step.number for step in seen] == [*range(1, seen[-1].total + 1)]
    assert seen[-1].evaluation is not None
    assert seen[-1].evaluation["step"] == seen[-1].number


ENDED = """
import os, sys, time, luthier
from luthier.core.interfaces import NullReporter
class Kills(NullReporter):
    def stage(self, name, detail=""):
        if name == "verdict":
            while not os.path.exists(os.path.join(sys.argv[2], "seconds.json")):  # noted every two seconds
                time.sleep(0.05)
            os.kill(os.getpid(), 9)
luthier.train(sys.argv[1], out=sys.argv[2], reporter=Kills(), watchers=[lambda step: step.stop() if step.number == 7 else None], force=True)
"""


def test_a_run_that_a_watcher_ends_is_judged_and_shipped_and_does_not_go_on_when_it_was_killed(finished: Run, tmp_path: Path) -> None:
    from luthier.core.interfaces import NullReporter

    stages: list[str] = []

    class Hears(NullReporter):
        def stage(self, name: str, detail: str = "") -> None:
            stages.append(name)

    experiment = finished.folder / "experiment.yaml"
    ended = luthier.train(experiment, out=tmp_path / "one", watchers=[lambda step: step.stop() if step.number == 7 else None], force=True)
    assert ended.verdict is not None
    assert ended.events_named("trained")[0]["step"] == 7
    assert max(line["step"] for line in ended.lines("metrics.jsonl")) == 7
    assert "a watcher ended the training there" in (ended.folder / "report.html").read_text()
    killed = tmp_path / "two"
    done = processes.run("-c", ENDED, experiment, killed)
    assert done.returncode == -signal.SIGKILL
    noted = json.loads((killed / "seconds.json").read_text())["seconds"]
    resumed = luthier.resume(killed, reporter=Hears())
    assert weights(resumed.folder) == weights(ended.folder)
    assert (resumed.folder / "metrics.jsonl").read_bytes() == (ended.folder / "metrics.jsonl").read_bytes()
    assert stages == ["data", "base", "verdict", "bundle", "report"]  # nothing is trained any more, and nothing says so
    assert resumed.verdict is not None
    assert resumed.verdict["seconds"] > noted > 1  # those of the command that was killed are among them


def test_a_stop_in_python_names_the_folder_and_is_a_keyboard_interrupt(finished: Run, tmp_path: Path) -> None:
    def stop(step: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        luthier.train(finished.folder / "experiment.yaml", out=str(tmp_path / "run"), watchers=[stop], force=True)
    assert isinstance(stopped.value, Stopped)
    assert stopped.value.folder == tmp_path / "run"
    assert str(stopped.value) == f"stopped; go on with `luthier resume {tmp_path / 'run'}`"


def test_the_example_of_the_page_on_watchers_runs(bases, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "watchers.md").read_text()
    (example, *_) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    small = f"{str(table)!r}, base={str(bases('bert').folder)!r}, set={QUICK!r}, force=True"
    assert '"tickets.csv"' in example
    names: dict[str, Any] = {}
    exec(compile(example.replace('"tickets.csv"', small), "watchers.md", "exec"), names)
    assert names["run"].verdict is not None
    assert names["run"].events_named("stopped_by_watcher")
    assert (tmp_path / "losses.csv").read_text().startswith("step,loss")


def test_resuming_a_finished_run_changes_nothing(finished: Run) -> None:
    before = {file: file.stat().st_mtime_ns for file in finished.folder.rglob("*") if file.is_file() and file.name != ".lock"}
    luthier.resume(finished.folder)
    assert before == {file: file.stat().st_mtime_ns for file in finished.folder.rglob("*") if file.is_file() and file.name != ".lock"}


def test_a_damaged_checkpoint_is_passed_over_and_said(finished: Run, tmp_path: Path) -> None:
    def stop(step: Any) -> None:
        if step.number == 9:
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        luthier.train(finished.folder / "experiment.yaml", out=tmp_path / "run", watchers=[stop], force=True)
    newest = max((tmp_path / "run" / "checkpoints").glob("step-*"))
    content = bytearray((newest / "optimizer.safetensors").read_bytes())
    content[-5] ^= 1
    (newest / "optimizer.safetensors").write_bytes(content)
    resumed = luthier.resume(tmp_path / "run")
    assert resumed.events_named("checkpoint_rejected")
    assert weights(resumed.folder) == weights(finished.folder)


def stop_at_once(bases: Any, tmp_path: Path) -> Path:
    """The rows of a run that was stopped in its first step."""
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(60)))

    def stop(step: Any) -> None:
        raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        luthier.run(file, base=str(bases("bert", 2).folder), out=tmp_path / "run", watchers=[stop], force=True)
    return file


def test_data_that_changed_is_not_resumed_with(bases, tmp_path: Path) -> None:
    file = stop_at_once(bases, tmp_path)
    file.write_text(file.read_text().replace("awful", "awfil", 1))
    with pytest.raises(DataError, match="is not the file this experiment was made for"):
        luthier.resume(tmp_path / "run")
    resumed = luthier.resume(tmp_path / "run", allow_inexact=True)  # unless a person insists: then it is marked
    assert resumed.verdict is not None
    assert resumed.verdict["inexact"][0].startswith("data (train): was ")
    assert "will not give the same bits" in (resumed.folder / "report.html").read_text()


def test_rows_with_other_classes_are_not_resumed_with_at_all(bases, tmp_path: Path) -> None:
    file = stop_at_once(bases, tmp_path)
    file.write_text(file.read_text().replace('"yes"', '"perhaps"'))
    with pytest.raises(ExperimentError, match="perhaps"):
        luthier.resume(tmp_path / "run", allow_inexact=True)


def test_other_software_is_refused_with_the_differences_or_accepted_and_marked(finished: Run, tmp_path: Path) -> None:
    def stop(step: Any) -> None:
        if step.number == 3:
            raise Stopped(signal.SIGTERM)

    with pytest.raises(Stopped):
        luthier.train(finished.folder / "experiment.yaml", out=tmp_path / "run", watchers=[stop], force=True)
    file = tmp_path / "run" / "experiment.yaml"
    file.write_text(file.read_text().replace(f"torch: {torch.__version__}", "torch: 2.1.0"))
    with pytest.raises(RunError, match=r"torch: was '2.1.0', is [\s\S]*--allow-inexact"):
        luthier.resume(tmp_path / "run")
    resumed = luthier.resume(tmp_path / "run", allow_inexact=True)
    assert resumed.verdict is not None
    assert resumed.verdict["inexact"] == [f"torch: was '2.1.0', is {torch.__version__!r}"]
    assert weights(resumed.folder) == weights(finished.folder)  # nothing had changed in truth


def test_plan_only_writes_the_plan_and_train_takes_it_from_there(bases, table: Path, finished: Run, tmp_path: Path) -> None:
    planned = luthier.run(
        table, base=str(bases("bert", 2).folder), out=tmp_path / "run", set=[*QUICK, "training.ships=trained"], plan_only=True
    )
    assert planned.verdict is None
    assert not (planned.folder / "checkpoints").exists()
    trained = luthier.train(planned.folder / "experiment.yaml", out=planned.folder)
    assert trained.folder == planned.folder
    assert weights(trained.folder) == weights(finished.folder)


def test_a_budget_cuts_the_steps_and_is_kept(bases, table: Path, tmp_path: Path) -> None:
    run = luthier.run(
        table,
        base=str(bases("bert", 2).folder),
        out=tmp_path / "run",
        set=["training.epochs=3000", "training.evaluations_per_epoch=0.01"],
        budget="20s",
        force=True,
        watchers=[lambda step: step.stop() if step.number == 3 else None],  # what was planned is known by then
    )
    (cut,) = run.events_named("cut_to_budget")
    (forecast,) = (finding for finding in run.findings if finding.check == "forecast")
    assert forecast.evidence["seconds"] < 20  # as measured before step one: the plan is kept, whatever else the machine does then
    assert cut["wanted"] % 3000 == 0
    assert 1 <= cut["steps"] < cut["wanted"]
    assert yaml.safe_load((run.folder / "experiment.yaml").read_text())["training"]["steps"] == cut["steps"] == forecast.evidence["steps"]


def test_a_row_cut_before_its_answer_is_said_and_breaks_nothing(bases, tmp_path: Path) -> None:
    lines = [
        {"prompt": f"what about {number}? " + "very long " * (60 if number % 9 == 0 else 0), "completion": row["text"]}
        for number, row in enumerate(rows(90))
    ]
    file = make(tmp_path, "chat.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    run = luthier.run(file, base=str(bases("llama", 2).folder), out=tmp_path / "run", set=[*QUICK, "objective.max_length=96"], force=True)
    cut = next(finding for finding in run.findings if finding.check == "smoke.cut")
    assert cut.evidence["without_answer"] > 0
    assert "lose their whole answer" in cut.claim
    details = run.json("evaluation.json")
    assert details["worst"]
    assert all(isinstance(row["loss"], float) for row in details["worst"] + details["best"])


def test_a_run_that_lacks_only_its_report_gets_it_without_opening_the_test_rows_again(talked: Run, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(talked.folder, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    events = [line for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines() if '"finished"' not in line]
    (tmp_path / "run" / "events.jsonl").write_text("\n".join(events) + "\n")
    resumed = luthier.resume(tmp_path / "run")
    assert (resumed.folder / "report.html").exists()
    assert len(resumed.events_named("test_opened")) == 1


def test_a_folder_in_use_is_refused_with_the_name_of_its_owner(finished: Run) -> None:
    with finished.lock(), pytest.raises(RunError, match=f"process {os.getpid()}"):
        luthier.resume(finished.folder)


def test_a_folder_that_holds_a_run_is_not_written_over(bases, table: Path, finished: Run) -> None:
    with pytest.raises(RunError, match="already holds a run"):
        luthier.run(table, base=str(bases("bert", 2).folder), out=finished.folder)


def test_shuffled_labels_are_warned_of(bases, table: Path, tmp_path: Path) -> None:
    shuffled = tmp_path / "shuffled.jsonl"
    lines = [json.loads(line) for line in table.read_text().splitlines()]
    shuffled.write_text("".join(json.dumps({**row, "label": ("yes", "no")[hash_of(number)]}) + "\n" for number, row in enumerate(lines)))
    run = luthier.run(shuffled, base=str(bases("bert", 2).folder), out=tmp_path / "run", set=["training.steps=4"], force=True)
    assert any(finding.check == "smoke.labels" for finding in run.findings)
    assert run.verdict["verdict"] != "improved"  # type: ignore[index]


def hash_of(number: int) -> int:
    return hashlib.sha256(str(number).encode()).digest()[0] % 2


def test_a_rate_far_too_high_is_a_no_go_that_names_the_remedy(bases, table: Path, tmp_path: Path) -> None:
    with pytest.raises(NoGo, match=r"the loss rose[\s\S]*lower the learning rate"):
        luthier.run(table, base=str(bases("bert", 2).folder), out=tmp_path / "run", set=["optimizer.lr=3"])
    for verb in (
        lambda: luthier.predict(tmp_path / "run", ["the phone"]),
        lambda: luthier.report(tmp_path / "run"),
        lambda: luthier.promote(tmp_path / "run", "production"),
        lambda: luthier.compare(tmp_path / "run", tmp_path / "run"),
    ):
        with pytest.raises(LuthierError) as problem:
            verb()
        assert "its small run refused it: the loss rose" in problem.value.remedy
        assert f"or insist: `luthier resume {tmp_path / 'run'} --force`" in problem.value.remedy
        assert "finish" not in problem.value.remedy


MISTAKES: list[tuple[dict[str, Any], type[LuthierError], str]] = [
    ({"data": "nowhere.csv"}, DataError, "there is no file"),
    ({"target": "lable"}, DataError, "did you mean 'label'"),
    ({"input": "txt"}, DataError, "did you mean 'text'"),
    ({"base": "minilm-l7"}, ModelError, "did you mean 'minilm-l6'"),
    ({"set": ["optimizer.learning_rate=1"]}, ExperimentError, "there is no field 'optimizer.learning_rate'"),
    ({"set": ["optimzer.lr=1"]}, ExperimentError, "did you mean 'optimizer'"),
    ({"set": ["optimizer.lr=fast"]}, ExperimentError, "optimizer.lr|lr"),
    ({"set": ["optimizer.kind=adamx"]}, ExperimentError, "did you mean 'adam"),
    ({"budget": "soon"}, ExperimentError, "write it as 90s, 5m or 2h"),
]


@pytest.mark.parametrize("wrong, kind, message", MISTAKES)
def test_a_mistake_gets_one_message_with_its_remedy(
    table: Path, tmp_path: Path, wrong: dict[str, Any], kind: type[LuthierError], message: str
) -> None:
    given = {"data": table, "out": tmp_path / "run", **wrong}
    with pytest.raises(kind, match=message):
        luthier.run(given.pop("data"), **given)
    assert not (tmp_path / "run").exists()


def make(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


FILES: list[tuple[str, bytes, str]] = [
    ("empty.csv", b"", "is empty"),
    ("three.csv", b"text,label\na,x\nb,y\nc,x\n", "too few|fewer than 2 classes"),
    ("one.csv", b"text,label\n" + b"".join(b"word %d,same\n" % n for n in range(50)), "one value only|has the label"),
    ("latin.csv", b"text,label\n" + b"caf\xe9 au lait,x\n" * 40, "line 2, byte 14.*not utf-8"),
    ("id.csv", b"text,label\n" + b"".join(b"word %d,%d\n" % (n, n) for n in range(50)), "looks like a label|is it an id"),
    ("quote.csv", b'text,label\n"never closed,x\n' + b"a,y\n" * 40, "quote"),
    ("what.xyz", b"text", "names no format"),
]


@pytest.mark.parametrize("name, content, message", FILES)
def test_a_file_that_cannot_be_used_gets_one_message(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        luthier.run(make(tmp_path, name, content), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_empty_rows_and_rare_labels_are_set_aside_and_counted(bases, tmp_path: Path) -> None:
    lines = [json.dumps(row) for row in rows(80)]
    lines[3] = json.dumps({"text": "  ", "label": "yes"})
    lines[9] = json.dumps({"text": "something", "label": ""})
    lines[12] = json.dumps({"text": "something else", "label": "once"})
    lines[15] = "{broken"
    file = make(tmp_path, "rows.jsonl", "\n".join(lines).encode())
    run = luthier.run(file, base=str(bases("bert", 2).folder), out=tmp_path / "run", set=["training.steps=2"], force=True)
    rejected = run.lines("rejected.jsonl")
    assert sorted(row["line"] for row in rejected) == [4, 10, 13, 16]
    assert len(rejected) == 4
    assert any(finding.check == "rows" and "4 rows" in finding.claim for finding in run.findings)


@pytest.mark.parametrize("enough", [0, 1], ids=["before step one", "at the first checkpoint"])
def test_a_full_disk_stops_with_a_remedy_and_the_run_can_be_resumed(
    finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enough: int
) -> None:
    import shutil
    from collections import namedtuple

    from luthier.core.errors import DiskFull

    usage = namedtuple("usage", "total used free")
    free = iter([1 << 40] * enough)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, next(free, 0)))
    with pytest.raises(DiskFull, match=r"(writes|needs) .* MB .* 0 MB left[\s\S]*free some space"):
        luthier.train(finished.folder / "experiment.yaml", out=tmp_path / "run")
    monkeypatch.undo()
    assert weights(luthier.resume(tmp_path / "run").folder) == weights(finished.folder)


def test_a_clock_that_jumps_changes_neither_times_nor_bits(bases, table: Path, finished: Run, tmp_path: Path, monkeypatch) -> None:
    from datetime import datetime, timedelta

    from luthier.core import run as run_module

    jumps = [timedelta(0), timedelta(hours=-1), timedelta(hours=1), timedelta(days=-20_000), timedelta(days=400)]
    told: list[int] = []

    class Jumping(datetime):
        @classmethod
        def now(cls, tz=None):  # type: ignore[no-untyped-def]
            told.append(0)
            return datetime(2026, 3, 29, 2, 30) + jumps[len(told) % len(jumps)]

    monkeypatch.setattr(run_module, "datetime", Jumping)
    jumped = luthier.run(table, base=str(bases("bert", 2).folder), out=tmp_path / "run", set=[*QUICK, "training.ships=trained"])
    assert len(told) > 5
    assert weights(jumped.folder) == weights(finished.folder)
    assert 0 < jumped.verdict["seconds"] < 600
    assert all(line["seconds"] >= 0 for line in jumped.lines("timing.jsonl"))
    assert [event["event"] for event in jumped.lines("events.jsonl")] == [event["event"] for event in finished.lines("events.jsonl")]


def test_another_time_zone_and_language_on_resume_change_nothing(finished: Run, tmp_path: Path) -> None:
    class Enough(Exception):
        pass

    def stop(step: Any) -> None:
        if step.number == 7:
            raise Enough

    with pytest.raises(Enough):
        luthier.train(finished.folder / "experiment.yaml", out=tmp_path / "run", watchers=[stop])
    assert Run(tmp_path / "run").verdict is None
    there = {**os.environ, "TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"}
    asked = [sys.executable, "-m", "luthier", "resume", str(tmp_path / "run"), "--quiet"]
    subprocess.run(asked, env=there, check=True, timeout=600, capture_output=True)
    assert weights(tmp_path / "run") == weights(finished.folder)
