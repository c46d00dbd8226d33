"""Word vectors beside gensim and the Stanford program: words a second, analogies and similarities, and whether the held-out loss chooses the epoch.

    python benchmarks/word_vectors.py --data DIR [--peer-python PYTHON] [--glove DIR] [--quick] --out runs/word_vectors

`word2vec`: skip-gram and CBOW on the texts of `gutenberg` (all ten novels; with `--quick` one), beside gensim's `Word2Vec` with as many epochs, the same width, window,
negatives, subsampling and words, one thread each, alternating, `--repeats` times. `glove`: the same beside the Stanford program (`--glove`: a folder with its built
`cooccur`, `shuffle`, `vocab_count` and `glove`). Speed is words a second of processor time spent on training (of GloVe: with the counting). Vectors are judged by
`word_analogy/questions-words.txt` and by the rank correlation with the judgements in `word_similarity` (WS-353, MEN, SimLex-999), all by the same function.
`epochs`: after each epoch the held-out loss and the analogies; how the two agree (rank correlation), and what analogies score at the epoch that the loss chooses.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

WORD = re.compile(r"[^\W_]+(?:['’_][^\W_]+)*")
SETTING = {"width": 100, "window": 5, "negatives": 5, "least_count": 5}
GLOVE = {"width": 100, "window": 10, "most": 10, "least_count": 5}
SETS = {"WS-353": "EN-WS-353-ALL.txt", "MEN": "EN-MEN-TR-3k.txt", "SimLex-999": "EN-SIMLEX-999.txt"}

GENSIM = """
import json, sys, time
from gensim.models import Word2Vec
texts = [line.split() for line in open(sys.argv[1], encoding="utf-8")]
setting, model, epochs, seed = json.loads(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
made = Word2Vec(vector_size=setting["width"], window=setting["window"], negative=setting["negatives"], min_count=setting["least_count"],
                sg=int(model == "skip_gram"), sample=1e-3, workers=1, seed=seed)
made.build_vocab(texts)
began = time.process_time()
made.train(texts, total_examples=len(texts), epochs=epochs)
seconds = time.process_time() - began
made.wv.save_word2vec_format(sys.argv[6], binary=False)
print("RESULT", seconds)
"""

OURS = """
import json, sys, time
from pathlib import Path
import torch
from luthier.core.types import Record
from luthier.data.spec import Data
from luthier.families import family_of
from luthier.families.recognise import load_dataset
from luthier.models.word_vectors import write_word2vec
from luthier.evaluation.score import score
from luthier.studies.defaults import starting_experiment
from luthier.training.assemble import assemble
from luthier.training.devices import decide_device_fields, configure_torch
from luthier.training.steps import steps
torch.set_num_threads(1)
configure_torch()
file, task, changes, seed, out = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5])
dataset = load_dataset(Data(path=file, task=task, format="tsv", header=False, validation_share=0.02, test_share=0.02), checks=())
experiment, _ = starting_experiment(dataset, None, seed, scratch=True)
experiment = experiment.set(changes)
family = family_of(task)
experiment = decide_device_fields(experiment.model_copy(update={"objective": family.fit_spec(experiment.objective, dataset)}))
vocabulary = family.load_processor(None, experiment.objective, dataset)
began = time.process_time()
work = assemble(experiment, None, vocabulary, dataset.records)
prepared = time.process_time() - began
out.mkdir(parents=True, exist_ok=True)
per_epoch = -(-len(work.train) // experiment.training.batch_size)
began, seconds, losses = time.process_time(), 0.0, []
for step in steps(work):
    if step.number % per_epoch == 0:
        seconds += time.process_time() - began
        found = score(work.model, work.objective, work.validation)
        losses.append(float(found.loss.sum() / found.count.sum()))
        if sys.argv[6] == "each" or step.number == work.total:
            (out / str(len(losses))).mkdir(exist_ok=True)
            write_word2vec(out / str(len(losses)), vocabulary.words, work.model.vectors().numpy())
        began = time.process_time()
read = sum(int(example.record is not None) for example in work.train)
print("RESULT", json.dumps({"seconds": seconds, "prepared": prepared, "losses": losses, "words": vocabulary.total, "vocabulary": len(vocabulary)}))
"""


def result_of(command: list[str]) -> str:
    """What a process says behind RESULT."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout.split("RESULT")[-1].strip()


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "OMP_NUM_THREADS": "1"}


