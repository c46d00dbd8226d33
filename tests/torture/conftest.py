"""The server that runs are forked from, and experiments in all the ways a run can be made."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import luthier
from tests.conftest import rows

KILLS = int(os.environ.get("KILLS", "20"))
MODES: dict[str, tuple[str, str, list[str]]] = {
    "classifier": ("bert", "rows", ["model.dropout=0.1"]),
    "classifier in windows, balanced, augmented": (
        "bert",
        "rows",
        ["objective.long_rows=windows", "objective.max_length=12", "training.sampling=balanced", "augment.share=0.5"],
    ),
    "classifier, unfrozen gradually": ("bert", "rows", ["adaptation.kind=gradual", "model.dropout=0.1"]),
    "chat, accumulated": ("llama", "chat", ["training.micro_batch_tokens=70", "model.dropout=0.1"]),
    "chat with adapters": ("llama", "chat", ["adaptation.kind=lora"]),
    "chat in bfloat16": ("llama", "chat", ["training.dtype=bfloat16"]),
}
SET = [
    "training.steps=24",
    "training.batch_size=6",
    "training.evaluations_per_epoch=2",
    "training.checkpoint_seconds=0",
    "optimizer.lr=0.002",
]


class Server:
    """Runs jobs one after the other, and kills them where it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.torture.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[2],
        )

    def run(
        self,
        after: int | None = None,
        jitter: float = 0.0,
        signal_: int = signal.SIGKILL,
        when: Callable[[dict[str, Any]], bool] | None = None,
        **job: Any,
    ) -> tuple[int, list[dict[str, Any]]]:
        """Do a job, and send a signal once it has said so many lines, or a certain one.

        Returns:
            how the child ended, and what it said
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write((json.dumps(job) + "\n").encode())
        self.process.stdin.flush()
        child, said = 0, []
        sent = False
        for line in self.process.stdout:
            word = json.loads(line)
            if "ended" in word:
                return word["ended"], said
            if "child" in word:
                child = word["child"]
            else:
                said.append(word)
            due = (after is not None and len(said) >= after) or (when is not None and bool(said) and when(said[-1]))
            if child and due and not sent:
                time.sleep(jitter)
                sent = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal_)
        raise RuntimeError("the server has ended")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    made = Server()
    yield made
    assert made.process.stdin is not None
    assert made.process.stdout is not None
    made.process.stdin.close()
    made.process.wait(20)
    made.process.stdout.close()


@pytest.fixture(scope="session")
def experiments(bases: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The experiment of a mode, made once."""
    place = tmp_path_factory.mktemp("torture")
    (place / "rows.jsonl").write_text(
        "".join(json.dumps({**row, "text": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(rows(90)))
    )
    (place / "chat.jsonl").write_text(
        "".join(json.dumps({"prompt": f"what about {number}?", "completion": row["text"]}) + "\n" for number, row in enumerate(rows(90)))
    )

    def experiment(mode: str) -> Path:
        base, data, changes = MODES[mode]
        folder = place / mode.replace(" ", "-")
        if not folder.exists():
            luthier.run(place / f"{data}.jsonl", base=str(bases(base).folder), out=folder, set=[*SET, *changes], plan_only=True)
        return folder / "experiment.yaml"

    return experiment


@pytest.fixture(scope="session")
def straight(
    server: Server, experiments: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, list[dict[str, Any]]]]:
    """A mode's run that nobody disturbed, and what it said; made once."""
    made: dict[str, tuple[Path, list[dict[str, Any]]]] = {}

    def run(mode: str) -> tuple[Path, list[dict[str, Any]]]:
        if mode not in made:
            folder = tmp_path_factory.mktemp("straight") / "run"
            ended, said = server.run(do="train", experiment=str(experiments(mode)), folder=str(folder))
            assert ended == 0, said[-3:]
            made[mode] = folder, said
        return made[mode]

    return run


def begin_or_resume(server: Server, experiment: Path, folder: Path, **more: Any) -> tuple[int, list[dict[str, Any]]]:
    """What a person does after a crash: resume, or start again where nothing had begun."""
    if (folder / "experiment.yaml").exists():
        return server.run(do="resume", folder=str(folder), **more)
    shutil.rmtree(folder, ignore_errors=True)
    return server.run(do="train", experiment=str(experiment), folder=str(folder), **more)


def assert_same(one: Path, two: Path) -> None:
    """Two runs ended with the same bytes."""
    for name in ("bundle/model.safetensors", "metrics.jsonl", "bundle/config.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes(), name
    first, second = (json.loads((folder / "verdict.json").read_text()) for folder in (one, two))
    for name in ("verdict", "test", "difference", "checkpoint", "validation"):
        assert first[name] == second[name]
    losses = [{file.name: file.read_bytes() for file in (folder / "validation_losses").iterdir()} for folder in (one, two)]
    assert losses[0] == losses[1]
