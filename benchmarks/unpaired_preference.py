"""Single answers beside TRL's KTOTrainer: the same loss and gradients; and pairs torn apart into single answers, to set KTO beside DPO.

    python benchmarks/unpaired_preference.py compare --peer-python PYTHON --out runs/unpaired
    python benchmarks/unpaired_preference.py tear examples/preference/pairs.jsonl runs/unpaired/torn.jsonl && luthier run runs/unpaired/torn.jsonl

`compare`: SmolLM2-135M with weights a little away from its own is the policy and SmolLM2-135M the reference, or the other way round (so that the mean gain of the mismatched answers is once
above and once below 0), all in fp32; answers of `examples/unpaired_preference`, whose mismatched ones are those of the next row, given to TRL as tokens (`--peer-python`: an environment with TRL 1.16).
`tear`: of each pair one answer, in turn the better and the worse one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from classify_speed import measure
from preference import compare

OURS = """
import json, sys
import torch
from safetensors.torch import load_file, save_file
from luthier.core.cache import Cache
from luthier.core.types import Record
from luthier.models.pretrained import load_tokenizer
from luthier.models.referenced import load_referenced
from luthier.models.store import resolve
from luthier.objectives.unpaired_preference import MISMATCHED, UnpairedPreference
data, out, kind, away, count = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5])
base = resolve("smollm2-135m")
spec = UnpairedPreference(loss=kind, desirable_weight=1.25, undesirable_weight=0.75)
lines = sorted(open(data), key=len)[:count]
records = [Record(number, json.loads(line)) for number, line in enumerate(lines, 1)]
at_work = spec.open(load_tokenizer(base), ("prompt", "completion"), "label")
examples = at_work.prepare(records)
with open(out + "/tokens.jsonl", "w") as file:
    for each in spec.model_copy(update={"loss": "kto"}).open(load_tokenizer(base), ("prompt", "completion"), "label").prepare(records):
        asked, other = len(each.facts["prompt"]), each.facts[MISMATCHED]
        file.write(json.dumps({"prompt_ids": each.tokens[:asked], "completion_ids": each.tokens[asked:], "KL_completion_ids": other.tokens[asked:], "label": bool(each.target)}) + "\\n")
model = load_referenced(base, 0.0, trained=False).eval()
kept = {name: value.clone() for name, value in model.network.state_dict().items()}
torch.manual_seed(0)
with torch.no_grad():
    for parameter in model.network.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02 * parameter.std())
moved = {name: value.clone() for name, value in model.network.state_dict().items()}
packed, model.network.config._attn_implementation = model.network.config._attn_implementation, "eager"  # only for the file: TRL knows no other
model.network.save_pretrained(out + "/moved")
model.network.config._attn_implementation = packed
reference, policy = (kept, moved) if away == "policy" else (moved, kept)
model.network.load_state_dict(reference)
at_work.begin(model, examples, Cache())
model.network.load_state_dict(policy)
batch = at_work.collate(examples, 0, 0)
loss = at_work.loss(model, batch)
(loss.total / loss.count).backward()
save_file({name: each.grad.to_dense().contiguous() if each.grad.is_sparse else each.grad for name, each in model.network.named_parameters()}, f"{out}/ours-{kind}-{away}.safetensors")
print("level", float(at_work.zero_of(at_work._score_mismatched(model, batch)[0])), file=sys.stderr)
print("RESULT", loss.total.item() / loss.count)
"""

TRL = """
import json, sys, tempfile
import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer
from trl.trainer.kto_trainer import DataCollatorForUnpairedPreference
out, kind, away, base = sys.argv[1:5]
rows = [json.loads(line) for line in open(out + "/tokens.jsonl")]
class Ready(KTOTrainer):
    def _prepare_dataset(self, dataset, *args, **more):
        return dataset
options = {"dtype": torch.float32, "attn_implementation": "eager"}
paths = (out + "/moved", base) if away == "policy" else (base, out + "/moved")
policy, reference = (AutoModelForCausalLM.from_pretrained(path, **options) for path in paths)
tokenizer = AutoTokenizer.from_pretrained(base)
config = KTOConfig(tempfile.mkdtemp(), per_device_train_batch_size=len(rows), report_to=[], save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, max_length=None,
                   beta=0.1, desirable_weight=1.25, undesirable_weight=0.75, loss_type="kto" if kind == "kto" else "apo_zero_unpaired")
trainer = Ready(model=policy, ref_model=reference, args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
if kind != "kto":
    rows = [{name: value for name, value in row.items() if name != "KL_completion_ids"} for row in rows]
batch = DataCollatorForUnpairedPreference(pad_token_id=tokenizer.pad_token_id or 0)(rows)
trainer.model.eval()
loss = trainer._compute_loss(trainer.model, batch, return_outputs=False)
loss.backward()
save_file({name: each.grad.contiguous() for name, each in trainer.model.named_parameters()}, f"{out}/trl-{kind}-{away}.safetensors")
print("RESULT", loss.item())
"""


def tear(pairs: Path, out: Path) -> None:
    """Of each pair one answer, in turn the better and the worse one."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("w") as file:
        for number, line in enumerate(pairs.read_text().splitlines()):
            row, good = json.loads(line), number % 2 == 0
            file.write(json.dumps({"prompt": row["prompt"], "completion": row["chosen" if good else "rejected"], "label": good}) + "\n")


def compare_with_trl(given: argparse.Namespace) -> None:
    """Loss and gradients, both ways."""
    from luthier.models.store import resolve

    given.out.mkdir(parents=True, exist_ok=True)
    base = resolve("smollm2-135m").folder
    for kind, away in (("kto", "policy"), ("kto", "reference"), ("apo_zero", "policy")):
        ours = measure(sys.executable, OURS, given.data, given.out, kind, away, given.rows)
        theirs = measure(given.peer_python, TRL, given.out, kind, away, base)
        apart, most, length = compare(given.out, f"{kind}-{away}", ("ours", "trl"))
        print(json.dumps({"loss": kind, "moved": away, "luthier": ours, "trl": theirs, "apart": abs(ours - theirs) / theirs,
                          "gradients apart": apart, "largest difference": most, "gradient length": length}), flush=True)  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    compared = verbs.add_parser("compare")
    compared.add_argument("--data", type=Path, default=Path("examples/unpaired_preference/answers.jsonl"))
    compared.add_argument("--peer-python", required=True)
    compared.add_argument("--rows", type=int, default=4, help="the shortest of them")
    compared.add_argument("--out", type=Path, default=Path("runs/unpaired"))
    torn = verbs.add_parser("tear")
    torn.add_argument("pairs", type=Path)
    torn.add_argument("out", type=Path)
    chosen = parser.parse_args()
    if chosen.verb == "tear":
        tear(chosen.pairs, chosen.out)
    else:
        compare_with_trl(chosen)
