"""The command line: each command is a verb, with the same arguments."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier.app.typed import each_with_its_flag

app = typer.Typer(
    name="luthier", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="From a raw file to a language model that is trained, proven better, and ready to use.",
)  # fmt: skip
models_app = typer.Typer(no_args_is_help=True, help="The bases: those known by name, and what is on this machine.", rich_markup_mode=None)
app.add_typer(models_app, name="models")

Out = Annotated[Path | None, typer.Option("--out", help="The run folder; runs/<time> when not given.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="A change to the experiment, path=value; one or several.")]
Budget = Annotated[
    str | None,
    typer.Option(help="The most that all of it may take: 90s, 5m, 2h. A `run` whose time is enough for several runs is a search."),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Plain lines, no progress bar.")]
Force = Annotated[bool, typer.Option("--force", help="Go on after a no-go of the small run.")]


@app.command()
def run(
    data: Annotated[
        str, typer.Argument(help="A csv, tsv, json or jsonl file, or a folder with train, validation and test files; - for standard input.")
    ],
    target: Annotated[str | None, typer.Option(help="The column to be learned; inferred when not given.")] = None,
    input: Annotated[str | None, typer.Option(help="The column or columns that are read, with commas; inferred when not given.")] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="A name from `luthier models list`, a folder, a bundle, or a hub id; auto: what suits the rows best of the bases here."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="classification or chat; inferred when not given.")] = None,
    validation: Annotated[Path | None, typer.Option(help="A file of validation rows, where the split is given.")] = None,
    test: Annotated[Path | None, typer.Option(help="A file of test rows, where the split is given.")] = None,
    budget: Budget = None,
    out: Out = None,
    set: Set = None,
    seed: Annotated[int, typer.Option(help="Of the order of rows, dropout and new weights.")] = 1,
    plan_only: Annotated[bool, typer.Option("--plan-only", help="Stop after writing experiment.yaml and printing the plan.")] = False,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The whole way: read, choose, try small, train, judge on sealed rows, report, ship."""
    from luthier.app.faces import ending, face
    from luthier.pilot.run import run as verb

    with face(quiet or as_json) as shown:
        done = verb(data, target=target, input=input, base=base, task=task, validation=validation, test=test, budget=budget, out=out,
                    set=set or (), seed=seed, plan_only=plan_only, force=force, face=shown)  # fmt: skip
    ending(done, as_json)


