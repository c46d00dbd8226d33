"""Names for runs: what may be promoted, what a rollback goes back to, and where a name can be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import luthier
from luthier.core.errors import LuthierError, ModelError, RunError
from luthier.core.run import Run
from luthier.models.store import resolve
from tests.conftest import rows


@pytest.fixture(scope="module")
def trained(bases, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """Two runs on the same rows."""
    folder = tmp_path_factory.mktemp("trained")
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({**row, "text": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(rows(120))))
    made = [
        luthier.run(
            file,
            base=str(bases("bert").folder),
            out=folder / name,
            force=True,
            set=["training.steps=4", f"optimizer.lr={lr}", "training.ships=trained"],
        )
        for name, lr in (("one", 0.003), ("two", 0.001))
    ]
    return made[0], made[1]


@pytest.fixture
def project(trained: tuple[Run, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with both runs in `runs`."""
    monkeypatch.chdir(tmp_path)
    for run in trained:
        shutil.copytree(run.folder, tmp_path / "runs" / run.folder.name)
    set_verdict("one", "improved")
    set_verdict("two", "no_evidence")
    return tmp_path


def set_verdict(name: str, word: str) -> None:
    file = Path("runs", name, "verdict.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "verdict": word}))


def say(name: str) -> object:
    return luthier.predict(name, ["the phone number 3 was superb"])[0]["probabilities"]


def test_an_alias_is_used_wherever_a_bundle_is(project: Path) -> None:
    luthier.promote("runs/one", "production")
    assert say("production") == say("runs/one")
    assert resolve("production").fingerprint == resolve("runs/one/bundle").fingerprint
    assert luthier.note("production", "by its alias") == luthier.note("runs/one")
    again = luthier.run([{"text": f"{row['text']} {number}", "label": row["label"]} for number, row in enumerate(rows(60))], base="production",
                        out="runs/further", set=["training.steps=1"], force=True)  # fmt: skip
    experiment = luthier.Experiment.load(again.folder / "experiment.yaml")
    assert experiment.model.base == "runs/one/bundle"  # not the name, which may stand for another bundle tomorrow


def test_promoting_and_rolling_back_change_who_answers(project: Path) -> None:
    luthier.promote("runs/one", "production")
    luthier.promote("runs/two", "production")
    assert say("production") == say("runs/two") != say("runs/one")
    now, before = luthier.rollback("production")
    assert (now.run.name, before.run.name) == ("one", "two")
    assert say("production") == say("runs/one")
    assert [row["aliases"] for row in luthier.runs() if row["folder"].endswith("one")] == [["production"]]


def test_the_same_bundle_promoted_again_changes_nothing(project: Path) -> None:
    first = luthier.promote("runs/one", "production")
    assert luthier.promote("production", "production") == first
    assert len(luthier.aliases("production")) == 1


def test_an_alias_may_be_promoted_to_another_name(project: Path) -> None:
    luthier.promote("runs/one", "staging")
    assert luthier.promote("staging", "production").run.name == "one"
    assert [each["name"] for each in luthier.aliases()] == ["production", "staging"]


def test_a_run_that_is_worse_is_refused_unless_somebody_insists(project: Path) -> None:
    set_verdict("two", "worse")
    with pytest.raises(RunError, match="worse than a baseline") as caught:
        luthier.promote("runs/two", "production")
    assert "--force" in caught.value.remedy and not Path("aliases.json").exists()
    luthier.promote("runs/two", "production", force=True)
    assert luthier.aliases("production")[0]["forced"] is True


def test_a_bundle_that_is_not_whole_or_has_changed_is_refused(project: Path) -> None:
    with Path("runs/one/bundle/tokenizer_config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ModelError, match=r"tokenizer_config\.json was changed"):
        luthier.promote("runs/one", "production", force=True)
    Path("runs/two/bundle/model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors is missing"):
        luthier.promote("runs/two", "production", force=True)
    shutil.rmtree("runs/two/bundle")
    with pytest.raises(ModelError, match="not whole"):
        luthier.promote("runs/two", "production")


def test_a_bundle_alone_has_no_verdict_and_needs_force(project: Path) -> None:
    shutil.copytree("runs/one/bundle", "shipped")
    with pytest.raises(RunError, match="has no verdict"):
        luthier.promote("shipped", "production")
    assert luthier.promote("shipped", "production", force=True).folder == Path("shipped")
    assert say("production") == say("runs/one")


def test_another_bundle_in_the_promoted_place_is_not_used(project: Path) -> None:
    luthier.promote("runs/one", "production")
    shutil.rmtree("runs/one")
    with pytest.raises(ModelError, match="no bundle is any more"):
        say("production")
    shutil.copytree("runs/two", "runs/one")
    with pytest.raises(ModelError, match="another is there now"):
        say("production")


def test_a_rollback_to_a_bundle_that_is_gone_or_another_is_refused_and_changes_nothing(project: Path) -> None:
    luthier.promote("runs/one", "production")
    luthier.promote("runs/two", "production")
    shutil.rmtree("runs/one")
    with pytest.raises(LuthierError, match="is not whole"):
        luthier.rollback("production")
    shutil.copytree("runs/two", "runs/one")
    with pytest.raises(RunError, match="not the one that bore the name production before"):
        luthier.rollback("production")
    assert say("production") == say("runs/two")


@pytest.mark.parametrize("name", ["runs", "minilm-l6"])
def test_a_name_that_stands_for_something_else_already_is_refused(name: str, project: Path) -> None:
    with pytest.raises(RunError, match="cannot be an alias"):
        luthier.promote("runs/one", name)


def test_names_that_lead_nowhere_name_the_nearest(project: Path) -> None:
    luthier.promote("runs/one", "production")
    with pytest.raises(RunError, match="there is no alias 'produktion'") as caught:
        luthier.rollback("produktion")
    assert "did you mean 'production'" in str(caught.value)
    with pytest.raises(ModelError, match="there is no bundle produktion") as missing:
        say("produktion")
    assert "did you mean 'production'" in str(missing.value)
    Path("train.log").write_text("x")
    Path("rows").mkdir()
    with pytest.raises(ModelError, match="there is no bundle runs/ons") as missing:
        say("runs/ons")
    assert "did you mean 'one'" in missing.value.remedy and "two" in missing.value.remedy
    with pytest.raises(ModelError) as missing:
        say("nope")
    assert missing.value.remedy.removeprefix("did you mean 'production'? ") == "Known: production"
    with pytest.raises(RunError, match="nothing bore the name production before"):
        luthier.rollback("production")


def test_an_alias_whose_run_was_moved_deleted_or_made_anew_says_so(project: Path) -> None:
    luthier.promote("runs/one", "production")
    luthier.promote("runs/two", "staging")
    assert [each["state"] for each in luthier.aliases()] == ["here", "here"]
    shutil.move("runs/one", "runs/moved")
    assert [each["state"] for each in luthier.aliases()] == ["gone", "here"]
    assert luthier.runs() != []
    for ask in (lambda: luthier.note("production"), lambda: luthier.promote("production", "next")):
        with pytest.raises(RunError, match="production stands for runs/one, where no run is any more"):
            ask()
    shutil.copytree("runs/two", "runs/one")
    assert [each["state"] for each in luthier.aliases()] == ["another bundle", "here"]
    for spoilt in ("[" * 100_000, '{"format": 1e999}', "{"):
        Path("runs/one/bundle/luthier.json").write_text(spoilt)
        assert [each["state"] for each in luthier.aliases()] == ["another bundle", "here"]
        with pytest.raises(ModelError, match=r"luthier\.json"):
            luthier.promote("runs/one", "next", force=True)
