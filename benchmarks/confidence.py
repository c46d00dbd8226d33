"""Is a classifier as sure as it is right, and does a promised error hold on the sealed rows? Six sets; ways to fit a temperature are compared on kept scores."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import binom

import luthier
from luthier.core.randomness import permutation
from luthier.core.types import Example, Scores
from luthier.evaluation import baselines, calibrate
from luthier.evaluation.abstention import Abstention, measure_abstention, tabulate_abstention
from luthier.evaluation.candidate_choice import choose_candidate
from luthier.evaluation.metrics import measure
from luthier.pilot.stages import evaluate
from what_ships import SETS, give

FOLDS, PARTS = 4, 5
SHARED = 0.5
"""Of what the validation rows do to the linear model, as a logarithm, the part that is taken off all temperatures."""
CANDIDATES = ("trained", "probe")
LEVELS = (0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3)
Kept = Mapping[str, Any]
Fit = Callable[[Scores], float]


@contextmanager
def keep_scores(kept: dict[str, Any]) -> Iterator[None]:
    """Keep what each candidate says without a temperature, and the probe of its training rows, each held out once."""
    stage: Any = evaluate
    fit, score = stage.fit_candidates, stage.score_candidates

    def fit_and_keep(context: Any, work: Any, features: Any, most_rows: int) -> Any:
        found = fit(context, work, features, most_rows)
        kept.update(hold_out(features, context.examples("train"), context.examples("validation"), len(context.dataset.labels)))
        for name in CANDIDATES:
            raw = found.outputs.apply_temperature(found.validation[name], 1 / found.temperatures[name])
            kept.update({f"val_{name}": raw.probabilities, "val_target": raw.target})
        return found

    def score_and_keep(*arguments: Any) -> Any:
        after, before = score(*arguments)
        for name in CANDIDATES:
            kept.update({f"test_{name}": before[name].probabilities, "test_target": before[name].target})
        return after, before

    stage.fit_candidates, stage.score_candidates = fit_and_keep, score_and_keep
    try:
        yield
    finally:
        stage.fit_candidates, stage.score_candidates = fit, score


def hold_out(features: Any, train: Sequence[Example], validation: Sequence[Example], classes: int) -> dict[str, np.ndarray]:
    """What logistic regression on the base says of training rows, each by a fit without it, at the strength that the validation rows choose."""
    rows, held = features(train), features(validation)
    target = np.array([example.target for example in train])

    def fit(seen: np.ndarray, asked: np.ndarray, strength: float) -> np.ndarray:
        centre, scale = baselines.standardizer(rows[seen])
        model = baselines.logistic_regression((rows[seen] - centre) * scale, target[seen], strength)
        said = np.full((len(asked), classes), baselines.RULED_OUT)
        said[:, model.classes_] = model.predict_proba((asked - centre) * scale)
        return said

    every = np.arange(len(train))
    strength = min(baselines.REGULARISATION, key=lambda each: baselines.scores_of(fit(every, held, each), validation).loss.mean())
    found, fold = np.zeros((len(train), classes)), permutation(len(train), "out of fold") % PARTS
    for part in range(PARTS):
        found[fold == part] = fit(np.flatnonzero(fold != part), rows[fold == part], strength)
    return {"oof": found, "oof_target": target}


def train(data: Path, out: Path, name: str, seed: int, count: int) -> Path:
    """One default run on so many rows; its scores as NAME-SEED.npz."""
    path, folder = out / f"{name}-{seed}.npz", out / f"{name}-{seed}"
    if path.exists():
        return path
    rows, test = give(data, out, name, count)
    shutil.rmtree(folder, ignore_errors=True)
    changes, kept = [f"data.split_seed={seed}", "data.allow_leakage=true"], {}
    with keep_scores(kept):
        luthier.train(luthier.run(rows, test=test, out=folder, seed=seed, set=changes, plan_only=True).folder, out=folder, force=True)
    for large in [*(folder / "checkpoints").rglob("*.safetensors"), *(folder / "bundle").rglob("*.safetensors")]:
        large.unlink()
    metric = json.loads((folder / "verdict.json").read_text())["metric"]
    np.savez_compressed(path, **kept, metric=metric)
    return path


def as_scores(probabilities: np.ndarray, target: np.ndarray) -> Scores:
    """Probabilities with their losses."""
    right = np.take_along_axis(probabilities, np.maximum(target, 0)[:, None], 1)[:, 0]
    return Scores(-np.log(np.maximum(right, 1e-30)), np.ones(len(target)), target, probabilities)


def fit_with_veto(scores: Scores) -> float:
    """As it was until 2026-11-30: 1 where the temperature does not help on folds that it was not fitted on."""
    found, part, change = calibrate.fit_temperature(scores), np.arange(len(scores.loss)) % FOLDS, 0.0
    for fold in range(FOLDS):
        inside, outside = (scores.part(np.flatnonzero(rows)) for rows in (part != fold, part == fold))
        change += float((calibrate.apply_temperature(outside, calibrate.fit_temperature(inside)).loss - outside.loss).sum())
    return found if change < 0 else 1.0


def correct_luck(kept: Kept, probe: Scores) -> float:
    """How much easier the validation rows are than the training rows, each held out once, by the temperatures of a linear model; half of it (a control variate)."""
    many = as_scores(kept["oof"], kept["oof_target"])
    return (calibrate.fit_temperature(many) / calibrate.fit_temperature(probe)) ** SHARED


def no_temperature(scores: Scores) -> float:
    """None."""
    return 1.0


def ship(kept: Kept, fit: Fit, shared: bool) -> tuple[str, Scores, Scores, Scores]:
    """What ships with temperatures that are fitted so.

    Args:
        kept: the scores of a run.
        fit: scores on the validation rows → a temperature.
        shared: whether what a linear model says of more rows corrects it.

    Returns:
        Its name; its scores on the validation rows and on the test rows; those on the test rows without any temperature.
    """
    parts = {part: {name: as_scores(kept[f"{part}_{name}"], kept[f"{part}_target"]) for name in CANDIDATES} for part in ("val", "test")}
    luck = correct_luck(kept, parts["val"]["probe"]) if shared else 1.0
    plain = {**parts["test"], "average": calibrate.average_scores(parts["test"]["trained"], parts["test"]["probe"])}
    heats = {name: fit(parts["val"][name]) * luck for name in CANDIDATES}
    found = {part: {name: calibrate.apply_temperature(scores[name], heats[name]) for name in CANDIDATES} for part, scores in parts.items()}
    both = {part: calibrate.average_scores(scores["trained"], scores["probe"]) for part, scores in found.items()}
    heat = fit(both["val"]) * luck
    for part in found:
        found[part]["average"] = calibrate.apply_temperature(both[part], heat)
    ships = choose_candidate(found["val"], str(kept["metric"]))
    return ships, found["val"][ships], found["test"][ships], plain[ships]


def compare_temperatures(runs: Mapping[str, Kept]) -> None:
    """Calibration error of what ships by each way, and what is met: a half of what it was without a temperature, or 0.03."""
    ways: dict[str, tuple[Fit, bool]] = {"no temperature": (no_temperature, False), "with a veto of held-out folds": (fit_with_veto, False),
                                         "own rows": (calibrate.fit_temperature, False), "own rows, corrected": (calibrate.fit_temperature, True)}  # fmt: skip
    for way, (fit, shared) in ways.items():
        lines = []
        for name, kept in runs.items():
            ships, _, after, before = ship(kept, fit, shared)
            error, was = (measure(scores, ("calibration_error",))["calibration_error"] for scores in (after, before))
            by_chance = calibrate.chance_calibration_error(after)
            accuracy, loss = (measure(after, (metric,))[metric] for metric in ("accuracy", "loss"))
            trained = measure(as_scores(kept["test_trained"], kept["test_target"]), ("calibration_error",))["calibration_error"]
            lines.append({"run": name, "ships": ships, "was": was, "error": error, "by_chance": by_chance, "beyond_chance": max(error - by_chance, 0), "accuracy": accuracy,
                          "loss": loss, "trained_was": trained, "met": error <= max(0.03, was / 2), "met_beyond_chance": max(error - by_chance, 0) <= max(0.03, was / 2)})  # fmt: skip
            print(
                json.dumps(
                    {"way": way, **{key: round(value, 4) if isinstance(value, float) else value for key, value in lines[-1].items()}},
                    default=bool,
                )
            )
        keys = ("was", "error", "by_chance", "beyond_chance", "accuracy", "loss", "trained_was", "met", "met_beyond_chance")
        print(json.dumps({"way": way, "runs": len(lines), **{key: round(fmean(float(line[key]) for line in lines), 4) for key in keys}}))


def sure_and_right(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Confidences, and where the likeliest class is the right one."""
    assert scores.probabilities is not None
    return scores.probabilities.max(1), scores.probabilities.argmax(1) == scores.target


