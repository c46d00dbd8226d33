"""Tokens a second of the generation engine beside transformers' `generate`, alternating on the same prompts, and how near int8 is to fp32."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import luthier  # noqa: F401  # before torch: it says how long idle threads spin

Timed = dict[str, float]
DATA = {"gsm8k": "train.jsonl", "wikitext2_valid_test": "valid.txt"}


def read_prompts(data: Path, tokenizer: Any, count: int) -> list[list[int]]:
    """Questions of gsm8k, laid out as the model's turns."""
    lines = (data / "gsm8k" / DATA["gsm8k"]).read_text().splitlines()[:count]
    chats = [[{"role": "user", "content": json.loads(line)["question"]}] for line in lines]
    return [list(tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=True, return_dict=False)) for chat in chats]


def watch(work: Callable[[], list[float]]) -> Timed:
    """Seconds of some work by the clock and of all processors, and the median time after which an answer was there."""
    wall, processors = time.perf_counter(), time.process_time()
    latencies = work()
    return {"wall": time.perf_counter() - wall, "processors": time.process_time() - processors, "latency": median(latencies)}


def by_transformers(model: Any, prompts: list[list[int]], limit: int) -> list[float]:
    """All prompts as one batch, padded on the left."""
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    before = time.perf_counter()
    with model.for_generation() as network:
        made = network.generate(
            ids, attention_mask=seen, max_new_tokens=limit, min_new_tokens=limit, do_sample=False, pad_token_id=0, eos_token_id=None
        )
    assert made.shape[1] == longest + limit
    return [time.perf_counter() - before] * len(prompts)


def by_engine(engine: Any, prompts: list[list[int]], limit: int) -> list[float]:
    """All prompts at once; none begins as an earlier one did."""
    from luthier.serving.interface import GenerationRequest

    before = time.perf_counter()
    ends: list[float] = []
    generations = [engine.submit(GenerationRequest(tuple(prompt), limit)) for prompt in prompts]
    for generation in generations:
        generation.on_change(lambda each=generation: ends.append(time.perf_counter() - before) if each.done else None)
    for generation in generations:
        assert len(list(generation)) == limit
    return ends[: len(prompts)] or [time.perf_counter() - before]


def compare_speed(given: argparse.Namespace) -> None:
    """Alternate, and print a line a round and the medians."""
    import torch

    from luthier.models.pretrained import load_generator, load_tokenizer
    from luthier.models.store import resolve
    from luthier.serving.generation import open_engine

    torch.set_num_threads(given.threads)
    base = resolve(given.base)
    model, tokenizer = load_generator(base, 0.0), load_tokenizer(base)
    prompts = read_prompts(given.data, tokenizer, given.streams * (given.rounds + 1))
    engines = {name: open_engine(model, precision=name, slots=max(8, given.streams)) for name in given.precisions}
    for name, engine in engines.items():
        print(json.dumps({"engine": name, "about": engine.about}), flush=True)
    rows: list[dict[str, Timed]] = []
    for number in range(given.rounds + 1):  # the first is not counted
        part = prompts[number * given.streams : (number + 1) * given.streams]
        row = {"transformers": watch(lambda part=part: by_transformers(model, part, given.tokens))}
        for name, engine in engines.items():
            row[name] = watch(lambda engine=engine, part=part: by_engine(engine, part, given.tokens))
        if number:
            rows.append(row)
            print(json.dumps({"round": number, **row}), flush=True)
    for name in engines:
        engines[name].close()
        output = {kind: round(median(row["transformers"][kind] / row[name][kind] for row in rows), 2) for kind in rows[0][name]}
        rate = given.streams * given.tokens / median(row[name]["wall"] for row in rows)
        print(
            json.dumps({"engine": name, "streams": given.streams, "tokens_a_second": round(rate, 1), "times_as_fast": output}), flush=True
        )


def compare_precision(given: argparse.Namespace) -> None:
    """Print how near int8 is to fp32 on text of WikiText-2."""
    from luthier.models.decoding.compiled_step import CompiledDecoder
    from luthier.models.decoding.network import read_network
    from luthier.models.decoding.precision import compare_decoders
    from luthier.models.decoding.step import make_cache
    from luthier.models.pretrained import load_generator, load_tokenizer
    from luthier.models.store import resolve

    base = resolve(given.base)
    network = read_network(load_generator(base, 0.0).eval().network)
    text = (given.data / "wikitext2_valid_test" / DATA["wikitext2_valid_test"]).read_text()[:24000]
    tokens = load_tokenizer(base)(text)["input_ids"][:4096]
    cache = make_cache(network, 16, 256)
    texts = [tokens[start : start + 256] for start in range(0, len(tokens) - 255, 256)]
    output = compare_decoders(CompiledDecoder(network, cache), CompiledDecoder(network, cache, "int8"), texts)
    print(json.dumps({"base": given.base, "int8": str(output)}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precisions", nargs="+", default=["fp32", "auto", "int8"], choices=["fp32", "auto", "int8"])
    parser.add_argument("--precision-only", action="store_true")
    options = parser.parse_args()
    if options.precision_only:
        compare_precision(options)
    else:
        compare_speed(options)
