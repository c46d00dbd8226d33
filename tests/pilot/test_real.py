"""The main job on the real base and the real example, cut short: nothing here is a toy."""

from __future__ import annotations

from pathlib import Path

import luthier

ROOT = Path(__file__).parent.parent.parent


def test_the_feedback_example_becomes_a_classifier_that_transformers_can_use(tmp_path: Path) -> None:
    from transformers import pipeline

    run = luthier.run(
        ROOT / "examples" / "feedback" / "feedback.csv",
        out=tmp_path / "run",
        set=["data.most_rows=600", "training.epochs=2", "training.batch_size=16", "training.ships=trained"],
    )
    verdict = run.verdict
    assert verdict is not None
    assert verdict["test"]["n"] == 120
    assert verdict["test"]["value"] > 0.78
    assert 0.8 < verdict["base"]["value"] < 0.96
    assert 0.68 < verdict["trivial"]["value"] < 0.88
    assert not [finding for finding in run.findings if finding.severity in ("warning", "stop") and finding.check.startswith("smoke")]
    texts = ["Works out of the box, I love it.", "It broke after two days and nobody answered."]
    theirs = pipeline("text-classification", str(run.folder / "bundle"))(texts)
    ours = luthier.predict(run.folder, texts)
    assert [row["label"] for row in ours] == [row["label"] for row in theirs] == ["positive", "negative"]
    close = 1e-5 if run.json("bundle/config.json")["dtype"] == "float32" else 1e-2  # bf16 has three digits
    for one, two in zip(ours, theirs, strict=True):
        assert abs(one["probabilities"][one["label"]] - two["score"]) < close
