"""Does llama.cpp write what the trainer writes? Greedy answers to test prompts: the trainer in fp32 against GGUF files of the same bundle.

    python benchmarks/gguf_tokens.py RUN ROWS.jsonl --count 50 --limit 32 --dtype float16 q8_0 [--forced]

ROWS has the columns that the run was trained on. An answer that parts where two tokens were within rounding of each other in the trainer is a tie, and
counted apart: which of both is written says nothing of the export. llama.cpp is asked where `llama-server` or the package llama_cpp is installed.
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
from luthier.delivery.parity.network_parity import first_difference
from luthier.delivery.parity.tolerances import tolerance_of
from luthier.delivery.parity.trainer import next_scores, open_trainer, write_greedily
from luthier.models.store import resolve
from luthier.training.devices import configure_torch


def compare(trainer: Any, runtime: Any, prompts: list[list[int]], answers: list[list[int]], limit: int, precision: str) -> dict[str, Any]:
    """How many answers are the same; of each that parts, whether the trainer's two likeliest tokens were within rounding of each other (a tie) or not."""
    same = ties = equal = tokens = 0
    within = tolerance_of(precision, runtime.about).tie
    margins: list[float] = []
    for number, (request, ours) in enumerate(zip(prompts, answers, strict=True)):
        theirs = runtime.write(request, limit)
        tokens += len(ours)
        shorter = min(len(ours), len(theirs))
        position = first_difference(ours, theirs)
        equal += position
        if list(ours) == list(theirs):
            same += 1
            continue
        margin, second = float("inf"), False
        if position < shorter:
            scores = next_scores(trainer, [*request, *ours[:position]])
            margin = float(scores[ours[position]] - scores[theirs[position]])
            second = int(scores.argsort()[-2]) == theirs[position]
        margins.append(margin)
        ties += margin <= within
        kind = f"a tie (within {within:.3g})" if margin <= within else "no tie"
        what = f"its second likeliest token {'is' if second else 'is not'} the other" if position < shorter else "one of both stops there"
        print(
            f"  prompt {number + 1} parts at token {position + 1}: {kind}, the trainer preferred its own by {margin:.4f}; {what}",
            flush=True,
        )
    return {
        "prompts": len(prompts),
        "same answers": same,
        "ties": ties,
        "others": len(prompts) - same - ties,
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
                compare_forced(runtime, prompts, answers)
                if request.forced
                else compare(trainer, runtime, prompts, answers, request.limit, runtime.precision)
            )
            print(json.dumps({"precision": precision, "runtime": runtime.about, **results}), flush=True)
        finally:
            runtime.close()
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