def write_texts(data: Path, file: Path, quick: bool) -> int:
    """One passage a line, its words in lower case with spaces between them: what all programs read. Returns how many words."""
    novels = sorted((data / "gutenberg").glob("*.txt"))
    novels = [novel for novel in novels if "Alice" in novel.name] if quick else novels
    words = 0
    with file.open("w", encoding="utf-8") as out:
        for novel in novels:
            for number, passage in enumerate(re.split(r"\n\s*\n", novel.read_text(encoding="utf-8"))):
                found = WORD.findall(passage.lower())
                if len(found) > 1 or not number:
                    out.write(" ".join(found) + "\n")
                    words += len(found)
    return words


def judge(file: Path, data: Path) -> dict[str, float]:
    """Analogies and similarities of vectors in word2vec's text format."""
    from luthier.evaluation.words import Words, answer_analogies, compare_similarities, read_questions, read_similarities

    lines = file.read_text(encoding="utf-8").splitlines()
    lines = lines[1:] if len(lines[0].split(" ")) == 2 else lines
    split = [line.rstrip().split(" ") for line in lines if not line.startswith("<unk>")]
    words = Words.of([each[0] for each in split], np.array([each[1:] for each in split], dtype=np.float32))
    answered = answer_analogies(words, read_questions(data / "word_analogy" / "questions-words.txt"), lowercase=True)
    covered = sum(each[2] for each in answered)
    found = {"analogies": sum(each[3] for each in answered) / max(covered, 1), "questions": float(covered)}
    folder = data / "word_similarity" / "data" / "word-sim"
    for name, inside in SETS.items():
        found[name], found[f"{name} pairs"] = compare_similarities(words, read_similarities(folder / inside), lowercase=True)
    return found


def ours(texts: Path, task: str, changes: dict[str, Any], seed: int, out: Path, each: bool = False) -> dict[str, Any]:
    """Train by Luthier's loop."""
    said = result_of([sys.executable, "-c", OURS, str(texts), task, json.dumps(changes), str(seed), str(out), "each" if each else "last"])
    return json.loads(said)