def check_promises(runs: Mapping[str, Kept], draws: int) -> None:
    """How often a promised error is exceeded on the sealed rows; also with validation rows drawn from the sealed ones, which chose nothing."""
    whole: list[dict[str, Any]] = []
    chance = np.random.default_rng(0)
    for name, kept in runs.items():
        _, validation, test, _ = ship(kept, calibrate.fit_temperature, False)
        tested, rows = sure_and_right(test), len(kept["val_target"])
        abstention = tabulate_abstention(*sure_and_right(validation))
        print(json.dumps({"run": name, "rows": rows, "least_error": abstention.least_error()}))
        whole += judge_promises(abstention, tested, {"run": name, "drawn": False})
        for _ in range(draws):
            order = chance.permutation(len(tested[0]))
            few, others = order[:rows], order[rows:]
            fresh = tabulate_abstention(tested[0][few], tested[1][few])
            whole += judge_promises(fresh, (tested[0][others], tested[1][others]), {"run": name, "drawn": True})
    for drawn in (False, True):
        for level in (*LEVELS, None):
            lines = [line for line in whole if line["drawn"] == drawn and level in (None, line["error_below"])]
            if lines:
                print(json.dumps({"drawn": drawn, "error_below": level, "promises": len(lines), **{key: round(fmean(float(line[key]) for line in lines), 4)
                                  for key in ("answered", "error", "exceeded", "exceeded_beyond_chance")}}))  # fmt: skip


