"""Code that makes steps faster is compiled before anything depends on it."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from luthier.core.errors import ModelError
from luthier.models.kernels import compiled, shared_library
from luthier.pilot.stages.compile_kernels import compile_where_it_is_faster
from tests.training.test_steps import experiment


class Place:
    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, name: str, **facts: Any) -> None:
        self.events.append(name)


def compile_run(
    bases: Any, monkeypatch: pytest.MonkeyPatch, family: str, fails: bool = False, **facts: Any
) -> tuple[int, list[str], list[str]]:
    """How often code was compiled, what was said, and what was noted."""
    built: list[int] = []
    said: list[str] = []

    def load() -> None:
        built.append(1)
        if fails:
            raise ModelError("tile_kernels.cpp could not be compiled", "install another C++ compiler (g++)")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: facts.get("tiles", True))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(compiled, "is_kept", lambda: facts.get("kept", False))
    monkeypatch.setattr(shared_library, "can_compile", lambda: facts.get("compiler", True))
    monkeypatch.setattr(compiled, "load", load)
    place: Any = Place()
    reporter: Any = SimpleNamespace(say=said.append)
    asked = experiment("classification", "bert", training__dtype=facts.get("dtype", "auto"), training__kernels=facts.get("asked", "auto"))
    compile_where_it_is_faster(place, asked, bases(family), reporter)
    return len(built), said, place.events


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_what_is_not_kept_is_compiled_and_the_run_says_so(bases, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    built, said, events = compile_run(bases, monkeypatch, family)
    assert built == 1
    assert "some seconds, once" in said[0]
    assert events == []


@pytest.mark.parametrize(
    ("family", "facts"),
    [
        ("mpnet", {}),
        ("llama", {"tiles": False}),
        ("llama", {"dtype": "float32"}),
        ("llama", {"kept": True}),
        ("llama", {"compiler": False}),
        ("llama", {"asked": "plain"}),
    ],
    ids=["a base it does not know", "no tiles", "fp32", "kept already", "no compiler", "not wanted"],
)
def test_others_compile_nothing(bases, monkeypatch: pytest.MonkeyPatch, family: str, facts: dict[str, Any]) -> None:
    assert compile_run(bases, monkeypatch, family, **facts) == (0, [], [])


@pytest.mark.parametrize(
    ("kept", "works", "words"),
    [(False, True, ["some seconds, once"]), (True, True, []), (False, False, ["some seconds, once", "goes on without"])],
    ids=["compiled", "kept already", "no compiler that works"],
)
def test_of_an_objectives_own_code_the_same_is_said(monkeypatch: pytest.MonkeyPatch, kept: bool, works: bool, words: list[str]) -> None:
    from luthier.models.kernels import word_kernels

    tried: list[int] = []

    def load() -> None:
        tried.append(1)
        if not works:
            raise ModelError("word_kernels.cpp could not be compiled", "install another C++ compiler (g++)")

    own = replace(word_kernels.OWN, is_kept=lambda: kept, load=load)
    monkeypatch.setattr(word_kernels, "OWN", own)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said: list[str] = []
    place: Any = Place()
    reporter: Any = SimpleNamespace(say=said.append)
    asked = experiment("word2vec", "", objective__model="cbow", training__dtype="float32", training__kernels="auto")
    compile_where_it_is_faster(place, asked, None, reporter)
    assert [part in line for part, line in zip(words, said, strict=True)] == [True] * len(words)
    assert len(tried) == (not kept)
    assert place.events == ([] if works else ["not_compiled"])
    compile_where_it_is_faster(place, asked.replace("objective.model", "skip_gram"), None, reporter)
    assert len(said) == len(words)


def test_where_compiling_fails_the_run_goes_on_and_the_reason_is_kept(bases, monkeypatch: pytest.MonkeyPatch) -> None:
    built, said, events = compile_run(bases, monkeypatch, "llama", fails=True)
    assert built == 1
    assert "goes on without" in said[1]
    assert events == ["not_compiled"]
