"""Progress output: a live terminal or plain lines; and the results of commands as text."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from luthier.core.finding import Finding
from luthier.core.types import Step
from luthier.core.words import duration, plural, size

if TYPE_CHECKING:
    from luthier.pilot.plan import RunEstimate
    from luthier.pilot.stages.base_similarity import BaseSimilarity

MARKS = {"good": "✓", "note": "·", "warning": "!", "stop": "✗"}
SECONDS_BETWEEN_LINES = 10.0


def clean(text: str) -> str:
    """Text without the control characters that could steer a terminal."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text)


def warn(line: str) -> None:
    """Say something beside the results, which go to standard output."""
    print(f"luthier: {clean(line)}", file=sys.stderr)


def format_prediction(row: dict[str, Any], as_json: bool) -> str:
    """A prediction as a line: of a classifier its label and confidence; of two texts their similarity, of one its vector; as JSON with all probabilities, or with those of the likeliest classes.

    Args:
        row: as `predict` returns it.
        as_json: as a JSON object.
    """
    likeliest = {candidate["label"]: candidate["probability"] for candidate in row.get("top", ())}
    if as_json:
        fields = {name: value for name, value in row.items() if name != "top"}
        return json.dumps(fields | ({"probabilities": likeliest} if likeliest else {}), ensure_ascii=False)
    if "spans" in row:
        spans = (f"{span['start']}–{span['end']} {span['label']}: {span['text']}  {span['probability']:.1%}" for span in row["spans"])
        return clean("; ".join(spans) or "(no span)")
    if "text" in row:
        note = f"({'' if row['text'] else 'no answer: '}{row['note']})" if row.get("note") else ""
        return clean("  ".join(filter(None, (row["text"], note))))
    if "vector" in row:
        return f"{row['similarity']:.6g}" if "similarity" in row else json.dumps([round(value, 6) for value in row["vector"]])
    if "label" not in row:  # a number, several labels, or several facts
        facts = {name: value for name, value in row.items() if name not in ("row", "probabilities", "cut")}
        if len(facts) > 1:
            return "  ".join(f"{name.replace('_', ' ')} {_as_text(value)}" for name, value in facts.items())
        return _as_text(*facts.values())
    first = "(not sure)" if row.get("abstained") else clean(row["label"])
    if row.get("abstained") and not likeliest:
        likeliest = dict([max(row["probabilities"].items(), key=lambda pair: pair[1])])
    others = [f"{clean(label)} {value:.1%}" for label, value in likeliest.items() if label != row["label"]]
    return f"{first}  {row['confidence']:.1%}" + (f"  ({', '.join(others)})" if others else "")


def _as_text(value: Any) -> str:
    """One fact of a prediction, for a person."""
    if isinstance(value, bool) or value is None:
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return clean("; ".join(str(item) for item in value) or "(no label)")
    return clean(str(value))


def print_tokens(pieces: Sequence[str], learned: Sequence[bool]) -> None:
    """Print a row's tokens; what is learned is green, or stands in ⟦ ⟧ where there are no colours."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    line = Text()
    apart = not any(learned) or not any(
        letter.isspace() for piece in pieces for letter in piece
    )  # pieces of an encoder and words hold no spaces
    for index, (piece, is_learned) in enumerate(zip(pieces, learned, strict=True)):
        before = index > 0 and learned[index - 1]
        if not console.color_system and is_learned != before:
            line.append("⟦" if is_learned else "⟧")
        if index and apart:
            line.append(" ")
        line.append(clean(piece), style=("bold green" if is_learned else "dim") + (" underline" if index % 2 else ""))
    if not console.color_system and learned and learned[-1]:
        line.append("⟧")
    console.print(line)


class Lines:
    """One line at a time, for files, pipes and quiet terminals."""

    def __init__(self) -> None:
        self.began = self.last = time.monotonic()
        self.tokens = 0
        self.since = self.began
        self.validation = ""
        self.first = self.last_step = 0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def put(self, line: str) -> None:
        """Write a line."""
        print(clean(line), file=sys.stderr, flush=True)

    def stage(self, name: str, detail: str = "") -> None:
        """A part of the way begins."""
        self.first, self.validation = 0, ""
        self.put(f"[{duration(time.monotonic() - self.began)}] {name}{': ' + detail if detail else ''}")

    def say(self, line: str) -> None:
        """Something a person should read."""
        self.put(line)

    def finding(self, finding: Finding) -> None:
        """An analysis has spoken."""
        self.put(f"{MARKS[finding.severity]} {finding.claim}" + (f"\n    → {finding.remedy}" if finding.remedy else ""))

    def progress(self, step: Step) -> str:
        """Where the run is, how fast, and how long it will take."""
        if self.first == 0 or step.number <= self.last_step:  # another training has begun
            self.first, self.since, self.tokens, self.last_step = step.number, time.monotonic(), 0, step.number
            return f"step {step.number}/{step.total}  loss {step.loss:.4f}"
        self.tokens, self.last_step = self.tokens + step.tokens, step.number
        passed = max(time.monotonic() - self.since, 1e-6)
        left = passed / (step.number - self.first) * (step.total - step.number)
        speed = f"{self.tokens / passed:,.0f} tokens/s  {duration(left)} left"
        return f"step {step.number}/{step.total}  loss {step.loss:.4f}{self.validation}  learning rate {step.lr:.1e}  {speed}"

    def step(self, step: Step) -> None:
        """An optimizer step has happened."""
        line = self.progress(step)
        if time.monotonic() - self.last > SECONDS_BETWEEN_LINES or step.number == step.total:
            self.last = time.monotonic()
            self.put(f"  {line}")

    def evaluation(self, step: int, measured: dict[str, float], best: bool) -> None:
        """The validation rows were evaluated."""
        name, value = next(iter(measured.items()))
        self.validation = f"  validation {name} {value:.4f}"
        self.put(
            f"  step {step}: validation "
            + ", ".join(f"{key} {number:.4f}" for key, number in measured.items())
            + (" (best so far)" if best else "")
        )


class Live(Lines):
    """A progress bar that stays at the bottom while lines scroll above it."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        super().__init__()
        self.console = Console(stderr=True, highlight=False)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[line]}"),
            console=self.console,
            transient=True,
        )
        self.task: Any = None

    def __enter__(self) -> Live:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.bar.stop()

    def put(self, line: str) -> None:
        """Write a line above the bar."""
        self.bar.console.print(clean(line), markup=False)

    def stage(self, name: str, detail: str = "") -> None:
        """A part of the way begins; the bar starts anew."""
        if self.task is not None:
            self.bar.remove_task(self.task)
        self.task = self.bar.add_task(name, total=None, line=clean(detail))
        super().stage(name, detail)

    def step(self, step: Step) -> None:
        """An optimizer step has happened."""
        if self.task is not None:
            self.bar.update(self.task, total=step.total, completed=step.number, line=self.progress(step))


