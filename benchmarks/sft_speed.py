"""Useful tokens a second and peak memory: SmolLM2-135M on Alpaca rows, whole or with adapters, ours and TRL (with peft), alternating on the same rows.

    python benchmarks/sft_speed.py --data DIR --peer-python PYTHON [--adaptation lora] --out runs/sft_speed

Beside them the share of this machine's own matrix product in fp32 (and bf16) that ours comes to, reckoned with 6 operations a parameter and token,
4 where the base's weights stay. TRL runs in an environment of its own (`--peer-python`), with the padding-free setting that was its best, in the faster
of its dtypes on this machine (`--peer bfloat16:yes` where the processor multiplies in bf16). LitGPT, where it is asked for, runs its own model, loss and loop in bf16,
one row at a time as its recipes do, from random weights (for speed they are as good). Useful tokens are those that are not padding.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from classify_speed import figures, measure

PREPARE = """
import json, sys, tempfile
from luthier.core.randomness import permutation
from luthier.families.recognise import load_dataset
from luthier.data.spec import Data
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve
from luthier.objectives.chat import Chat
data, target, seed = sys.argv[1:]
rows = json.load(open(data + "/llamafactory_demo/alpaca_en_demo.json"))
order = permutation(len(rows), 0, "benchmark")
for part, chosen in (("train", order[:900]), ("validation", order[900:939]), ("test", order[939:])):
    with open(f"{target}/{part}.jsonl", "w") as file:
        file.writelines(json.dumps(rows[row]) + "\\n" for row in chosen)
base = resolve("smollm2-135m")
dataset = load_dataset(Data(path=target, allow_leakage=True))
examples = Chat().open(load_tokenizer(base), dataset.spec.input, dataset.spec.target).prepare(dataset.records["train"])
order = permutation(900, int(seed), "order", 0)
with open(f"{target}/tokens.jsonl", "w") as file:
    for row in order:
        example = examples[row]
        file.write(json.dumps({"input_ids": example.tokens, "completion_mask": [int(learned) for learned in example.target]}) + "\\n")
print("RESULT", len(examples))
"""

OURS = """
import resource, sys, tempfile, time
from luthier.families.recognise import load_dataset
from luthier.data.spec import Data
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve
from luthier.studies.defaults import starting_experiment
from luthier.training.assemble import assemble
from luthier.training.devices import configure_torch, decide_device_fields
from luthier.training.steps import steps
configure_torch()
dataset = load_dataset(Data(path=sys.argv[1], allow_leakage=True))
experiment, _ = starting_experiment(dataset, None, 1)
base = resolve("smollm2-135m")
experiment = decide_device_fields(experiment, base).replace("adaptation.kind", sys.argv[3])
work = assemble(experiment, base, load_tokenizer(base), dataset.records)
count, tokens = int(sys.argv[2]), 0
for step in steps(work):
    if step.number == 1:
        began = time.monotonic()
    else:
        tokens += step.tokens
    if step.number == count + 1:
        break
seconds = time.monotonic() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
import torch
def product(dtype):
    one, two = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
    one @ two
    times = []
    for _ in range(5):
        start = time.monotonic()
        one @ two
        times.append(time.monotonic() - start)
    return 2 * 2048**3 / sorted(times)[2]
