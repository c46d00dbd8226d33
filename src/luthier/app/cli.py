"""The command line: each command is a verb, with the same arguments."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from luthier.app import elsewhere, registry
from luthier.app.estimates import plan, prove, similar
from luthier.app.export import export, parity
from luthier.app.group import Commands, print_version
from luthier.app.models import models_app
from luthier.app.options import Input, Json, Quiet, Set, Target, Task
from luthier.app.serve import serve
from luthier.app.transfer import transfer
from luthier.app.typed import repeat_flags
from luthier.core.collector import collect_seldom

app = typer.Typer(
    name="luthier", cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="From a raw file to a language model that is trained, proven better, and ready to use.",
)  # fmt: skip
app.add_typer(models_app, name="models")


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True)] = False,
) -> None:
    """From a raw file to a language model that is trained, proven better, and ready to use."""


Out = Annotated[Path | None, typer.Option("--out", help="The run folder; runs/<time> when not given.")]
Budget = Annotated[
    str | None,
    typer.Option(
        help="The most that all of it may take, with its unit: 90s, 5m, 2h. It is watched: late runs are cut. A `run` whose time is enough for several runs is a search."
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        help="What decides. Of classes: accuracy, macro_f1, balanced_accuracy, auc, mcc, log_loss, f1:LABEL; several labels: micro_f1, label_macro_f1, exact_match; numbers: rmse, mae, r2, spearman; "
        "spans: span_f1, token_accuracy; chat: loss, bits_per_byte, chrf, rouge_l; translation: chrf, bleu, loss; preferences: pair_accuracy, length_normalised_accuracy, reward_margin; single answers: auc, accuracy, balanced_accuracy; embeddings: mrr, recall_at_1, recall_at_10, spearman; "
        "texts alone: bits_per_byte, loss, perplexity, masked_accuracy; word vectors: loss, log_count_error; unusual rows: loss, anomaly_auc. Or module:function, your own."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Continue after a no-go of the small run.")]


@app.command()
def run(
    data: Annotated[
        str,
        typer.Argument(
            help="A table (csv, jsonl, parquet, xlsx and others), a folder with train, validation and test files, a folder of images or texts; - for standard input."
        ),
    ],
    target: Target = None,
    input: Input = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="A name from `luthier models list`, a folder, a bundle, an alias, or a hub id; scratch: none, a network that knows nothing, where the task has one; auto: what suits the rows best of the bases here."
        ),
    ] = None,
    task: Task = None,
    metric: Metric = None,
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
    """Train a model on a file, judge it and ship it.

    Reads, checks and splits the rows, chooses base and hyperparameters, trains, judges on the sealed test rows, writes a report and a bundle.
    """
    from luthier.app.reporters import make_reporter, print_result
    from luthier.pilot.run import run as verb

    with make_reporter(quiet or as_json) as reporter:
        result = verb(data, target=target, input=input, base=base, task=task, metric=metric, validation=validation, test=test, budget=budget, out=out,
                      set=set or (), seed=seed, plan_only=plan_only, force=force, reporter=reporter)  # fmt: skip
    print_result(result, as_json)


@app.command()
def train(
    experiment: Annotated[Path, typer.Argument(help="An experiment.yaml, or a folder that holds one.")],
    out: Out = None,
    set: Set = None,
    metric: Metric = None,
    budget: Budget = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train an experiment as it is written, judge and ship it."""
    from luthier.app.reporters import make_reporter, print_result
    from luthier.pilot.run import train as verb

    with make_reporter(quiet or as_json) as reporter:
        result = verb(experiment, out=out, set=set or (), metric=metric, budget=budget, force=force, reporter=reporter)
    print_result(result, as_json)


