"""Putting a bundle on the hub: the real client against a hub of our own that speaks its protocol."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import luthier
from luthier.core.errors import ModelError
from luthier.core.run import Run
from luthier.pilot.push import card_for_hub
from tests import processes
from tests.conftest import rows
from tests.pilot.hub_server import TOKEN, WritableHub


@pytest.fixture(scope="module")
def trained(bases, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("trained")
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "text": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(rows(120))))
    return luthier.run(
        file, base=str(bases("bert").folder), out=folder / "run", force=True, set=["training.steps=2", "training.ships=trained"]
    )


@pytest.fixture
def hub() -> Iterator[WritableHub]:
    made = WritableHub()
    yield made
    made.close()


def type_in(hub: WritableHub, home: Path, *words: object, token: str = TOKEN, **more: str) -> subprocess.CompletedProcess[str]:
    """A command line whose hub is this one."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_HUB_OFFLINE", "HF_TOKEN")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), **({"HF_TOKEN": token} if token else {}), **more}
    return processes.run("-m", "luthier", *words, env=environment)


def test_a_bundle_is_pushed_whole_and_used_by_its_name_on_another_machine(trained: Run, hub: WritableHub, tmp_path: Path) -> None:
    done = type_in(hub, tmp_path / "one", "push", trained.folder, "me/words")
    assert done.returncode == 0, done.stderr
    assert f"pushed   {hub.url}/me/words" in done.stdout and "me/words (private): " in done.stderr
    assert hub.private["me/words"] is True and len(hub.commits) == 1
    bundle = trained.folder / "bundle"
    listed = {*json.loads((bundle / "luthier.json").read_text())["files"], "luthier.json", "README.md"}
    assert {*hub.files["me/words"]} == {*listed, ".gitattributes"}
    assert all(hub.files["me/words"][name] == (bundle / name).read_bytes() for name in listed - {"README.md"})
    assert (bundle / "model.safetensors").read_bytes() in hub.large.values()  # by git-lfs's protocol
    assert "luthier predict me/words" in hub.files["me/words"]["README.md"].decode()
    said = type_in(hub, tmp_path / "two", "predict", "me/words", "the film was superb", "--json", token="")
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout)["probabilities"] == luthier.predict(trained, "the film was superb")[0]["probabilities"]


def test_a_second_push_changes_what_changed_and_removes_what_is_no_part_of_it(trained: Run, hub: WritableHub, tmp_path: Path) -> None:
    assert type_in(hub, tmp_path, "push", trained.folder, "me/words").returncode == 0
    hub.files["me/words"]["probe.safetensors"] = b"of an earlier bundle"
    hub.files["me/words"]["picture.png"] = b"a person's own"
    done = type_in(hub, tmp_path, "push", trained.folder, "me/words", "--message", "again", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["removed"] == ["probe.safetensors"]
    assert "probe.safetensors" not in hub.files["me/words"] and "picture.png" in hub.files["me/words"]
    assert hub.commits[-1]["summary"] == "again"


def test_a_dry_run_sends_nothing(trained: Run, hub: WritableHub, tmp_path: Path) -> None:
    done = type_in(hub, tmp_path, "push", trained.folder, "me/words", "--dry-run")
    assert done.returncode == 0 and "nothing was sent" in done.stdout and "model.safetensors" in done.stderr
    assert hub.asked == []


def test_no_token_is_asked_for_or_shown(trained: Run, hub: WritableHub, tmp_path: Path) -> None:
    done = type_in(hub, tmp_path, "push", trained.folder, "me/words", token="")
    assert done.returncode == 2 and "no token" in done.stderr and "hf auth login" in done.stderr
    assert hub.asked == []
    done = type_in(hub, tmp_path, "push", trained.folder, "me/words", token="hf_wrong")
    assert done.returncode == 2 and "HF_TOKEN" in done.stderr and "hf_wrong" not in done.stdout + done.stderr
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "token").write_text(TOKEN)
    assert type_in(hub, tmp_path / "kept", "push", trained.folder, "me/words", token="").returncode == 0  # as `hf auth login` keeps it
    assert "--token" not in type_in(hub, tmp_path, "push", "--help").stdout