def stanford(programs: Path, texts: Path, epochs: int, folder: Path) -> tuple[float, Path]:
    """Count and train by the Stanford program; processor seconds, and its vectors."""
    folder.mkdir(parents=True, exist_ok=True)
    began = _children()
    steps = (
        ([programs / "vocab_count", "-min-count", GLOVE["least_count"], "-verbose", 0], texts, "vocab"),
        (
            [
                programs / "cooccur",
                "-memory",
                2,
                "-vocab-file",
                folder / "vocab",
                "-window-size",
                GLOVE["window"],
                "-overflow-file",
                folder / "overflow",
                "-verbose",
                0,
            ],
            texts,
            "counts",
        ),
        ([programs / "shuffle", "-memory", 2, "-verbose", 0, "-temp-file", folder / "temporary"], folder / "counts", "shuffled"),
    )
    for command, source, name in steps:
        with source.open("rb") as read, (folder / name).open("wb") as write:
            subprocess.run([str(part) for part in command], stdin=read, stdout=write, stderr=subprocess.DEVNULL, check=True)
    command = [programs / "glove", "-save-file", folder / "vectors", "-threads", 1, "-input-file", folder / "shuffled", "-x-max", GLOVE["most"], "-iter", epochs,
               "-vector-size", GLOVE["width"], "-binary", 0, "-vocab-file", folder / "vocab", "-verbose", 0, "-write-header", 0]  # fmt: skip
    subprocess.run([str(part) for part in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    return _children() - began, folder / "vectors.txt"


def _children() -> float:
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Kept:
    """Results that are there already are not made again.

    Args:
        file: a JSON line each.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self.done = {json.loads(line)["part"] for line in lines}

    def __call__(self, part: str, make: Any) -> None:
        """Make a part, print and keep it, unless it is there."""
        if part in self.done:
            return
        line = json.dumps({"part": part, **make()})
        print(line, flush=True)
        with self.file.open("a") as out:
            out.write(line + "\n")


def main() -> None:
    """Every part in turn."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/word_vectors"))
    parser.add_argument("--peer-python", default="")
    parser.add_argument("--glove", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    texts, kept = asked.out / "texts.txt", Kept(asked.out / "results.jsonl")
    words = write_texts(asked.data, texts, asked.quick)
    epochs, repeats = (2, 1) if asked.quick else (5, asked.repeats)
    for repeat in range(repeats):
        for model in ("skip_gram", "cbow"):
            changes = {f"objective.{name}": value for name, value in SETTING.items()} | {
                "objective.model": model,
                "training.epochs": epochs,
            }

            def train(model: str = model, changes: dict[str, Any] = changes, repeat: int = repeat) -> dict[str, Any]:
                out = asked.out / f"ours-{model}-{repeat}"
                found = ours(texts, "word2vec", changes, repeat + 1, out)
                return (
                    found
                    | {"words_a_second": found["words"] * epochs / found["seconds"]}
                    | judge(out / str(epochs) / "vectors.txt", asked.data)
                )

            def peer(model: str = model, repeat: int = repeat) -> dict[str, Any]:
                out = asked.out / f"gensim-{model}-{repeat}.txt"
                command = [asked.peer_python, "-c", GENSIM, str(texts), json.dumps(SETTING), model, str(epochs), str(repeat + 1), str(out)]
                seconds = float(result_of(command))
                return {"seconds": seconds, "words_a_second": words * epochs / seconds} | judge(out, asked.data)

            kept(f"luthier {model} {repeat}", train)
            if asked.peer_python:
                kept(f"gensim {model} {repeat}", peer)
        changes = {f"objective.{name}": value for name, value in GLOVE.items()} | {"training.epochs": 3 * epochs}

        def fit(changes: dict[str, Any] = changes, repeat: int = repeat) -> dict[str, Any]:
            out = asked.out / f"ours-glove-{repeat}"
            found = ours(texts, "glove", changes, repeat + 1, out)
            seconds = found["seconds"] + found["prepared"]
            return (
                found | {"words_a_second": found["words"] * 3 * epochs / seconds} | judge(out / str(3 * epochs) / "vectors.txt", asked.data)
            )

        def fit_peer(repeat: int = repeat) -> dict[str, Any]:
            seconds, vectors = stanford(asked.glove, texts, 3 * epochs, asked.out / f"stanford-{repeat}")
            return {"seconds": seconds, "words_a_second": words * 3 * epochs / seconds} | judge(vectors, asked.data)

        kept(f"luthier glove {repeat}", fit)
        if asked.glove:
            kept(f"stanford glove {repeat}", fit_peer)
    for task in ("word2vec", "glove"):
        kept(f"epochs {task}", lambda task=task: follow(texts, task, asked.data, asked.out / f"epochs-{task}", 3 if asked.quick else 12))


def follow(texts: Path, task: str, data: Path, out: Path, epochs: int) -> dict[str, Any]:
    """The held-out loss and the analogies after each epoch, and how they agree."""
    from scipy.stats import spearmanr

    began = time.monotonic()
    losses = ours(texts, task, {"training.epochs": epochs}, 1, out, each=True)["losses"]
    shares = [judge(out / str(epoch + 1) / "vectors.txt", data)["analogies"] for epoch in range(len(losses))]
    chosen = int(np.argmin(losses))
    correlated: Any = spearmanr(losses, shares)
    agreed = float(correlated.statistic) if len(set(shares)) > 1 else 0.0
    return {
        "losses": losses,
        "analogies": shares,
        "rank_correlation": agreed,
        "chosen": chosen + 1,
        "at_chosen": shares[chosen],
        "best": max(shares),
        "wall": time.monotonic() - began,
    }


if __name__ == "__main__":
    main()
