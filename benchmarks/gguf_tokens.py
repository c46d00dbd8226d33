"""Does llama.cpp write what the trainer writes? Greedy answers to test prompts: the trainer in fp32 against GGUF files of the same bundle.

    python benchmarks/gguf_tokens.py RUN ROWS.jsonl --count 50 --limit 32 --dtype float16 q8_0 [--forced]

ROWS has the columns that the run was trained on. llama.cpp is asked where `llama-server` or the package llama_cpp is installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from luthier.data.chat import prompt
from luthier.delivery.exports.gguf import FILE, Gguf
from luthier.delivery.exports.llama_cpp import open_gguf
from luthier.delivery.exports.llama_package import PackagedFile
from luthier.delivery.parity.trainer import next_scores, open_trainer, write_greedily
from luthier.models.store import resolve
from luthier.training.devices import configure_torch


def compare(trainer: Any, runtime: Any, prompts: list[list[int]], answers: list[list[int]], limit: int) -> dict[str, Any]:
    """How many answers and tokens are the same; of each that parts, how near the two likeliest tokens were in the trainer."""
    same = equal = tokens = 0
    margins: list[float] = []
    for number, (request, ours) in enumerate(zip(prompts, answers, strict=True)):
        theirs = runtime.write(request, limit)
        tokens += len(ours)
        place = next(
            (place for place, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other), min(len(ours), len(theirs))
        )
        equal += place
        if list(ours) == list(theirs):
            same += 1
        elif place < min(len(ours), len(theirs)):
            scores = next_scores(trainer, [*request, *ours[:place]])
            margins.append(float(scores[ours[place]] - scores[theirs[place]]))
            print(
                f"  prompt {number + 1} parts at token {place + 1}: the trainer preferred its token by {margins[-1]:.4f} in log-probability",
                flush=True,
            )
        else:
            margins.append(float("inf"))
            print(f"  prompt {number + 1}: one of both stops after {place} tokens", flush=True)
    return {
        "prompts": len(prompts),
        "same answers": same,
        "tokens before they part": equal,
        "tokens": tokens,
        "margins where they part": [round(each, 4) for each in margins],
    }


def compare_forced(runtime: Any, prompts: list[list[int]], answers: list[list[int]]) -> dict[str, Any]:
    """The share of the trainer's tokens that are the likeliest for llama.cpp too, behind the same past: one pass a prompt."""
    equal = tokens = same = 0
    for request, ours in zip(prompts, answers, strict=True):
        theirs = runtime.likeliest([*request, *ours])[len(request) - 1 : -1]
        hits = [one == other for one, other in zip(ours, theirs, strict=True)]
        equal, tokens, same = equal + sum(hits), tokens + len(hits), same + all(hits)
    return {
        "prompts": len(prompts),
        "answers with all tokens the likeliest": same,
        "likeliest tokens": equal,
        "tokens": tokens,
        "share": round(equal / tokens, 4),
    }


def main() -> None:
    given = argparse.ArgumentParser()
    given.add_argument("run")
    given.add_argument("rows")
    given.add_argument("--count", type=int, default=50)
    given.add_argument("--limit", type=int, default=32)
    given.add_argument("--dtype", nargs="+", default=["float16", "q8_0"])
    given.add_argument(
        "--forced", action="store_true", help="one pass over the trainer's answers, by the package llama_cpp, rather than writing"
    )
    request = given.parse_args()
    configure_torch()
    bundle = resolve(request.run)
    trainer = open_trainer(bundle)
    rows = [json.loads(line) for line in Path(request.rows).read_text().splitlines()][: request.count]
    columns = trainer.objective.input
    prompts = [prompt(trainer.tokenizer, [{"role": "user", "content": "\n\n".join(str(row[name]) for name in columns)}])[0] for row in rows]
    end = int(trainer.tokenizer.eos_token_id)
    kept = Path(request.run) / f"greedy-{request.count}-{request.limit}.json"
    answers = json.loads(kept.read_text()) if kept.is_file() else [write_greedily(trainer, each, request.limit, end) for each in prompts]
    kept.write_text(json.dumps(answers))
    print(f"the trainer has answered {len(prompts)} prompts: {np.mean([len(each) for each in answers]):.1f} tokens each", flush=True)
    for precision in request.dtype:
        folder = Path(tempfile.mkdtemp())
        Gguf().write(bundle, folder, precision, print)
        runtime: Any = PackagedFile(folder / FILE) if request.forced else open_gguf(folder / FILE)
        try:
            results = (
                compare_forced(runtime, prompts, answers) if request.forced else compare(trainer, runtime, prompts, answers, request.limit)
            )
            print(json.dumps({"precision": precision, "runtime": runtime.about, **results}), flush=True)
        finally:
            runtime.close()
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
