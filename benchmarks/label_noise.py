"""Planted label noise: average precision of our ranking and of cleanlab's, on the same features; and what `--fix` gains.

cleanlab runs in an environment of its own (`--peer-python`) on out-of-fold probabilities of scikit-learn's logistic regression over the
same features and folds, with its default ranking.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from pathlib import Path

import numpy as np

from luthier.core.randomness import mix, permutation
from luthier.data.check.labels import FOLDS, label_doubts, out_of_fold_twice
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset
from luthier.models.encode import text_encoder
from luthier.models.store import resolve

SETS = {
    "sst2": "sst2/train.tsv",
    "subjectivity": "sentence_sets/subj.all",
    "trec": "sentence_sets/TREC.train.all",
    "reviews": "sentence_sets/rt-polarity.all",
    "banking77": "banking77/train.csv",
}
CLEANLAB = """
import sys, json, numpy as np
from cleanlab.rank import get_label_quality_scores
kept = np.load(sys.argv[1])
print("RESULT", json.dumps({method: get_label_quality_scores(kept["target"], kept["probabilities"], method=method).tolist() for method in ("self_confidence", "normalized_margin")}))
"""


def plain_folds(features: np.ndarray, target: np.ndarray, classes: int) -> np.ndarray:
    """Out-of-fold probabilities of logistic regression alone, on our folds."""
    from sklearn.linear_model import LogisticRegression

    fold = permutation(len(target), "folds") % FOLDS
    found = np.zeros((len(target), classes))
    for number in range(FOLDS):
        held, seen = fold == number, fold != number
        probe = LogisticRegression(C=1.0, max_iter=300).fit(features[seen] * 4.0, target[seen])
        found[np.ix_(held, probe.classes_)] = probe.predict_proba(features[held] * 4.0)
    return found


def rows_of(path: Path, out: Path) -> tuple[list[str], list[str]]:
    """Texts and labels; "label text" lines as a table."""
    if path.suffix == ".all":
        made = out / f"{path.stem}.jsonl"
        pairs = [line.split(" ", 1) for line in path.read_bytes().decode("latin-1").split("\n") if " " in line]
        made.write_text("".join(json.dumps({"label": label, "text": text}) + "\n" for label, text in pairs))
        path = made
    sheet = load_dataset(Data(path=str(path), allow_leakage=True)).sheet()
    return sheet.texts, sheet.labels


if __name__ == "__main__":
    from sklearn.metrics import average_precision_score

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/label_noise"))
    parser.add_argument("--rows", type=int, default=5000)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    encode = text_encoder(resolve("minilm-l6"))
    for name in given.sets:
        texts, labels = rows_of(given.data / SETS[name], given.out)
        chosen = sorted(permutation(len(texts), "label noise")[: given.rows].tolist())
        names = sorted(set(labels))
        kept = given.out / f"{name}-{len(chosen)}-features.npy"
        if not kept.exists():
            np.save(kept, encode([texts[row] for row in chosen]))
        features = np.load(kept)
        right = np.array([names.index(labels[row]) for row in chosen])
        for share in (0.05, 0.1, 0.2):
            moved = (mix("noise", str(share), np.arange(len(right))) % 10_000) < share * 10_000
            shift = 1 + mix("to", np.arange(len(right))) % max(len(names) - 1, 1)
            target = np.where(moved, (right + shift.astype(int)) % len(names), right)
            ours = label_doubts(out_of_fold_twice(features, target, len(names), np.arange(len(target)))[0], target)
            np.savez(given.out / "asked.npz", target=target, probabilities=plain_folds(features, target, len(names)))
            said = subprocess.run(
                [given.peer_python, "-c", CLEANLAB, given.out / "asked.npz"], capture_output=True, text=True, check=True
            ).stdout
            theirs = json.loads(said.split("RESULT", 1)[1])
            row = {"luthier": average_precision_score(moved, ours)}
            row |= {f"cleanlab {method}": average_precision_score(moved, -np.array(scores)) for method, scores in theirs.items()}
            print(
                json.dumps({"set": name, "rows": len(target), "noise": share, **{key: round(value, 4) for key, value in row.items()}}),
                flush=True,
            )
