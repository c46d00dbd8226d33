"""A network that was opened before is copied, and nobody can tell it from one that was read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from luthier.models import opened
from luthier.models.pretrained import load_classifier, load_generator
from tests.conftest import make_base


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    opened._kept.clear()
    yield
    opened._kept.clear()


def classifier(base: Any, seed: int = 1) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The weights with a new head of three classes, and torch's generator afterwards."""
    network = load_classifier(base, ["a", "b", "c"], "cls", 0.0, seed).network
    return network.state_dict(), torch.get_rng_state()


def test_a_copy_has_the_weights_of_one_that_was_read_and_leaves_the_generator_as_that_does(bases: Any) -> None:
    base = bases("bert", 2)
    read = [classifier(base, 1)]
    opened._kept.clear()
    read.append(classifier(base, 2))
    opened._kept.clear()
    for seed in (1, 2, 2, 1):
        weights, generator = classifier(base, seed)
        assert all(torch.equal(value, read[seed - 1][0][name]) for name, value in weights.items())
        assert torch.equal(generator, read[seed - 1][1])
    assert not torch.equal(read[0][0]["classifier.weight"], read[1][0]["classifier.weight"])


def test_a_copy_is_made_where_nothing_is_drawn_and_is_its_callers_own(bases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = bases("llama", 2)
    one = load_generator(base, 0.0).network
    assert one.get_input_embeddings().weight is one.get_output_embeddings().weight
    before = {name: value.clone() for name, value in one.state_dict().items()}
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    one.config.pad_token_id = 99
    monkeypatch.setattr(type(one), "from_pretrained", None)  # whoever reads the files again, fails
    torch.manual_seed(77)
    other = load_generator(base, 0.0).network
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())
    assert other.config.pad_token_id != 99
    assert other.get_input_embeddings().weight is other.get_output_embeddings().weight


def test_files_that_changed_are_read_again_and_large_networks_are_not_kept(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = make_base(tmp_path / "base", "llama", 2)
    load_generator(base, 0.0)
    file = base.folder / "model.safetensors"
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    assert torch.equal(load_generator(base, 0.0).network.state_dict()["model.norm.weight"], load_file(file)["model.norm.weight"])
    opened._kept.clear()
    monkeypatch.setattr(opened, "SMALL", 1000)
    load_generator(base, 0.0)
    assert not opened._kept