@app.command()
def search(
    data: Annotated[
        str, typer.Argument(help="A file of rows or a folder; or an experiment.yaml, which is the default then; - for standard input.")
    ],
    budget: Annotated[
        str, typer.Option(help="What all of it may cost: runs of the default (2x), or a time with its unit (90s, 10m, 2h).")
    ] = "2x",
    trials: Annotated[int | None, typer.Option(help="So many, whatever they cost; as many as the budget pays for when not given.")] = None,
    space: Annotated[
        list[str] | None, typer.Option(help="What may vary: optimizer.lr=1e-5..1e-3, training.batch_size=8|16; may be given again.")
    ] = None,
    sampler: Annotated[str, typer.Option(help="tpe, gp, random, cmaes, qmc (Optuna's), or prior.")] = "tpe",
    points: Annotated[
        list[str] | None, typer.Option("--try", help="A point to try first: optimizer.lr=3e-4,model.dropout=0; may be given again.")
    ] = None,
    target: Target = None,
    input: Input = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="A name from `luthier models list`, a folder, a bundle, an alias, or a hub id; scratch: none, a network that knows nothing, where the task has one; auto: what suits the rows best of the bases here."
        ),
    ] = None,
    task: Task = None,
    metric: Metric = None,
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
    """Search the hyperparameters, train and ship the best.

    Costs about as much as two runs. The trial that wins is trained to its end: it is the final model.
    """
    from luthier.app.reporters import make_reporter, print_result
    from luthier.pilot.search import search as verb

    with make_reporter(quiet or as_json) as reporter:
        result = verb(data, budget=budget, trials=trials, space=space or (), sampler=sampler, points=points or (), target=target,
                      input=input, base=base, task=task, metric=metric, out=out, set=set or (), seed=seed, workers=workers, backend=backend, force=force, reporter=reporter)  # fmt: skip
    print_result(result, as_json)


@app.command()
def steer(
    study: Annotated[Path, typer.Argument(help="The folder of a search that is running, or was stopped.")],
    space: Annotated[list[str] | None, typer.Option(help="Narrow a dimension of its space: optimizer.lr=5e-5..2e-4.")] = None,
    stop: Annotated[list[int] | None, typer.Option(help="Stop this trial where it is compared next.")] = None,
) -> None:
    """Change a search while it runs.

    Narrow its space or stop a trial, from another terminal.
    """
    from luthier.pilot.steer import steer as verb

    print("\n".join(verb(study, space=space or (), stop=stop or ())))


