"""What a server has done, as Prometheus reads it."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping

Labels = tuple[tuple[str, str], ...]

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds of the buckets that requests are sorted into."""
HELP = {
    "luthier_requests_total": "requests that were answered, by route and status",
    "luthier_request_seconds": "seconds from a request's headers to the end of its answer",
    "luthier_refused_total": "requests that were refused before the model saw them, by reason",
    "luthier_cancelled_total": "requests whose client hung up before the answer",
    "luthier_failed_total": "requests that ended with an error of the server",
    "luthier_rows_total": "rows that were predicted",
    "luthier_tokens_total": "tokens, of prompts and of answers",
    "luthier_swaps_total": "times that the model was replaced while serving",
    "luthier_swap_failures_total": "times that a new model was not fit to replace the old one",
    "luthier_queue": "prediction requests that wait or are at work",
    "luthier_generation": "what the generation engine holds",
    "luthier_connections": "connections that are open",
    "luthier_ready": "1 while requests are taken",
    "luthier_model": "the model that is served",
    "luthier_resident_bytes": "memory of the process",
}
GAUGES = ("luthier_queue", "luthier_generation", "luthier_connections", "luthier_ready", "luthier_model", "luthier_resident_bytes")


class Counters:
    """Counts from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._times: dict[Labels, list[float]] = {}

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count something.

        Args:
            name: of `HELP`.
            amount: how much.
            labels: what kind of it.
        """
        with self._lock:
            self._counts[name][tuple(sorted(labels.items()))] += amount

    def observe(self, seconds: float, **labels: str) -> None:
        """Sort the time that a request took into its bucket."""
        with self._lock:
            times = self._times.setdefault(tuple(sorted(labels.items())), [0.0] * (len(BOUNDS) + 2))
            for index, bound in enumerate(BOUNDS):
                times[index] += seconds <= bound
            times[-2] += 1
            times[-1] += seconds

    def total(self, name: str, **labels: str) -> float:
        """What was counted, over all kinds that have these labels."""
        with self._lock:
            return sum(count for combination, count in self._counts[name].items() if set(labels.items()) <= set(combination))

    def render(self, now: Iterable[tuple[str, Mapping[str, str], float]] = ()) -> str:
        """All of it in Prometheus' text format.

        Args:
            now: what is so at the moment: name, labels, value.

        Source: Prometheus, "Exposition formats", text format 0.0.4.
        """
        with self._lock:
            counts = {name: dict(series) for name, series in self._counts.items()}
            times = {labels: list(series) for labels, series in self._times.items()}
        for name, labels, value in now:
            counts.setdefault(name, {})[tuple(sorted(labels.items()))] = value
        lines: list[str] = []
        for name in HELP:
            kind = "gauge" if name in GAUGES else "histogram" if name == "luthier_request_seconds" else "counter"
            lines += [f"# HELP {name} {HELP[name]}", f"# TYPE {name} {kind}"]
            lines += [f"{name}{_labels(labels)} {value:.10g}" for labels, value in sorted(counts.get(name, {}).items())]
            if kind == "histogram":
                for labels, series in sorted(times.items()):
                    edges = [f"{bound:g}" for bound in BOUNDS] + ["+Inf"]
                    lines += [f"{name}_bucket{_labels((*labels, ('le', edge)))} {series[index]:.10g}" for index, edge in enumerate(edges)]
                    lines += [f"{name}_count{_labels(labels)} {series[-2]:.10g}", f"{name}_sum{_labels(labels)} {series[-1]:.6f}"]
        return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in labels) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
