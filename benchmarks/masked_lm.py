"""Masked language models: what a BERT from scratch and a base that went on with a domain's texts are worth to a classifier, and tokens a second beside run_mlm.

    python benchmarks/masked_lm.py scratch   --data DIR [--budget 15m]    # a BERT from novels, Brown, film reviews, news and Wikipedia, beside its network with new weights
    python benchmarks/masked_lm.py continued --data DIR [--budget 10m]    # MiniLM that went on with the texts of a domain, beside MiniLM, on 200 labelled rows
    python benchmarks/masked_lm.py speed     --data DIR [--peer PYTHON]   # alternating with transformers' Trainer as its example run_mlm sets it up

`scratch` and `continued` pretrain with `luthier run --task masked_lm` and compare with `luthier transfer`: the same labelled rows, the same test rows, an interval of
the difference over test rows and seeds. No text of a test row is pretrained on: of the domains such rows are left out, of the corpora whole documents that hold one.
`speed`: the same network (MiniLM with a head for tokens) on the same novels, cut into blocks without padding as run_mlm does by default, of 128 tokens, 8 blocks a
step; both in the same dtype. Tokens are counted without padding, of which neither has any. `--peer` is an interpreter with transformers and accelerate.
`--quick`: little text, few rows and steps.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import random
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import sets
from classify_speed import figures, time_steps

Rows = list[tuple[str, str]]

OURS = """
import sys, time
from luthier.data.spec import Data
from luthier.families.recognise import load_dataset
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve
from luthier.studies.defaults import starting_experiment
from luthier.training.assemble import assemble
from luthier.training.devices import configure_torch, decide_device_fields
from luthier.training.steps import steps
folder, count, dtype, length, rows = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5]
configure_torch()
dataset = load_dataset(Data(path=folder, task="masked_lm"), checks=())
base = resolve("minilm-l6")
experiment, _ = starting_experiment(dataset, base, 1)
experiment = decide_device_fields(experiment.set(f"training.dtype={dtype}", f"objective.max_length={length}", f"training.batch_size={rows}", "training.steps=1000"), base)
work = assemble(experiment, base, load_tokenizer(base), dataset.records)
""" + time_steps("step.tokens")
TRAINERS = """
import sys, tempfile, time
from itertools import chain
from pathlib import Path
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, DataCollatorForLanguageModeling, Trainer, TrainerCallback, TrainingArguments
folder, count, dtype, length, rows, base = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]), sys.argv[6]
tokenizer = AutoTokenizer.from_pretrained(base)
texts = [line for path in sorted(Path(folder).glob("*.txt")) for line in path.read_text().split("\\n") if line]
tokenized = tokenizer(texts, return_special_tokens_mask=True)
joined = {name: list(chain.from_iterable(lists)) for name, lists in tokenized.items()}
whole = len(joined["input_ids"]) // length * length
blocks = [{name: values[start : start + length] for name, values in joined.items()} for start in range(0, whole, length)]
class Watch(TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        if state.global_step == 2:
            self.began, self.spent = time.monotonic(), time.process_time()
        if state.global_step == count + 2:
            tokens = count * rows * length
            print("RESULT", tokens / (time.monotonic() - self.began), tokens / (time.process_time() - self.spent))
Trainer(
    model=AutoModelForMaskedLM.from_pretrained(base, dtype=torch.float32),
    args=TrainingArguments(tempfile.mkdtemp(), per_device_train_batch_size=rows, max_steps=count + 2, report_to=[], save_strategy="no",
                           use_cpu=not torch.cuda.is_available(), bf16=dtype == "bfloat16", logging_steps=100000, disable_tqdm=True),
    train_dataset=blocks, data_collator=DataCollatorForLanguageModeling(tokenizer), callbacks=[Watch()],
).train()
"""

LABELLED = ("sst2", "subj", "customers")
"""Sets that a base from scratch is tried on."""
DOMAINS = ("banking77", "unfair_tos", "hate")
METRICS = {"unfair_tos": "auc", "hate": "macro_f1"}
"""Where nine of ten rows are of one class, accuracy says little."""
SHORTEST = 7
"""Words of a test row from which on documents that hold it are left out."""
TEXTS, TESTED = 20_000, 1000
"""Texts of a domain that are pretrained on, at most, and its test rows."""


def plain(text: str) -> str:
    """A text by which copies are found: its letters and digits."""
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def read_set(data: Path, name: str) -> tuple[Rows, Rows]:
    """All texts with their labels: those that may be learned from, and the test rows, none of whose texts is among the first."""
    if name == "banking77":
        train, test = ([(row["text"], row["category"]) for row in csv.DictReader(_open(data / "banking77" / f"{part}.csv"))] for part in ("train", "test"))  # fmt: skip
    else:
        train, test = list(clauses(data) if name == "unfair_tos" else sets.pairs(data, name)), []
    random.Random(0).shuffle(train)
    if not test:
        train, test = train[TESTED:], train[:TESTED]
    random.Random(0).shuffle(test)
    known = {plain(text) for text, _ in test[:TESTED]}
    return [row for row in train if plain(row[0]) and plain(row[0]) not in known], test[:TESTED]


def _open(path: Path) -> io.StringIO:
    return io.StringIO(path.read_text(encoding="utf-8"), newline="")


def clauses(data: Path) -> Iterator[tuple[str, str]]:
    """The English sentences of the terms of service, unfair where one of their tags says so (2, potentially; 3, clearly)."""
    root = data / "unfair_tos" / "corpus"
    for file in sorted((root / "sentences" / "en" / "original").glob("*.txt")):
        tags = (root / "tags" / "en" / "original" / file.name).read_text(encoding="utf-8").split("\n")
        for sentence, tag in zip(file.read_text(encoding="utf-8").split("\n"), tags, strict=False):
            if sentence.strip():
                yield sentence.strip(), "unfair" if re.search(r"[23]\b", tag) else "fair"


def documents(data: Path) -> Iterator[tuple[str, str]]:
    """The corpora at hand, a name and a text each; of novels each chapter's worth is a document, as Brown's and the articles are."""
    for file in sorted((data / "gutenberg").glob("*.txt")):
        text = re.split(r"\*\*\* ?(?:START|END) OF TH[^\n]*", file.read_text(encoding="utf-8-sig"))[1]
        lines = text.strip().split("\n\n")
        for start in range(0, len(lines), 60):
            yield f"novel-{file.stem[:20]}-{start:05d}", "\n\n".join(lines[start : start + 60])
    with zipfile.ZipFile(data / "nltk_corpora" / "brown.zip") as archive:
        for name in sorted(name for name in archive.namelist() if re.fullmatch(r"brown/c[a-r]\d\d", name)):
            tagged = archive.read(name).decode("ascii").split("\n")
            yield f"brown-{name[6:]}", "\n".join(_join(line) for line in tagged if line.strip())
    with zipfile.ZipFile(data / "nltk_corpora" / "movie_reviews.zip") as archive:
        for name in sorted(name for name in archive.namelist() if name.endswith(".txt")):
            yield f"review-{Path(name).stem}", archive.read(name).decode("latin-1")
    for file in sorted((data / "bbc_news" / "bbc").glob("*/*.txt")):
        yield f"news-{file.parent.name}-{file.stem}", file.read_text(encoding="utf-8", errors="replace")
    for part in ("valid", "test"):
        articles = re.split(r"\n(?= = [^=])", (data / "wikitext2_valid_test" / f"{part}.txt").read_text(encoding="utf-8"))
        for number, article in enumerate(article for article in articles if article.strip()):
            yield f"wikipedia-{part}-{number:03d}", article.replace(" @-@ ", "-").replace(" @,@ ", ",").replace(" @.@ ", ".")


def _join(tagged: str) -> str:
    """A sentence of Brown without its tags, its signs beside their words."""
    text = " ".join(word.rpartition("/")[0] for word in tagged.split())
    return re.sub(r" ([.,;:?!')])", r"\1", text.replace("``", '"').replace("''", '"'))


def write_rows(path: Path, rows: Rows) -> Path:
    """Texts with their labels, as a table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return path


def write_corpus(folder: Path, data: Path, tested: Rows, every: int) -> dict[str, int]:
    """The documents as files, but for those that hold the text of a test row; every so many alone."""
    begins: dict[str, list[str]] = {}
    for text in (plain(text) for text, _ in tested):
        words = text.split()
        if len(words) >= SHORTEST:  # a shorter one is a phrase that anybody may have written
            begins.setdefault(" ".join(words[:SHORTEST]), []).append(text)
    unfinished = folder.with_name(f"{folder.name}-unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    counts = {"documents": 0, "characters": 0, "left_out": 0}
    for name, text in islice(documents(data), 0, None, every):
        words = plain(text).split()
        whole = " ".join(words)
        places = (" ".join(words[start : start + SHORTEST]) for start in range(len(words) - SHORTEST + 1))
        if any(row in whole for place in places for row in begins.get(place, ())):
            counts["left_out"] += 1
            continue
        (unfinished / f"{name}.txt").write_text(text, encoding="utf-8")
        counts["documents"] += 1
        counts["characters"] += len(text)
    unfinished.rename(folder)
    return counts


def limit(options: argparse.Namespace, usual: str) -> list[str]:
    """What ends a pretraining; the quick one does not depend on how busy the machine is."""
    if options.quick:
        return ["--set", "training.steps=20", "--force"]
    return ["--set", *options.set] if options.set else ["--budget", options.budget or usual]


def pretrain(source: Path, place: Path, *words: str) -> dict[str, Any]:
    """`luthier run --task masked_lm`, resumed where it was stopped, and what it says of itself."""
    if not (place / "bundle" / "luthier.json").exists():
        command = (
            ["resume", place] if (place / "experiment.yaml").exists() else ["run", source, "--task", "masked_lm", "--out", place, *words]
        )
        done = subprocess.run([sys.executable, "-m", "luthier", *map(str, command)], check=False)
        if done.returncode:
            raise SystemExit(done.returncode)
    verdict = json.loads((place / "verdict.json").read_text())
    step = [json.loads(line)["step"] for line in (place / "metrics.jsonl").read_text().splitlines()][-1]
    others = {other["name"]: other["value"] for other in [verdict["trivial"], *verdict["others"]]}
    return {"loss": verdict["test"]["value"], "others": others, "steps": step, "seconds": verdict["seconds"], "verdict": verdict["verdict"]}


def compare(options: argparse.Namespace, name: str, files: list[Path], starts: list[str], place: Path, count: int) -> dict[str, Any]:
    """`luthier transfer`: the first start and what the other is worth beside it."""
    import luthier
    from luthier.app.reporters import Lines

    seeds, most, changes = (1, 100, ["training.steps=8"]) if options.quick else (options.seeds, TESTED, [])
    found = luthier.transfer(files[0], starts, test=files[1], rows=[count], seeds=seeds, metric=METRICS.get(name), most_test=most, set=changes,
                             out=place, reporter=Lines()).found  # fmt: skip
    values = {start: [line["value"], line["low"], line["high"], *line["each"]] for start, line in zip(starts, found["table"], strict=True)}
    gain = found["gains"][0] if found["gains"] else {}
    return {"metric": found["metric"], "rows": count, "test_rows": found["test_rows"], "seeds": seeds, "values": list(values.values()),
            "gain": [gain.get(name) for name in ("value", "low", "high")]}  # fmt: skip


def scratch(options: argparse.Namespace, keep: Callable[..., dict[str, Any]]) -> None:
    """A BERT from the corpora, and what it is worth beside its network with new weights."""
    place, names = options.out / ("scratch-quick" if options.quick else "scratch"), options.sets or LABELLED
    known = {name: read_set(options.data, name) for name in names}
    corpus = place / "corpus"
    if not corpus.exists():
        tested = [row for _, test in known.values() for row in test]
        keep("corpus", lambda: write_corpus(corpus, options.data, tested, 40 if options.quick else 1))
    run = place / "bert"
    keep("pretrain", lambda: pretrain(corpus, run, "--base", "scratch", *limit(options, "15m")))
    for name, (train, test) in known.items():
        count = options.rows or (100 if options.quick else 1000)
        files = [write_rows(place / f"{name}-{part}.csv", rows) for part, rows in (("train", train[: 3 * count]), ("test", test))]
        starts = [f"scratch:{run}", str(run)]
        keep(
            name,
            lambda name=name, files=files, starts=starts, count=count: compare(
                options, name, files, starts, place / f"{name}-{count}", count
            ),
        )


def continued(options: argparse.Namespace, keep: Callable[..., dict[str, Any]]) -> None:
    """MiniLM that went on with the texts of a domain, beside MiniLM."""
    for name in options.sets or DOMAINS:
        place = options.out / ("continued-quick" if options.quick else "continued") / name
        train, test = read_set(options.data, name)
        count = options.rows or (50 if options.quick else 200)
        texts = write_rows(place / "texts.csv", train[: 500 if options.quick else TEXTS])
        files = [write_rows(place / f"{part}.csv", rows) for part, rows in (("train", train[: 10 * count]), ("test", test))]
        run = place / "went-on"
        keep(f"{name} pretrain", lambda texts=texts, run=run: pretrain(texts, run, *limit(options, "10m")))
        starts = ["minilm-l6", str(run)]
        keep(
            name,
            lambda name=name, files=files, starts=starts, place=place, count=count: compare(
                options, name, files, starts, place / f"transfer-{count}", count
            ),
        )


def speed(options: argparse.Namespace, keep: Callable[..., dict[str, Any]]) -> None:
    """Alternating rounds, and the medians of their ratios."""
    from luthier.models.store import resolve

    novels = options.out / "novels"
    if not novels.exists():
        novels.mkdir(parents=True)
        for number, (name, text) in enumerate(documents(options.data)):
            if name.startswith("novel") and number % 24 == 0:  # some half a megabyte: more than is read, and encoded in a second
                (novels / f"{name}.txt").write_text(text, encoding="utf-8")
    base, count, shape = resolve("minilm-l6").folder, 2 if options.quick else options.steps, (options.length, options.blocks)
    rounds: list[dict[str, Any]] = []
    for number in range(1 if options.quick else options.rounds):
        for dtype in options.dtypes:

            def both(dtype: str = dtype) -> dict[str, Any]:
                ours = figures(sys.executable, OURS, novels, count, dtype, *shape)
                theirs = figures(options.peer, TRAINERS, novels, count, dtype, *shape, base)
                return {"luthier": ours, "trainer": theirs, "dtype": dtype, "unit": "tokens a second by the clock, by processor time"}

            rounds.append(keep(f"{dtype} {'x'.join(map(str, shape))} round {number}", both))
    for dtype in options.dtypes:
        pairs = [(found["luthier"], found["trainer"]) for found in rounds if found["dtype"] == dtype]
        print(json.dumps({"dtype": dtype, "ratios [clock, processor time]": [median(ours[unit] / theirs[unit] for ours, theirs in pairs) for unit in (0, 1)]}))  # fmt: skip


def main() -> None:
    """Make what has not been made."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("scratch", "continued", "speed"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--budget", help="of the pretraining; 15m from scratch, 10m for a domain")
    parser.add_argument(
        "--set", nargs="+", help="changes to the pretraining in place of a budget: what comes of it then does not depend on the machine"
    )
    parser.add_argument("--sets", nargs="+", help="these labelled sets")
    parser.add_argument("--rows", type=int, help="labelled rows; 1,000 from scratch, 200 for a domain")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--peer", default=sys.executable)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"], choices=["float32", "bfloat16"])
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("runs/masked_lm"))
    options = parser.parse_args()
    options.data, options.out = options.data.absolute(), options.out.absolute()
    options.out.mkdir(parents=True, exist_ok=True)
    kept = options.out / f"{options.what}.jsonl"
    done = {line["what"]: line for line in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}

    def keep(what: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        name = f"{what}{' (quick)' if options.quick else ''}"
        if name not in done:
            done[name] = {"what": name, **make()}
            with kept.open("a") as file:
                file.write(json.dumps(done[name]) + "\n")
        print(json.dumps(done[name]), flush=True)
        return done[name]

    {"scratch": scratch, "continued": continued, "speed": speed}[options.what](options, keep)


if __name__ == "__main__":
    main()