@app.command()
def resume(
    run: Annotated[Path, typer.Argument(help="The folder of the run, or of the study.")],
    force: Force = False,
    allow_inexact: Annotated[
        bool,
        typer.Option("--allow-inexact", help="Continue although the data, the software or the machine has changed; the run is marked."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Continue a run or a search that was stopped.

    It ends with the same bits as if it had not been stopped.
    """
    from luthier.app.reporters import make_reporter, print_result
    from luthier.pilot.run import resume as verb

    with make_reporter(quiet or as_json) as reporter:
        result = verb(run, force=force, allow_inexact=allow_inexact, reporter=reporter)
    print_result(result, as_json)


@app.command()
def predict(
    bundle: Annotated[Path, typer.Argument(help="RUN/bundle, the run's folder, or an alias.")],
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
    error_below: Annotated[
        str | None,
        typer.Option("--error-below", help="Leave out so many of the unsure labels that at most this share of the others is wrong: 5%."),
    ] = None,
    set: Annotated[
        list[str] | None, typer.Option("--set", help="How the file is read: data.encoding=cp1252, data.format, data.header, data.sheet.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a row.")] = False,
) -> None:
    """Use a bundle on new rows: classes, numbers, answers, vectors."""
    from luthier.app.reporters import format_prediction, warn
    from luthier.app.typed import read_share
    from luthier.pilot.predict import predict as verb

    error = read_share(error_below, "--error-below")
    rows = verb(bundle, data, out=out, limit=limit, top=top, abstain_below=abstain_below, error_below=error, set=set or (), say=warn)
    for row in rows if as_json or out is None else ():
        print(format_prediction(row, as_json))
    if out is not None and not as_json:
        unsure = sum(bool(row.get("abstained")) for row in rows)
        more = f", {unsure:,} of them without a label" if unsure else ""
        print(f"{len(rows):,} row{'' if len(rows) == 1 else 's'} written to {out}{more}")


@app.command()
def chat(
    bundle: Annotated[str, typer.Argument(help="RUN/bundle, the run's folder, an alias, or a decoder's name.")],
    limit: Annotated[int, typer.Option(min=1, help="Write so many tokens an answer at most.")] = 256,
    temperature: Annotated[float, typer.Option(min=0, max=5, help="Take chances with the tokens; 0 takes the likeliest each time.")] = 0.0,
    file: Annotated[Path | None, typer.Option(help="Send the content of a text file as the first turn.")] = None,
    lines: Annotated[bool, typer.Option("--lines", help="Of a pipe, send each line as a turn; else all of it is one.")] = False,
) -> None:
    """Talk to a bundle.

    A line of three double quotes begins and ends a turn of several lines; an empty line or Ctrl-D ends the chat.
    """
    from luthier.app.chat_turns import read_turns
    from luthier.app.reporters import clean, warn
    from luthier.pilot.predict import chat as verb

    conversation = verb(bundle, limit=limit, temperature=temperature, say=warn)
    for text in read_turns(file, lines):
        for piece in conversation.say(text):
            print(clean(piece), end="", flush=True)
        print(flush=True)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="The folder of the run, or of the study.")]) -> None:
    """Write the report.html of a run or a study again."""
    from luthier.pilot.report import report as verb

    print(verb(run))


@app.command()
def check(
    data: Annotated[str, typer.Argument(help="A file of rows, or a folder; - for standard input.")],
    target: Target = None,
    input: Input = None,
    base: Annotated[str | None, typer.Option(help="The base that will be trained; its tokenizer and context length are used.")] = None,
    task: Task = None,
    validation: Annotated[Path | None, typer.Option(help="A file of validation rows, where the split is given.")] = None,
    test: Annotated[Path | None, typer.Option(help="A file of test rows, where the split is given.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="A change to the data's settings, data.path=value.")] = None,
    model: Annotated[bool, typer.Option("--model/--no-model", help="Also make the checks that need a model.")] = True,
    page: Annotated[Path | None, typer.Option(help="Write the flagged rows as a page here (.html).")] = None,
    fix: Annotated[
        Path | None, typer.Option(help="Write the training rows without those of no use here; the source stays as it is.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check the rows for what spoils a model.

    Finds copies, leaks, wrong labels, shortcuts, personal data and more.
    """
    from luthier.app.reporters import make_reporter
    from luthier.pilot.check import check as verb

    with make_reporter(quiet or as_json) as reporter:
        result = verb(data, target=target, input=input, base=base, task=task, validation=validation, test=test, set=set or (), model=model,
                      page=page, fix=fix, reporter=reporter)  # fmt: skip
    if as_json:
        print(
            json.dumps(
                {"rows": result.dataset.count, "findings": [finding.model_dump() for finding in result.findings]},
                indent=2,
                ensure_ascii=False,
            )
        )
    elif page is not None:
        print(f"the rows {page}")


@app.command()
def show(
    data: Annotated[str, typer.Argument(help="A file of rows, or a folder; - for standard input.")],
    row: Annotated[int | None, typer.Option(help="Show the row that begins on this line; the first training row when not given.")] = None,
    views: Annotated[int, typer.Option(help="Show this many augmented versions of it.", min=0, max=200)] = 0,
    page: Annotated[Path | None, typer.Option(help="Write an image and its augmented versions as a page here (.html).")] = None,
    target: Target = None,
    input: Input = None,
    base: Annotated[str | None, typer.Option(help="The base whose tokenizer and chat template are used.")] = None,
    task: Task = None,
    set: Set = None,
    as_json: Json = False,
) -> None:
    """Show one row as the model will see it.

    Token by token, with what is learned.
    """
    from luthier.app.reporters import print_tokens
    from luthier.core.words import plural
    from luthier.pilot.show import ShownImage
    from luthier.pilot.show import show as verb

    result = verb(data, row, views=views, page=page, target=target, input=input, base=base, task=task, set=set or ())
    if as_json:
        print(json.dumps(vars(result), ensure_ascii=False))
        return
    if isinstance(result, ShownImage):
        class_note = f", {'of the class' if result.is_class else 'with the number'} {result.target}" if result.target else ""
        print(f"{result.file}, row {result.line} ({result.part}): {result.width} × {result.height} pixels{class_note}")
        if result.page:
            print(f"page     {result.page}")
        return
    print(
        f"{result.file}, line {result.line} ({result.part}): {plural(len(result.tokens), 'token')}, {sum(result.learned)} learned"
        + (f", {result.cut} cut off" if result.cut else "")
    )
    print_tokens(result.pieces, result.learned)
    if what := f"{'the class ' if result.is_class else ''}{result.target}" if result.target else result.about:
        print(f"learned: {what}")
    for number, view in enumerate(result.views, 1):
        print(f"view {number}: {view}")


app.command()(similar)
app.command()(prove)
app.command()(plan)
app.command()(transfer)
registry.add_commands(app)
elsewhere.add_commands(app)
app.command()(serve)
app.command()(export)
app.command()(parity)


def main() -> None:
    """Run a command; every mistake a user can make ends in one message and exit code 2."""
    from luthier.core.errors import LuthierError

    collect_seldom()
    try:
        app(args=repeat_flags(sys.argv[1:]))
    except LuthierError as problem:
        print(f"luthier: {problem}", file=sys.stderr)
        sys.exit(problem.exit_code)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except OSError as problem:
        if problem.filename is None:
            raise
        print(f"luthier: {problem.filename}: {problem.strerror}\n  → see that it is there, and that you may use it", file=sys.stderr)
        sys.exit(2)
