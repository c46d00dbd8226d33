"""Kernels are compiled where a run is long enough to repay it, before anything depends on them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from luthier.core.errors import ModelError
from luthier.models import compiled, shared_library
from luthier.pilot.stages import compile_kernels
from luthier.pilot.stages.compile_kernels import compile_where_it_pays
from tests.training.test_steps import experiment


class Place:
    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, name: str, **facts: Any) -> None:
        self.events.append(name)


def compile_run(
    bases: Any, monkeypatch: pytest.MonkeyPatch, family: str, rows: int, fails: bool = False, **facts: Any
) -> tuple[int, list[str], list[str]]:
    """How often kernels were compiled, what was said, and what was noted."""
    built: list[Path] = []
    said: list[str] = []

    def load() -> None:
        built.append(Path())
        if fails:
            raise ModelError("the kernels could not be compiled", "install a compiler")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(compiled, "are_cached", lambda: facts.get("kept", False))
    monkeypatch.setattr(shared_library, "can_compile", lambda: facts.get("compiler", True))
    monkeypatch.setattr(compiled, "load", load)
    monkeypatch.setattr(compile_kernels, "WORTH", 2e9)  # the bases are tiny
    place: Any = Place()
    reporter: Any = SimpleNamespace(say=said.append)
    dataset: Any = SimpleNamespace(records={"train": [SimpleNamespace(values={"text": "x" * 1000})] * rows})
    asked = experiment("classification", "bert", training__dtype="auto", training__steps=None, training__kernels=facts.get("asked", "auto"))
    compile_where_it_pays(place, asked, bases(family), dataset, reporter)
    return len(built), said, place.events


LONG = 1000


def test_a_long_run_compiles_them_and_says_so(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    built, said, events = compile_run(bases, monkeypatch, "llama", LONG)
    assert built == 1
    assert "about a minute" in said[0]
    assert events == []


@pytest.mark.parametrize(
    ("family", "rows", "facts"),
    [
        ("llama", 10, {}),
        ("bert", LONG, {}),
        ("llama", LONG, {"kept": True}),
        ("llama", LONG, {"compiler": False}),
        ("llama", LONG, {"asked": "plain"}),
    ],
    ids=["a short run", "a base they do not know", "kept already", "no compiler", "not wanted"],
)
def test_others_do_not(bases, monkeypatch: pytest.MonkeyPatch, family: str, rows: int, facts: dict[str, Any]) -> None:
    assert compile_run(bases, monkeypatch, family, rows, **facts) == (0, [], [])


def test_where_compiling_fails_the_run_goes_on_and_the_reason_is_kept(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    built, said, events = compile_run(bases, monkeypatch, "llama", LONG, fails=True)
    assert built == 1
    assert "goes on without" in said[1]
    assert events == ["not_compiled"]
