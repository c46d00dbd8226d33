"""Old training bugs, planted in TRL's trainer as a user would have them: what does TRL itself say?

The proofs' side of the comparison is `tests/training/test_prove.py`. TRL runs in an environment of its own (`--peer-python`, with trl and
transformers) on a small random Llama with the tokenizer of a real base. What it says of the healthy configuration is not counted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

from luthier.models.store import resolve

TRL = r"""
import copy, dataclasses, io, json, logging, sys, tempfile, warnings, contextlib
import torch
from datasets import Dataset
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import SFTConfig, SFTTrainer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
end = tokenizer.eos_token_id
rows = [(f"what is {number} and {number + 1}, please say it slowly?", f"it is {2 * number + 1}, I think") for number in range(32)]
talk = [{"prompt": [{"role": "user", "content": asked}], "completion": [{"role": "assistant", "content": said}]} for asked, said in rows]

def tokens(asked, said):
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": asked}], add_generation_prompt=True, tokenize=False)
    one, two = tokenizer(prompt)["input_ids"], tokenizer(said + tokenizer.eos_token + "\n")["input_ids"]
    return one, two

def ready(change):
    found = []
    for asked, said in rows:
        one, two = tokens(asked, said)
        ids, mask = change(one, two)
        found.append({"input_ids": ids, "completion_mask": mask})
    return found

plain = lambda one, two: (one + two, [0] * len(one) + [1] * len(two))
def lost(name, *values):
    def loss(outputs, labels, num_items_in_batch=None):
        logits = outputs.logits.float()
        if name == "means":
            return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        by = {"unshifted": 0, "twice": 2}[name]
        return torch.nn.functional.cross_entropy(logits[:, : logits.shape[1] - by].flatten(0, 1), labels[:, by:].flatten(), ignore_index=-100)
    return loss

def twice(row):
    asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
    return {**row, "prompt": [{"role": "user", "content": asked}]}

def detached(trainer):
    own = trainer.model.model.forward
    def forward(*given, **more):
        found = own(*given, **more)
        found.last_hidden_state = found.last_hidden_state.detach()
        return found
    trainer.model.model.forward = forward

def slipped(trainer):
    own = trainer.data_collator
    trainer.data_collator = lambda rows: (lambda batch: {**batch, "labels": batch["labels"].roll(1, 0)})(own(rows))

def elsewhere(trainer):
    trainer.optimizer = torch.optim.AdamW(copy.deepcopy(trainer.model).parameters(), lr=1e-3)

CASES = {
    "healthy": dict(),
    "healthy, rows as tokens": dict(data=ready(plain)),
    "the template is applied twice": dict(data=[twice(row) for row in talk]),
    "the response marker is found too late": dict(data=ready(lambda one, two: (one + two, [0] * (len(one) + 1) + [1] * (len(two) - 1)))),
    "the response marker is found too early": dict(data=ready(lambda one, two: (one + two, [0] * (len(one) - 3) + [1] * (len(two) + 3)))),
    "the end token is masked because it is also padding": dict(data=ready(lambda one, two: (one + two, [0] * len(one) + [int(token != end) for token in two]))),
    "the end token is missing": dict(data=ready(lambda one, two: (one + two[:-2], [0] * len(one) + [1] * (len(two) - 2)))),
    "the beginning stands twice": dict(data=ready(lambda one, two: (one[:1] + one + two, [0] * (len(one) + 1) + [1] * len(two)))),
    "the prompt is learned": dict(options=dict(completion_only_loss=False)),
    "everything is masked": dict(data=ready(lambda one, two: (one + two, [0] * (len(one) + len(two))))),
    "long rows lose their answers": dict(options=dict(max_length=12)),
    "a line end is lost between prompt and answer": dict(data=ready(lambda one, two: (one[:-1] + two, [0] * (len(one) - 1) + [1] * len(two)))),
    "prompt and answer meet in the middle of a token": dict(data=[{"prompt": asked + " the answer: ", "completion": said} for asked, said in rows]),
    "packed rows are cut anywhere": dict(options=dict(packing=True, packing_strategy="wrapped", max_length=128)),
    "the mean of means": dict(options=dict(gradient_accumulation_steps=4, per_device_train_batch_size=2), loss=lost("means")),
    "labels are not shifted": dict(loss=lost("unshifted")),
    "labels are shifted twice": dict(loss=lost("twice")),
    "evaluation counts the prompt": dict(held=[{"messages": row["prompt"] + row["completion"]} for row in talk]),
    "the gradient is lost": dict(patch=detached),
    "labels slip against their rows": dict(patch=slipped),
    "the update is lost": dict(patch=elsewhere),
}
heard = {}
class Ear(logging.Handler):
    def emit(self, record):
        lines.append(record.getMessage())
for name in ("trl", "transformers", "accelerate", "datasets"):
    logger = logging.getLogger(name)
    logger.setLevel(logging.WARNING)
    logger.handlers = [Ear()]
for case, plan in CASES.items():
    lines = []
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                                         pad_token_id=tokenizer.pad_token_id, eos_token_id=end, bos_token_id=tokenizer.bos_token_id))
    stopped = ""
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as out:
        warnings.simplefilter("always")
        try:
            options = {"per_device_train_batch_size": 8, "max_steps": 2, "report_to": [], "use_cpu": True, "save_strategy": "no", "bf16": False, "disable_tqdm": True, **plan.get("options", {})}
            more = {"compute_loss_func": plan["loss"]} if "loss" in plan else {}
            held = Dataset.from_list(plan.get("held", plan.get("data", talk)))
            trainer = SFTTrainer(model=model, args=SFTConfig(out, **options), train_dataset=Dataset.from_list(plan.get("data", talk)), eval_dataset=held, processing_class=copy.deepcopy(tokenizer), **more)
            plan.get("patch", lambda trainer: None)(trainer)
            trainer.train()
            trainer.evaluate()
        except Exception as problem:
            stopped = f"{type(problem).__name__}: {problem}"
    heard[case] = {"said": lines + [str(each.message) for each in caught if issubclass(each.category, (UserWarning, RuntimeWarning))], "stopped": stopped}
usual = {line[:60] for case in ("healthy", "healthy, rows as tokens") for line in heard[case]["said"]}
for case, found in heard.items():
    if not case.startswith("healthy"):
        said = [line for line in dict.fromkeys(found["said"]) if line[:60] not in usual]
        print("RESULT", json.dumps({"bug": case, "said": said[:3], "stopped": found["stopped"][:300]}))
    elif found["stopped"]:
        raise SystemExit(f"{case} stopped: {found['stopped']}")
"""

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer-python", required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        script = Path(place) / "trl_side.py"
        script.write_text(TRL)
        done = subprocess.run(
            [given.peer_python, str(script), str(resolve("smollm2-135m").folder)], capture_output=True, text=True, check=False
        )
    found = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not found:
        raise SystemExit(done.stderr[-3000:])
    for each in found:
        print(json.dumps(each))
    told = [each["bug"] for each in found if each["said"] or each["stopped"]]
    print(json.dumps({"bugs": len(found), "spoken_of": len(told), "which": told}))
