"""Does the small run say *go* to healthy data, and no to planted faults? Ten sets; only the small run is made."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import luthier
from luthier.core.errors import NoGo, Stopped
from luthier.core.run import Run
from luthier.core.types import Step

SETS: dict[str, dict[str, object]] = {
    "feedback": {"data": "examples/feedback/feedback.csv"},
    "sst2": {"data": "sst2"},
    "banking77": {"data": "banking77/train.csv"},
    "sms_spam": {"data": "sms_spam/sms.tsv"},
    "trec": {"data": "sentence_sets/TREC.train.all"},
    "subjectivity": {"data": "sentence_sets/subj.all"},
    "reviews": {"data": "sentence_sets/rt-polarity.all"},
    "italian_clauses": {"data": "tc_italian/annotated_corpus_pe_llm_0.csv"},
    "ag_news": {"data": "ag_news_test/test.csv"},
    "clauses": {"data": "examples/contracts/clauses.jsonl", "task": "chat", "input": "clause", "target": "plain_english"},
}
FAULTS: dict[str, list[str]] = {"rate": ["optimizer.lr=1e-2"], "still": ["optimizer.lr=1e-12"]}


def stop(step: Step) -> None:
    """End the run at the first step after the small run."""
    raise Stopped(15)


def table_of(path: Path, out: Path) -> Path:
    """Sets that come as "label text" lines, as a table."""
    if path.suffix != ".all":
        return path
    made = out / f"{path.stem}.jsonl"
    rows = [line.split(" ", 1) for line in path.read_bytes().decode("latin-1").split("\n") if " " in line]
    made.write_text("".join(json.dumps({"label": label, "text": text}) + "\n" for label, text in rows))
    return made


def small_run(folder: Path, given: dict[str, Any], changes: list[str]) -> tuple[str, list[str]]:
    """Go or no-go, and the checks that spoke against it."""
    if not (folder / "findings.jsonl").exists():
        with contextlib.suppress(NoGo, Stopped):
            luthier.run(
                given["data"], out=folder, set=changes, watchers=[stop], **{key: value for key, value in given.items() if key != "data"}
            )
    findings = Run(folder).findings
    word = next(finding.claim.split(":")[0] for finding in findings if finding.check == "smoke")
    return word, [finding.check for finding in findings if finding.severity in ("warning", "stop") and finding.check.startswith("smoke.")]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/healthy"))
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    for name in asked.sets:
        spec = dict(SETS[name])
        path = Path(str(spec["data"]))
        spec["data"] = table_of(path if path.parts[0] == "examples" else asked.data / path, asked.out)
        word, against = small_run(asked.out / name, spec, [])
        print(json.dumps({"set": name, "verdict": word, "warnings": against}), flush=True)
    for fault, changes in FAULTS.items():
        word, against = small_run(asked.out / f"fault-{fault}", {"data": "examples/feedback/feedback.csv"}, changes)
        print(json.dumps({"fault": fault, "verdict": word, "warnings": against}), flush=True)