moving = sum(tensor.numel() for tensor in work.masters.weights().values())
whole = sum(tensor.numel() for tensor in work.model.network.parameters())
print("RESULT", tokens / seconds, peak, (6 * moving + 4 * (whole - moving)) * tokens / seconds, product(torch.float32), product(torch.bfloat16))
"""

TRLS = """
import json, resource, sys, tempfile, time
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer
folder, count, model, dtype, padding_free = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5] == "yes"
adapters = None
if sys.argv[6] == "lora":
    from peft import LoraConfig
    adapters = LoraConfig(r=64, lora_alpha=64, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
rows = [json.loads(line) for line in open(folder + "/tokens.jsonl")]
tokens = [sum(len(row["input_ids"]) for row in rows[start : start + 8]) for start in range(0, len(rows), 8)]
class InOrder(SFTTrainer):
    def _get_train_sampler(self, *args):
        return torch.utils.data.SequentialSampler(self.train_dataset)
class Watch(TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        if state.global_step == 1:
            self.began = time.monotonic()
        if state.global_step == count + 1:
            print("RESULT", sum(tokens[1 : count + 1]) / (time.monotonic() - self.began), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
InOrder(
    peft_config=adapters,
    model=AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)),
    args=SFTConfig(tempfile.mkdtemp(), per_device_train_batch_size=8, max_steps=count + 1, learning_rate=1e-4, report_to=[], save_strategy="no", use_cpu=True,
                   bf16=False, gradient_checkpointing=False, padding_free=padding_free, max_length=None, completion_only_loss=True, logging_steps=100000, disable_tqdm=True),
    train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(model), callbacks=[Watch()],
).train()
"""

LITGPT = """
import json, resource, sys, time
import lightning, torch
from litgpt.utils import chunked_cross_entropy
folder, count, adapters = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "lora"
if adapters:
    from litgpt.lora import GPT, Config, mark_only_lora_as_trainable
    config = Config.from_name("SmolLM2-135M-Instruct", lora_r=64, lora_alpha=64, lora_dropout=0.0, lora_query=True, lora_key=True, lora_value=True,
                              lora_projection=True, lora_mlp=True)
else:
    from litgpt.model import GPT, Config
    config = Config.from_name("SmolLM2-135M-Instruct")
rows = [json.loads(line) for line in open(folder + "/tokens.jsonl")]
fabric = lightning.Fabric(accelerator="cpu", devices=1, precision="bf16-true")
with fabric.init_module():
    model = GPT(config)
if adapters:
    mark_only_lora_as_trainable(model)
model = fabric.setup_module(model)
model.max_seq_length = max(len(row["input_ids"]) for row in rows)
optimizer = fabric.setup_optimizers(torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-4))
tokens = 0
for step in range(count + 1):
    if step == 1:
        began = time.monotonic()
    for row in rows[8 * step : 8 * step + 8]:
        ids = torch.tensor([row["input_ids"]])
        targets = torch.where(torch.tensor([row["completion_mask"]]) == 1, ids, -100)
        if adapters:
            logits = model(ids, lm_head_chunk_size=128)
            logits[-1] = logits[-1][..., :-1, :]
            loss = chunked_cross_entropy(logits, targets[..., 1:])
        else:
            loss = chunked_cross_entropy(model(ids)[..., :-1, :], targets[..., 1:])
        fabric.backward(loss / 8)
        tokens += ids.numel() * (step > 0)
    optimizer.step()
    optimizer.zero_grad()
print("RESULT", tokens / (time.monotonic() - began), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--peer", nargs="*", default=["float32:yes", "float32:no"], help="dtype:padding-free, of TRL")
    parser.add_argument("--litgpt-python", help="a Python with litgpt and lightning; it is then a peer too")
    parser.add_argument("--adaptation", choices=("full", "lora"), default="full")
    parser.add_argument("--out", type=Path, default=Path("runs/sft_speed"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if not (given.out / "tokens.jsonl").exists():
        measure(sys.executable, PREPARE, given.data, given.out, 1)
    from luthier.models.store import resolve

    model = resolve("smollm2-135m").folder
    results = given.out / f"results-{given.adaptation}-{given.steps}.jsonl"
    kept = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for number in range(len(kept), given.rounds):
        speed, peak, operations, *products = figures(sys.executable, OURS, given.out, given.steps, given.adaptation)
        row = {
            "round": number,
            "luthier": speed,
            "memory luthier": peak,
            "share of fp32": operations / products[0],
            "share of bf16": operations / products[1],
        }
        for peer in given.peer:
            dtype, padding_free = peer.split(":")
            words = (given.out, given.steps, model, dtype, padding_free, given.adaptation)
            row[f"trl {peer}"], row[f"memory trl {peer}"] = figures(given.peer_python, TRLS, *words)
        if given.litgpt_python:
            row["litgpt"], row["memory litgpt"] = figures(given.litgpt_python, LITGPT, given.out, given.steps, given.adaptation)
        kept.append(row)
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)
    medians = {name: median(row[name] for row in kept) for name in kept[0] if name != "round"}
    best = max((name for name in medians if name.startswith(("trl", "litgpt"))), key=lambda name: medians[name])
    ratios = {"speed": medians["luthier"] / medians[best], "memory": medians["memory luthier"] / medians[f"memory {best}"]}
    print(json.dumps({"medians": medians, "best peer": best, "ratios": ratios}))
