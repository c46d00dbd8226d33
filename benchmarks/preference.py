"""Preference pairs beside TRL's DPOTrainer: the same loss and gradients, and tokens a second, alternating on the same tokens.

    python benchmarks/preference.py --data DIR --peer-python PYTHON [--quick] --out runs/preference

Loss and gradients: SmolLM2-135M with weights a little away from its own is the policy, SmolLM2-135M the reference, in fp32 and in fp64, where rounding is no excuse; DPO as in equation 7 of Rafailov et al. 2023
(TRL: sigmoid), IPO as in equation 17 of Azar et al. 2023 over mean log-probabilities (TRL: ipo). Speed: adapters of rank 64 on every linear layer, 8 pairs a step, in order;
TRL with reference log-probabilities computed beforehand, in an environment of its own (`--peer-python`). Tokens are those of both sides of a pair without padding.
Reads `llamafactory_demo/dpo_en_demo.json` of DIR.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import median

from classify_speed import figures, measure

PREPARE = """
import json, sys
import torch
from luthier.core.types import Record
from luthier.data.pairs import pair_of
from luthier.models.pretrained import load_generator, load_tokenizer
from luthier.models.store import resolve
from luthier.objectives.preference import Preference
data, out, count, longest = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rows = [row for row in json.load(open(data + "/llamafactory_demo/dpo_en_demo.json"))]
kept = []
for row in rows:
    try:
        pair = pair_of(row, ("conversations",))
    except ValueError:
        continue
    kept.append({"prompt": pair.prompt, "chosen": pair.answers[0], "rejected": pair.answers[1]})
base = resolve("smollm2-135m")
records = [Record(number, row) for number, row in enumerate(kept, 1)]
examples = [each for each in Preference(max_length=4096).open(load_tokenizer(base), ("prompt",), "chosen").prepare(records) if each.size <= 2 * longest][:count]
with open(out + "/rows.jsonl", "w") as file:
    file.writelines(json.dumps(dict(each.record.values)) + "\\n" for each in examples)
with open(out + "/tokens.jsonl", "w") as file:
    for each in examples:
        start, asked = each.inputs["place"].index(0, 1), len(each.facts["prompt"])
        file.write(json.dumps({"prompt_ids": each.tokens[:asked], "chosen_ids": each.tokens[asked:start], "rejected_ids": each.tokens[start + asked :]}) + "\\n")
network = load_generator(base, 0.0).network
torch.manual_seed(0)
with torch.no_grad():
    for parameter in network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02 * parameter.std())
network.config._attn_implementation = "eager"
network.save_pretrained(out + "/policy")
print("RESULT", len(examples))
"""

OUR_LOSS = """
import json, sys
import torch
from safetensors.torch import save_file
from luthier.core.cache import Cache
from luthier.core.types import Record
from luthier.models.precision import round_weights_to
from luthier.models.pretrained import load_tokenizer
from luthier.models.referenced import load_referenced
from luthier.models.store import resolve
from luthier.objectives.preference import Preference
out, kind, count, dtype = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
base = resolve("smollm2-135m")
at_work = Preference(loss=kind, max_length=4096).open(load_tokenizer(base), ("prompt",), "chosen")
examples = at_work.prepare([Record(number, json.loads(line)) for number, line in enumerate(open(out + "/rows.jsonl"), 1)][:count])
policy = load_referenced(base, 0.0, trained=False)
round_weights_to(policy, getattr(torch, dtype))
at_work.begin(policy, examples, Cache())
from safetensors.torch import load_file
policy.network.load_state_dict(load_file(out + "/policy/model.safetensors"), strict=False)
loss = at_work.loss(policy.eval(), at_work.collate(examples, 0, 0))
(loss.total / loss.count).backward()
save_file({name: each.grad.to_dense().contiguous() if each.grad.is_sparse else each.grad for name, each in policy.network.named_parameters()}, f"{out}/ours-{dtype}-{kind}.safetensors")
print("RESULT", loss.total.item() / loss.count)
"""

TRL_TRAINER = """
import json, sys, tempfile
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
rows = [json.loads(line) for line in open(sys.argv[1] + "/tokens.jsonl")]
def config(**more):
    return DPOConfig(tempfile.mkdtemp(), per_device_train_batch_size=8, report_to=[], save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False,
                     max_length=None, beta=0.1, logging_steps=100000, disable_tqdm=True, **more)
class Ready(DPOTrainer):
    def _prepare_dataset(self, dataset, *args, **more):
        return dataset
    def _get_train_sampler(self, *args):
        return torch.utils.data.SequentialSampler(self.train_dataset)
"""

TRL_LOSS = (
    TRL_TRAINER
    + """
from safetensors.torch import save_file
out, kind, count, base = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
options = {"dtype": getattr(torch, sys.argv[6]), "attn_implementation": sys.argv[5]}
policy = AutoModelForCausalLM.from_pretrained(out + "/policy", **options)
reference = AutoModelForCausalLM.from_pretrained(base, **options)
tokenizer = AutoTokenizer.from_pretrained(base)
trainer = Ready(model=policy, ref_model=reference, args=config(loss_type=["sigmoid" if kind == "dpo" else kind]), train_dataset=Dataset.from_list(rows[:count]),
                processing_class=tokenizer)
