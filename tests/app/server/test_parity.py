"""`luthier parity` against our own server: the model that is served says what the trainer says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.core.errors import ModelError


@pytest.mark.parametrize("name", ["classification", "embedding", "chat"])
def test_a_served_run_says_what_its_trainer_says(name: str, bundles: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = bundles(name)
    server = luthier.serve(run, port=0, say=lambda line: None, wait=False)
    try:
        monkeypatch.delenv("LUTHIER_ENDPOINT_TOKEN", raising=False)
        with pytest.raises(ModelError, match="wants a token"):
            luthier.parity(run, server.address)
        monkeypatch.setenv("LUTHIER_ENDPOINT_TOKEN", server.token)
        found = luthier.parity(run, server.address)
        assert not [stage for stage in found["stages"] if stage["state"] == "parts"], found
        assert [stage for stage in found["stages"] if stage["state"] == "same"]
    finally:
        server.close(0)