def test_a_public_repository_and_one_of_somebody_elses_model_are_refused(trained: Run, hub: WritableHub, tmp_path: Path) -> None:
    hub.files["me/open"], hub.private["me/open"] = {".gitattributes": b""}, False
    done = type_in(hub, tmp_path, "push", trained.folder, "me/open")
    assert done.returncode == 2 and "already, and public" in done.stderr and "--public" in done.stderr
    hub.files["me/other"], hub.private["me/other"] = {"pytorch_model.bin": b"mine", "README.md": b"#"}, True
    done = type_in(hub, tmp_path, "push", trained.folder, "me/other")
    assert done.returncode == 2 and "did not put there: pytorch_model.bin" in done.stderr
    assert hub.commits == [] and hub.files["me/other"]["pytorch_model.bin"] == b"mine"
    assert type_in(hub, tmp_path, "push", trained.folder, "me/open", "--public").returncode == 0


@pytest.mark.parametrize("part, status", [("/commit/", 403), ("/repos/create", 403), ("/preupload/", 401)])
def test_what_the_hub_refuses_is_one_message(part: str, status: int, trained: Run, hub: WritableHub, tmp_path: Path) -> None:
    hub.refuses[part] = status
    done = type_in(hub, tmp_path, "push", trained.folder, "me/words")
    assert done.returncode == 2 and "me/words could not be pushed" in done.stderr and "may write to this name" in done.stderr
    assert "Traceback" not in done.stderr and hub.commits == []


def test_who_asked_to_stay_offline_stays_offline(trained: Run, hub: WritableHub, tmp_path: Path) -> None:
    done = type_in(hub, tmp_path, "push", trained.folder, "me/words", HF_HUB_OFFLINE="1")
    assert done.returncode == 2 and "HF_HUB_OFFLINE is set" in done.stderr and "unset HF_HUB_OFFLINE" in done.stderr
    assert hub.asked == []


def test_a_hub_that_cannot_be_reached_is_one_message(trained: Run, hub: WritableHub, tmp_path: Path) -> None:
    hub.close()
    done = type_in(hub, tmp_path, "push", trained.folder, "me/words")
    assert done.returncode == 2 and "could not be pushed" in done.stderr and "Traceback" not in done.stderr


def test_a_bundle_that_is_not_whole_or_a_name_that_is_none_is_refused_before_anything_is_sent(trained: Run, tmp_path: Path) -> None:
    shutil.copytree(trained.folder, tmp_path / "run")
    (tmp_path / "run" / "bundle" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"tokenizer\.json is missing"):
        luthier.push(tmp_path / "run", "me/words", dry_run=True)
    for name in ("words", "me/", "me/a/b", "https://huggingface.co/me/words", "../me"):
        with pytest.raises(ModelError, match="names no repository"):
            luthier.push(trained, name, dry_run=True)


def test_the_card_says_what_the_hub_understands() -> None:
    card = "---\nbase_model: /somewhere/base\nlanguage: English\nlicense: secret terms\npipeline_tag: text-classification\ntags: [luthier]\n---\n# Title\n\nluthier predict PATH\n"
    made = card_for_hub(card, "me/words")
    head = yaml.safe_load(made.split("---")[1])
    assert head == {"language": "en", "license": "other", "pipeline_tag": "text-classification", "tags": ["luthier"]}
    assert made.endswith("# Title\n\nluthier predict me/words\n")
    assert (
        yaml.safe_load(card_for_hub(card.replace("/somewhere/base", "google-bert/bert-base"), "me/w").split("---")[1])["base_model"]
        == "google-bert/bert-base"
    )
    assert yaml.safe_load(card_for_hub("no head", "me/w").split("---")[1])["tags"] == ["luthier"]