def make_reporter(quiet: bool) -> Lines:
    """Make the reporter that suits where the output goes."""
    return Lines() if quiet or not sys.stderr.isatty() else Live()


def format_plan(made: RunEstimate) -> list[str]:
    """A plan as lines for a person."""
    estimate = made.forecast
    low, high = estimate["seconds"] / (1 + estimate["spread"]), estimate["seconds"] * (1 + estimate["spread"])
    return [
        f"{estimate['moving'] / 1e6:,.1f} of {estimate['parameters'] / 1e6:,.1f} million parameters are trained",
        f"{plural(estimate['rows'], 'row')}, {plural(estimate['tokens'], 'token')} through the model in {plural(estimate['steps'], 'step')}, {plural(estimate['evaluations'], 'evaluation')}",
        f"training takes about {duration(estimate['seconds'])} ({duration(low)} to {duration(high)})",
        f"memory: about {size(estimate['memory'])} at its peak, of which {size(estimate['a_token'] * estimate['at_once'])} for {estimate['at_once']:,} tokens at once; {size(made.available)} are free",
        f"disk: at most {size(estimate['disk'])}",
    ]


def format_comparison(found: Sequence[BaseSimilarity]) -> list[str]:
    """What bases know of a task, as lines for a person."""
    lines = []
    for comparison in found:
        lines.append(
            f"{comparison.base} ({comparison.megabytes:,.0f} MB, {comparison.seconds:.0f} s)"
            + (f": the best one with a chance of {comparison.chance:.0%}" if len(found) > 1 else "")
        )
        if comparison.floors:
            lines.append("  behind block   nearest neighbours   probe            H-score   variability")
        for floor in comparison.floors:
            mark = "  ← best" if floor is comparison.best else ""
            lines.append(
                f"  {floor.blocks or 'embeddings':>12}   {floor.neighbours:>18.1%}   {floor.probe:>6.1%} ± {floor.error:.1%}   {floor.h_score:7.3f}   {floor.variability:11.1f}{mark}"
            )
        if comparison.fluency:
            lines.append(f"  the answers take {comparison.fluency.answers:.2f} bits a byte, given what stands before them")
        words = {
            "close": "close to what it was pretrained on",
            "between": "neither close nor far",
            "far": "far from what it was pretrained on",
        }
        lines.append(f"  {words[comparison.near.kind]}: {comparison.near.reason}")
        others = f" (or {', '.join(map(str, comparison.depth.others))})" if comparison.depth.others else ""
        lines.append(f"  freeze {comparison.depth.blocks or 'nothing'}{others}: {comparison.depth.reason}")
        lines.append(f"  a learning rate to start from: {comparison.learning_rate:g}")
    first = found[0]
    depths = "|".join(str(depth) for depth in sorted({first.depth.blocks, *first.depth.others}))
    freezing = f" --set adaptation.kind=freeze --space 'adaptation.depth={depths}'" if first.depth.blocks else ""
    lines += ["", f"try it   luthier search DATA --base {first.base}{freezing}"]
    return lines


def print_result(done: Any, as_json: bool) -> None:
    """Where everything lies, and what to type next."""
    from luthier.core.study import Study

    bundle = done.folder / "bundle"
    if isinstance(done, Study):
        if not as_json:
            print(f"\nstudy    {done.folder / 'report.html'}", end="")
        done = done.winner
    verdict = done.verdict
    if as_json:
        print(
            json.dumps(verdict if verdict is not None else {"planned": str(done.folder / "experiment.yaml")}, indent=2, ensure_ascii=False)
        )
    elif verdict is None:
        print(f"\nplan     {done.folder / 'experiment.yaml'}\ntrain it luthier train {done.folder / 'experiment.yaml'} --out {done.folder}")
    else:
        from luthier.families import family_of

        print(f"\nreport   {done.folder / 'report.html'}\nbundle   {bundle}\nuse it   {family_of(verdict['task']).usage(str(bundle))}")