@app.command()
def train(
    experiment: Annotated[Path, typer.Argument(help="An experiment.yaml, or a folder that holds one.")],
    out: Out = None,
    set: Set = None,
    budget: Budget = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run an experiment as it is written; judge, report and ship the result."""
    from luthier.app.faces import ending, face
    from luthier.pilot.run import train as verb

    with face(quiet or as_json) as shown:
        done = verb(experiment, out=out, set=set or (), budget=budget, force=force, face=shown)
    ending(done, as_json)


@app.command()
def search(
    data: Annotated[
        str, typer.Argument(help="A file of rows or a folder; or an experiment.yaml, which is the default then; - for standard input.")
    ],
    budget: Annotated[str, typer.Option(help="What all of it may cost: runs of the default (2x), or a time (10m).")] = "2x",
    trials: Annotated[int | None, typer.Option(help="So many, whatever they cost; as many as the budget pays for when not given.")] = None,
    space: Annotated[
        list[str] | None, typer.Option(help="What may vary: optimizer.lr=1e-5..1e-3, training.batch_size=8|16; may be given again.")
    ] = None,
    sampler: Annotated[str, typer.Option(help="tpe, gp, random, cmaes, qmc (Optuna's), or prior.")] = "tpe",
    points: Annotated[
        list[str] | None, typer.Option("--try", help="A point to try first: optimizer.lr=3e-4,model.dropout=0; may be given again.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="The column to be learned; inferred when not given.")] = None,
    input: Annotated[str | None, typer.Option(help="The column or columns that are read, with commas; inferred when not given.")] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="A name from `luthier models list`, a folder, a bundle, or a hub id; auto: what suits the rows best of the bases here."
        ),
    ] = None,
    task: Annotated[str | None, typer.Option(help="classification or chat; inferred when not given.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The study's folder; studies/<time> when not given.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="A change to the default, path=value; the field stays so.")] = None,
    seed: Annotated[int, typer.Option(help="Of the order of rows, dropout, new weights, and the proposals.")] = 1,
    workers: Annotated[int, typer.Option(help="Trials at work at a time; the processor's threads are divided among them.")] = 1,
    backend: Annotated[
        str, typer.Option(help="Where they work: processes (this machine), or ray (the cluster that RAY_ADDRESS names).")
    ] = "processes",
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search the hyperparameters at about the price of one run; the trial that wins goes on and is the final model."""
    from luthier.app.faces import ending, face
    from luthier.pilot.search import search as verb

    with face(quiet or as_json) as shown:
        done = verb(data, budget=budget, trials=trials, space=space or (), sampler=sampler, points=points or (), target=target,
                    input=input, base=base, task=task, out=out, set=set or (), seed=seed, workers=workers, backend=backend, force=force, face=shown)  # fmt: skip
    ending(done, as_json)


@app.command()
def steer(
    study: Annotated[Path, typer.Argument(help="The folder of a search that is at work, or was stopped.")],
    space: Annotated[list[str] | None, typer.Option(help="A dimension of its space, narrower: optimizer.lr=5e-5..2e-4.")] = None,
    stop: Annotated[list[int] | None, typer.Option(help="A trial that is to take no further part.")] = None,
) -> None:
    """A hand on a search at work: narrow what it tries next, or stop a trial; say it from another terminal."""
    from luthier.pilot.steer import steer as verb

    print("\n".join(verb(study, space=space or (), stop=stop or ())))


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="The folder of the run, or of the study.")],
    force: Force = False,
    allow_inexact: Annotated[
        bool, typer.Option("--allow-inexact", help="Go on although the data, the software or the machine is another; the run is marked.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Go on with a run that was stopped, to the same bits as if it had not been."""
    from luthier.app.faces import ending, face
    from luthier.pilot.run import resume as verb

    with face(quiet or as_json) as shown:
        done = verb(run, force=force, allow_inexact=allow_inexact, face=shown)
    ending(done, as_json)


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="RUN/bundle, or the run's folder.")],
    data: Annotated[
        str,
        typer.Argument(
            help="A text in quotes, a file of rows, or - for standard input (JSON lines, CSV with a header, or one text a line)."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Write the rows with their predictions here, in the format of its ending: .csv .tsv .jsonl .json .parquet."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Write so many tokens an answer at most.")] = 256,
    top: Annotated[int | None, typer.Option(min=1, help="Give so many of the likeliest classes, with their probabilities.")] = None,
    abstain_below: Annotated[
        float | None, typer.Option("--abstain-below", min=0, max=1, help="Leave the label out where the confidence is lower: 0.8.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a row.")] = False,
) -> None:
    """Classify texts, or answer prompts, with a bundle."""
    from luthier.app.faces import predicted, warn
    from luthier.pilot.predict import predict as verb

    rows = verb(bundle, data, out=out, limit=limit, top=top, abstain_below=abstain_below, say=warn)
    for row in rows if as_json or out is None else ():
        print(predicted(row, as_json))
    if out is not None and not as_json:
        unsure = sum(bool(row.get("abstained")) for row in rows)
        print(
            f"{len(rows):,} row{'' if len(rows) == 1 else 's'} written to {out}"
            + (f", {unsure:,} of them without a label" if unsure else "")
        )


