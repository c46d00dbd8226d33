"""The search's rungs and portfolio on 34 tasks of LCBench (a surrogate), leave-one-task-out, against random search and Optuna's TPE.

    python benchmarks/lcbench.py --data DIR     (needs onnxruntime; DIR/lcbench_surrogate)

Regret: 0 is the best of 300 random configurations after 50 epochs, 1 their 5 % quantile. Cost: epochs trained, in runs of 50.
The portfolio for a task is chosen from the other 33. The rungs and the decisions are the product's own; the portfolio is not shipped, because no table of fine-tuning runs is large enough yet to choose one.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from luthier.studies.rungs import Rung, Standing, decide, rungs_for

EPOCHS, POOL = 50, 300
BOUNDS = (("batch_size", 16, 512, "log-int"), ("learning_rate", 1e-4, 1e-1, "log"), ("momentum", 0.1, 0.99, ""), ("weight_decay", 1e-5, 1e-1, ""),
          ("num_layers", 1, 5, "int"), ("max_units", 64, 1024, "log-int"), ("max_dropout", 0.0, 1.0, ""))  # fmt: skip


def portfolio(regrets: np.ndarray, count: int) -> list[int]:
    """Choose points one after another, each the one that lowers the mean over tasks of the smallest regret most.

    Args:
        regrets: how far each point is from the best one of its task, # (tasks, points)
        count: how many to choose; fewer where there are not so many.

    Returns:
        The points' numbers, the most useful first.

    Source: Feurer et al. 2022, "Auto-sklearn 2.0", section 3.2.1 (greedy portfolios).
    """
    chosen: list[int] = []
    best = np.full(len(regrets), np.inf)
    while len(chosen) < min(count, regrets.shape[1]):
        means = np.minimum(regrets, best[:, None]).mean(0)
        means[chosen] = np.inf
        chosen.append(int(means.argmin()))
        best = np.minimum(best, regrets[:, chosen[-1]])
    return chosen


class Surrogate:
    """Validation accuracy by task, configuration and epoch."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime  # pyright: ignore[reportMissingImports]

        self.session = onnxruntime.InferenceSession(folder / "model.onnx")
        self.codes = {
            name: code for name, code in json.loads((folder / "encoding.json").read_text())["OpenML_task_id"].items() if name != "#na#"
        }

    def curves(self, task: str, points: np.ndarray) -> np.ndarray:
        """# (points, 7) in [0, 1] → (points, epochs)"""
        columns = []
        for place, (_, low, high, kind) in zip(points.T, BOUNDS, strict=True):
            value = np.exp(np.log(low) + place * np.log(high / low)) if "log" in kind else low + place * (high - low)
            columns.append(np.round(value) if "int" in kind else value)
        inputs = np.stack([np.stack([np.full(len(points), epoch), *columns], 1) for epoch in range(1, EPOCHS + 1)], 1).reshape(-1, 8)
        said = self.session.run(None, {"x_cat": np.full((len(inputs), 1), self.codes[task], np.int32), "x_cont": inputs.astype(np.float32)})
        return np.asarray(said[0])[:, 1].reshape(len(points), EPOCHS).astype(float)


def race(curves: np.ndarray, rungs: tuple[Rung, ...]) -> int:
    """Who is left of the trials."""
    alive = list(range(len(curves)))
    for rung in rungs:
        epoch = max(1, round(rung.share * EPOCHS))
        alive = list(decide([Standing(trial, -float(curves[trial, epoch - 1])) for trial in alive], rung.kept).kept)
    return alive[0]


def cost(rungs: tuple[Rung, ...]) -> float:
    total, before = 0.0, 0
    for rung in rungs:
        epoch = max(1, round(rung.share * EPOCHS))
        total += rung.trials * (epoch - before)
        before = epoch
    return (total + EPOCHS - before) / EPOCHS


def tpe(surrogate: Surrogate, task: str, counts: list[int], seed: int) -> list[float]:
    """The best final accuracy of Optuna's TPE after so many whole trials."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=seed))

    def objective(trial: Any) -> float:
        place = np.array([[trial.suggest_float(name, 0.0, 1.0) for name, *_ in BOUNDS]])
        return float(surrogate.curves(task, place)[0, -1])

    study.optimize(objective, n_trials=max(counts))
    values = [trial.value or 0.0 for trial in study.trials]
    return [max(values[:count]) for count in counts]


def main() -> None:
    """Print regrets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--pools", type=int, default=3, help="draws of the 300 configurations")
    parser.add_argument("--trials", type=int, nargs="+", default=[4, 6, 8, 12, 16])
    parser.add_argument("--no-tpe", action="store_true")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    surrogate = Surrogate(asked.data / "lcbench_surrogate")
    tasks = list(surrogate.codes)
    found: dict[str, list[float]] = {}
    for pool in range(asked.pools):
        draws = np.random.default_rng(pool)
        points = draws.random((POOL, len(BOUNDS)))
        whole = np.stack([surrogate.curves(task, points) for task in tasks])  # (tasks, points, epochs)
        final = whole[:, :, -1]
        best, span = final.max(1), final.max(1) - np.percentile(final, 5, axis=1)
        regrets = (best[:, None] - final) / span[:, None]
        for number, task in enumerate(tasks):
            others = np.delete(regrets, number, 0)
            first = portfolio(others, max(asked.trials))
            for trials in asked.trials:
                rungs = rungs_for(trials, warmup=0.0, steps=10_000)
                chosen = first[:trials]
                kept = chosen[race(whole[number, chosen], rungs)]
                found.setdefault(f"portfolio and rungs, {trials} trials: {cost(rungs):.2f} runs", []).append(regrets[number, kept])
                some = draws.permutation(POOL)[:trials]
                kept = some[race(whole[number, some], rungs)]
                found.setdefault(f"rungs without a portfolio, {trials} trials: {cost(rungs):.2f} runs", []).append(regrets[number, kept])
            found.setdefault("the default alone: 1 run", []).append(regrets[number, first[0]])
            for count in (8, 16):
                found.setdefault(f"random: {count} runs", []).append(
                    float(np.mean([regrets[number, draws.permutation(POOL)[:count]].min() for _ in range(50)]))
                )
            if not asked.no_tpe:
                for count, value in zip((8, 16), tpe(surrogate, task, [8, 16], pool), strict=True):
                    found.setdefault(f"Optuna TPE: {count} runs", []).append((best[number] - value) / span[number])
    for name, values in sorted(found.items()):
        print(f"{name:52} regret {np.mean(values):.3f} ± {np.std(values) / np.sqrt(len(values)):.3f}")


if __name__ == "__main__":
    main()