def judge_promises(abstention: Abstention, tested: tuple[np.ndarray, np.ndarray], about: dict[str, Any]) -> list[dict[str, Any]]:
    """Each promise that can be made, with what it gave; beyond chance: so many mistakes have a chance of less than 5 % if the promise holds."""
    lines = []
    for promise in abstention.promises(LEVELS):
        found = measure_abstention(promise.counts.threshold, *tested)
        given = round(found["answered"] * found["rows"])
        wrong = round((found["error"] or 0) * given)
        unlikely = given > 0 and float(binom.sf(wrong - 1, given, promise.error_below)) < 0.05
        lines.append({**about, "error_below": promise.error_below, "threshold": promise.counts.threshold, "answered": found["answered"], "error": found["error"] or 0.0,
                      "exceeded": wrong > promise.error_below * given, "exceeded_beyond_chance": unlikely})  # fmt: skip
    return lines


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/confidence"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument(
        "--rows", type=int, help="to train and validate on, of each set (another --out for each number); as many as in what_ships.py"
    )
    parser.add_argument("--draws", type=int, default=100, help="validation rows drawn anew from each run's sealed rows")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for seed in asked.seeds:
        for name in asked.sets:
            with np.load(train(asked.data, asked.out, name, seed, asked.rows or SETS[name])) as file:
                found[f"{name}-{seed}"] = dict(file)
    compare_temperatures(found)
    check_promises(found, asked.draws)
