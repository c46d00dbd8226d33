"""What PEFT, sentence-transformers and gensim make of a bundle and of an export, each in a process that knows nothing of Luthier and has no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import luthier
from luthier.delivery.exports.word2vec_files import read_binary
from tests.conftest import SELDOM
from tests.delivery.conftest import QUICK, write_rows
from tests.families.cases import word_salad

REFUSE = f"""{SELDOM}
import json, socket, sys
def refuse(*given): raise OSError("the network is off")
for name in ("connect", "connect_ex", "sendto"): setattr(socket.socket, name, refuse)
folder, more, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
"""
SENTENCES = """
from sentence_transformers import SentenceTransformer
print(json.dumps(SentenceTransformer(folder, device="cpu").encode(texts).tolist()))
"""
CLASSES = """
import torch, transformers
from peft import PeftModel
base = transformers.AutoModelForSequenceClassification.from_pretrained(more, num_labels=2)
network = PeftModel.from_pretrained(base, folder + "/adapter").eval()
read = transformers.AutoTokenizer.from_pretrained(folder)
with torch.no_grad():
    print(json.dumps([network(**read(text, return_tensors="pt")).logits[0].tolist() for text in texts]))
"""
CHAT = """
import torch, transformers
from peft import PeftModel
base = transformers.AutoModelForCausalLM.from_pretrained(more)
network = PeftModel.from_pretrained(base, folder + "/adapter").eval()
read = transformers.AutoTokenizer.from_pretrained(folder)
answers = []
for text in texts:
    request = read.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, return_tensors="pt", return_dict=True)
    made = network.generate(**request, max_new_tokens=8, do_sample=False)
    answers.append(read.decode(made[0, request["input_ids"].shape[1]:], skip_special_tokens=True).strip())
print(json.dumps(answers))
"""
WORDS = """
from gensim.models import KeyedVectors
read = [KeyedVectors.load_word2vec_format(folder + "/" + name, binary=name.endswith("bin")) for name in ("vectors.bin", "vectors.txt")]
print(json.dumps([[each.index_to_key, each.vectors.tolist(), [word for word, _ in each.most_similar(texts[0], topn=3)]] for each in read]))
"""
LIBRARY = "import sys; assert not any(name.startswith('luthier') for name in sys.modules)"
TEXTS = ["the phone was great", "an awful meal", "I WOULD not, ever; go back!"]
needs_peft = pytest.mark.skipif(find_spec("peft") is None, reason="peft is not installed")
needs_sentences = pytest.mark.peer(find_spec("sentence_transformers") is not None, "sentence-transformers")
needs_gensim = pytest.mark.peer(find_spec("gensim") is not None, "gensim")


def run_alone(program: str, folder: Path, more: str, texts: list[str]) -> Any:
    """What a program says in a process of its own, which cannot reach a hub."""
    command = [sys.executable, "-I", "-c", REFUSE + program + LIBRARY, str(folder), more, json.dumps(texts)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr[-1000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


@needs_sentences
@pytest.mark.parametrize("of", ["bundle", "export"])
def test_sentence_transformers_gives_the_vectors_that_predict_gives(runs: Any, tmp_path: Path, of: str) -> None:
    run = runs("vectors")
    folder = run.folder / "bundle"
    if of == "export":
        folder = luthier.export(run.folder, to="sentence-transformers", out=tmp_path / "out", most=3).folder
    ours = [row["vector"] for row in luthier.predict(run.folder, TEXTS)]
    assert np.abs(np.array(run_alone(SENTENCES, folder, "", TEXTS)) - ours).max() < 1e-5


@needs_gensim
def test_gensim_reads_the_words_the_vectors_and_what_is_near_from_both_files(tmp_path: Path) -> None:
    changes = ["objective.width=8", "objective.least_count=1", "training.batch_size=1", "training.steps=2"]
    run = luthier.run(write_rows(tmp_path, word_salad()), task="glove", out=tmp_path / "run", set=changes, force=True)
    folder = luthier.export(run.folder, to="word2vec", out=tmp_path / "out").folder
    words, vectors = read_binary(folder / "vectors.bin")
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    nearest = [words[index] for index in np.argsort(-(directions @ directions[0])) if index][:3]
    for their_words, their_vectors, near in run_alone(WORDS, folder, "", [words[0]]):
        assert their_words == words and np.allclose(their_vectors, vectors, atol=1e-5) and near == nearest


@needs_peft
def test_peft_puts_the_shipped_adapter_of_a_classifier_onto_its_base_and_gives_the_same_probabilities(bases: Any, tmp_path: Path) -> None:
    rows = [{"text": f"{text} {number}", "label": label} for number in range(60) for text, label in (("great", "good"), ("awful", "bad"))]
    base = bases("bert").folder
    changes = [*QUICK, "adaptation.kind=lora", "training.ships=trained", "training.dtype=float32"]
    run = luthier.run(write_rows(tmp_path, rows), base=str(base), out=tmp_path / "run", set=changes, force=True)
    logits = np.array(run_alone(CLASSES, run.folder / "bundle", str(base), TEXTS))
    labels = json.loads((run.folder / "bundle" / "luthier.json").read_text())["objective"]["labels"]
    for ours, theirs in zip(luthier.predict(run.folder, TEXTS), logits, strict=True):
        shares = np.exp(theirs - theirs.max())
        assert dict(zip(labels, shares / shares.sum(), strict=True)) == pytest.approx(ours["probabilities"], abs=1e-6)


@needs_peft
def test_peft_puts_the_shipped_adapter_of_a_chat_model_onto_its_base_and_writes_the_same_answers(runs: Any, bases: Any) -> None:
    run = runs("chat")
    ours = [row["text"] for row in luthier.predict(run.folder, TEXTS, limit=8)]
    assert any(ours)
    assert run_alone(CHAT, run.folder / "bundle", str(bases("llama").folder), TEXTS) == ours