batch = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id or 0)(rows[:count])
trainer.model.eval()
loss = trainer._compute_loss(trainer.model, batch, return_outputs=False)
loss.backward()
save_file({name: each.grad.contiguous() for name, each in trainer.model.named_parameters()}, f"{out}/{sys.argv[5]}-{sys.argv[6]}-{kind}.safetensors")
print("RESULT", loss.item())
"""
)

OUR_SPEED = """
import json, resource, sys, time
from luthier.core.types import Record
from luthier.experiment import Experiment
from luthier.models.pretrained import load_tokenizer
from luthier.models.store import resolve
from luthier.training.assemble import assemble
from luthier.training.devices import decide_device_fields, configure_torch
from luthier.training.steps import steps
configure_torch()
out, count, dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3]
base = resolve("smollm2-135m")
records = [Record(number, json.loads(line)) for number, line in enumerate(open(out + "/rows.jsonl"), 1)]
experiment = decide_device_fields(Experiment.of({
    "data": {"path": "rows.jsonl", "task": "preference", "input": ["prompt"], "target": "chosen"}, "objective": {"kind": "preference", "max_length": 4096},
    "model": {"base": base.name, "dropout": 0.0}, "adaptation": {"kind": "lora"}, "optimizer": {"kind": "adamw", "lr": 5e-5}, "schedule": {"kind": "linear"},
    "training": {"batch_size": 8, "steps": count + 1, "dtype": dtype},
}), base)
began = time.monotonic()
work = assemble(experiment, base, load_tokenizer(base), {"train": records, "validation": records[:1]})
before, tokens = time.monotonic() - began, 0
for step in steps(work):
    if step.number == 1:
        began = time.monotonic()
    else:
        tokens += step.tokens
print("RESULT", tokens / (time.monotonic() - began), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, before)
"""

TRL_SPEED = (
    TRL_TRAINER
    + """
import resource, time
from peft import LoraConfig
from transformers import TrainerCallback
count, base, dtype = int(sys.argv[2]), sys.argv[3], sys.argv[4]
sizes = [2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows]
tokens = [sum(sizes[start : start + 8]) for start in range(0, len(rows), 8)]
class Watch(TrainerCallback):
    def on_step_end(self, args, state, control, **more):
        if state.global_step == 1:
            self.began = time.monotonic()
        if state.global_step == count + 1:
            print("RESULT", sum(tokens[1 + step % (len(tokens) - 1)] for step in range(count)) / (time.monotonic() - self.began), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
Ready(
    model=AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype)),
    args=config(max_steps=count + 1, learning_rate=5e-5, precompute_ref_log_probs=True),
    train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(base), callbacks=[Watch()],
    peft_config=LoraConfig(r=64, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"),
).train()
"""
)


def compare(out: Path, kind: str, names: tuple[str, str]) -> tuple[float, float, float]:
    """How far two gradients are apart: the share of the second's length, the largest single difference, and that length."""
    from safetensors.torch import load_file

    one, other = ({name: value.double() for name, value in load_file(out / f"{who}-{kind}.safetensors").items()} for who in names)
    shared = sorted(one.keys() & other.keys())
    apart = sum(float((one[name] - other[name]).square().sum()) for name in shared) ** 0.5
    whole = sum(float(other[name].square().sum()) for name in shared) ** 0.5
    return apart / whole, max(float((one[name] - other[name]).abs().max()) for name in shared), whole


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--quick", action="store_true", help="few short pairs and steps, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--dtype", nargs="*", default=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, default=Path("runs/preference"))
    given = parser.parse_args()
    rounds, count, pairs, longest, compared = (
        (1, 1, 16, 200, 2) if given.quick else (given.rounds, given.steps, 8 * (given.steps + 1), 1024, 8)
    )
    dtypes = given.dtype[:1] if given.quick else given.dtype
    given.out.mkdir(parents=True, exist_ok=True)
    if not (given.out / "policy" / "model.safetensors").exists():
        measure(sys.executable, PREPARE, given.data, given.out, pairs, longest)
    from luthier.models.store import resolve

    base = resolve("smollm2-135m").folder
    results = given.out / "results.jsonl"
    kept = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []

    def keep(row: dict[str, object]) -> None:
        kept.append(row)
        with results.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    for kind in ("dpo", "ipo"):
        if not any(row.get("loss") == kind for row in kept):
            row: dict[str, object] = {"loss": kind}
            for dtype, count_of in (("float32", compared), ("float64", 1)):  # two pairs in fp64 take TRL more than 20 GB
                ours = measure(sys.executable, OUR_LOSS, given.out, kind, count_of, dtype)
                theirs = {
                    name: measure(given.peer_python, TRL_LOSS, given.out, kind, count_of, base, name, dtype) for name in ("sdpa", "eager")
                }
                apart, most, length = compare(given.out, kind, (f"ours-{dtype}", f"sdpa-{dtype}"))
                row[dtype] = {"luthier": ours, "trl": theirs["sdpa"], "apart": abs(ours - theirs["sdpa"]) / theirs["sdpa"],
                              "gradients apart": apart, "largest difference": most, "gradient length": length,
                              "trl's two attentions apart": compare(given.out, kind, (f"eager-{dtype}", f"sdpa-{dtype}"))[0]}  # fmt: skip
            keep(row)
    for number in range(rounds):
        for dtype in dtypes:
            if any(row.get("round") == number and row["dtype"] == dtype for row in kept):
                continue
            speed, peak, before = figures(sys.executable, OUR_SPEED, given.out, count, dtype)
            other, other_peak = figures(given.peer_python, TRL_SPEED, given.out, count, base, dtype)
            keep(
                {
                    "round": number,
                    "dtype": dtype,
                    "luthier": speed,
                    "memory luthier": peak,
                    "reference": before,
                    "trl": other,
                    "memory trl": other_peak,
                }
            )
    speeds = [row for row in kept if "round" in row]
    best = {name: max(median(row[name] for row in speeds if row["dtype"] == dtype) for dtype in dtypes) for name in ("luthier", "trl")}
    print(json.dumps({"best": best, "ratio": best["luthier"] / best["trl"]}))