@app.command()
def chat(
    bundle: Annotated[str, typer.Argument(help="RUN/bundle, the run's folder, or a decoder's name.")],
    limit: Annotated[int, typer.Option(min=1, help="Write so many tokens an answer at most.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=5, help="Take chances with the tokens; 0 takes the likeliest each time.")] = 0.0,
    file: Annotated[Path | None, typer.Option(help="Send the content of a text file as the first turn.")] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Of a pipe, send each line as a turn; else all of it is one.")] = False,
) -> None:
    """Talk to a bundle; a line of three double quotes begins and ends a turn of several lines; an empty line or Ctrl-D ends the chat."""
    from luthier.app.faces import clean, warn
    from luthier.app.turns import read_turns
    from luthier.pilot.predict import chat as verb

    conversation = verb(bundle, limit=limit, temperature=temperature, say=warn)
    for text in read_turns(file, lines):
        for piece in conversation.say(text):
            print(clean(piece), end="", flush=True)
        print(flush=True)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The folder of the run, or of the study.")]) -> None:
    """Write the report.html of a run, or of a study, again from its folder."""
    from luthier.pilot.report import report as verb

    print(verb(run))


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="A file of rows, or a folder; - for standard input.")],
    target: Annotated[str | None, typer.Option(help="The column to be learned; inferred when not given.")] = None,
    input: Annotated[str | None, typer.Option(help="The column or columns that are read, with commas; inferred when not given.")] = None,
    base: Annotated[str | None, typer.Option(help="The base that will be trained: its tokens and context count.")] = None,
    task: Annotated[str | None, typer.Option(help="classification or chat; inferred when not given.")] = None,
    validation: Annotated[Path | None, typer.Option(help="A file of validation rows, where the split is given.")] = None,
    test: Annotated[Path | None, typer.Option(help="A file of test rows, where the split is given.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="A change to the data's settings, data.path=value.")] = None,
    model: Annotated[bool, typer.Option("--model/--no-model", help="Also make the checks that look through a model.")] = True,
    page: Annotated[Path | None, typer.Option(help="Write the flagged rows as a page here (.html).")] = None,
    fix: Annotated[
        Path | None, typer.Option(help="Write the training rows without those of no use here; the source stays as it is.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What is wrong with the rows: copies, leaks, wrong labels, shortcuts, personal data and more."""
    from luthier.app.faces import face
    from luthier.pilot.check import check as verb

    with face(quiet or as_json) as shown:
        done = verb(data, target=target, input=input, base=base, task=task, validation=validation, test=test, set=set or (), model=model,
                    page=page, fix=fix, face=shown)  # fmt: skip
    if as_json:
        print(
            json.dumps(
                {"rows": done.intake.count, "findings": [found.model_dump() for found in done.findings]}, indent=2, ensure_ascii=False
            )
        )
    elif page is not None:
        print(f"the rows {page}")


@app.command()
def show(
    data: Annotated[str, typer.Argument(help="A file of rows, or a folder; - for standard input.")],
    row: Annotated[int | None, typer.Option(help="The line the row begins on; the first training row when not given.")] = None,
    views: Annotated[int, typer.Option(help="So many changed views of it, as augment makes them.", min=0, max=200)] = 0,
    page: Annotated[Path | None, typer.Option(help="An HTML file to write an image and its views to.")] = None,
    target: Annotated[str | None, typer.Option(help="The column to be learned; inferred when not given.")] = None,
    input: Annotated[str | None, typer.Option(help="The column or columns that are read, with commas; inferred when not given.")] = None,
    base: Annotated[str | None, typer.Option(help="The base whose tokenizer and template count.")] = None,
    task: Annotated[str | None, typer.Option(help="classification or chat; inferred when not given.")] = None,
    set: Set = None,
    as_json: Json = False,
) -> None:
    """One row as the model will see it, token by token, with what is learned."""
    from luthier.app.faces import coloured
    from luthier.pilot.show import ShownImage
    from luthier.pilot.show import show as verb

    done = verb(data, row, views=views, page=page, target=target, input=input, base=base, task=task, set=set or ())
    if as_json:
        print(json.dumps(vars(done), ensure_ascii=False))
        return
    if isinstance(done, ShownImage):
        print(f"{done.file}, row {done.line} ({done.part}): {done.width} × {done.height} pixels, of the class {done.target}")
        if done.page:
            print(f"page     {done.page}")
        return
    print(
        f"{done.file}, line {done.line} ({done.part}): {len(done.tokens)} tokens, {sum(done.learned)} learned"
        + (f", {done.cut} cut off" if done.cut else "")
    )
    coloured(done.pieces, done.learned)
    if done.target:
        print(f"learned: the class {done.target}")
    for number, view in enumerate(done.views, 1):
        print(f"view {number}: {view}")


@app.command()
def prove(
    experiment: Annotated[Path, typer.Argument(help="An experiment.yaml, or a run's folder.")],
    set: Set = None,
    seconds: Annotated[float, typer.Option(help="At most.")] = 60.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prove the loss on an experiment's own rows and model, without training."""
    from luthier.app.faces import face
    from luthier.pilot.prove import prove as verb

    with face(quiet or as_json) as shown:
        found = verb(experiment, set=set or (), seconds=seconds, face=shown)
    if as_json:
        print(json.dumps([proof.model_dump() for proof in found], indent=2, ensure_ascii=False))
    if any(proof.held is False for proof in found):
        sys.exit(1)


@app.command()
def plan(
    experiment: Annotated[Path, typer.Argument(help="An experiment.yaml, or a run's folder.")],
    set: Set = None,
    seconds: Annotated[float, typer.Option(help="That the measuring may take, roughly.")] = 30.0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """What a run will take in time and memory, from a few measured steps."""
    from luthier.app.faces import face, planned
    from luthier.pilot.plan import plan as verb

    with face(quiet or as_json) as shown:
        made = verb(experiment, set=set or (), seconds=seconds, face=shown)
    print(json.dumps({**made.forecast, "available": made.available}, indent=2) if as_json else "\n".join(planned(made)))


@models_app.command("list")
def list_models(as_json: Json = False) -> None:
    """The bases known by name."""
    from luthier.pilot.models import models as verb

    def line(row: dict[str, Any]) -> str:
        where = "here" if row["here"] else f"{row['megabytes']} MB to fetch"
        return f"{row['name']:<14} {row['kind']:<8} {row['licence']:<11} {row['language']:<13} {where:<16} {row['about']}"

    _rows(verb(), as_json, line)


@models_app.command("pull")
def pull_model(name: str) -> None:
    """Fetch a base, so that later runs need no connection."""
    from luthier.pilot.models import pull as verb

    print(verb(name, lambda line: print(line, file=sys.stderr))["folder"])


@app.command()
def similar(
    data: Annotated[str, typer.Argument(help="A file of rows with classes or answers, or a folder; - for standard input.")],
    bases: Annotated[
        str,
        typer.Option(
            help="Names, folders or hub ids, with commas; when not given, the known ones that are on this machine and fit the task."
        ),
    ] = "",
    target: Annotated[str | None, typer.Option(help="The column to be learned; inferred when not given.")] = None,
    input: Annotated[str | None, typer.Option(help="The column or columns that are read, with commas; inferred when not given.")] = None,
    task: Annotated[str | None, typer.Option(help="classification or chat; inferred when not given.")] = None,
    set: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """How near the task is to what a base knows: which base, how many of its blocks may stay frozen, and the rate to start from."""
    from luthier.app.faces import compared, face
    from luthier.pilot.similar import similar as verb

    with face(quiet or as_json) as shown:
        names = [name.strip() for name in bases.split(",") if name.strip()]
        done = verb(data, names, target=target, input=input, task=task, set=set or (), face=shown)
    print(json.dumps([one.value() for one in done], indent=2) if as_json else "\n".join(compared(done)))


@models_app.command("show")
def show_model(name: str, as_json: Json = False) -> None:
    """What is known about a base."""
    from luthier.pilot.models import describe as verb

    found = verb(name, lambda line: print(line, file=sys.stderr))
    print(json.dumps(found, indent=2) if as_json else "\n".join(f"{key:<14} {value}" for key, value in found.items()))


def _rows(rows: list[dict[str, Any]], as_json: bool, line: Any) -> None:
    for row in rows:
        print(json.dumps(row) if as_json else line(row))


def main() -> None:
    """Run a command; every mistake a user can make ends in one message and exit code 2."""
    from luthier.core.errors import LuthierError, Stopped

    try:
        app(args=each_with_its_flag(sys.argv[1:]))
    except LuthierError as problem:
        print(f"luthier: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except Stopped as stop:
        print(f"luthier: {stop}; go on with `luthier resume RUN`", file=sys.stderr)
        sys.exit(128 + stop.signal)
    except KeyboardInterrupt:
        print("luthier: interrupted; what was written is whole", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
