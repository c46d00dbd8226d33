"""Word vectors as a base that reads texts: it begins as their average, and what is trained from it is a BERT that anybody reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import luthier
from luthier.core.errors import ModelError
from luthier.families import family_of
from luthier.models.base import Base
from luthier.models.random_base import write_random_base
from luthier.models.store import resolve
from luthier.models.vectors_as_encoder import SPECIAL, as_encoder, make_network, make_tokenizer
from luthier.models.word_vectors import Vocabulary, make_tables
from tests.conftest import rows

WORDS = ["good", "bad", "dog’s", "snake_case", "ünder", "42"]


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path / "home"))


def write(folder: Path, words: list[str], biases: bool = False) -> Base:
    """A folder as word2vec and glove runs leave it."""
    folder.mkdir()
    made = make_tables(len(words), 8, biases, 1)
    with torch.no_grad():
        for table in (made.network.words, made.network.contexts):
            table.weight.normal_(generator=torch.Generator().manual_seed(len(words)))
    (folder / "config.json").write_text(made.network.config.to_json_string())
    save_file(made.network.state_dict(), folder / "model.safetensors")
    Vocabulary(words, [1] * len(words), True, len(words)).save_pretrained(folder)
    return resolve(str(folder))


def test_texts_are_split_as_the_vectors_were_trained() -> None:
    vocabulary = Vocabulary(WORDS, [1] * len(WORDS), True, 6)
    tokenizer = make_tokenizer(vocabulary)
    for text in ("A GOOD dog’s snake_case, (42)\n-Ünder bad_!", "nothing known", ""):
        known = [WORDS[number] for number in vocabulary.encode(text)]
        assert [token for token in tokenizer.tokenize(text) if token != "[UNK]"] == known
        assert len(tokenizer.tokenize(text)) == len(vocabulary.split(text))
    assert tokenizer("good")["input_ids"] == [2, 5, 3]
    assert tokenizer("good", "bad")["token_type_ids"] == [0, 0, 0, 1, 1]


def test_before_anything_is_trained_a_text_is_the_average_of_its_word_vectors() -> None:
    vectors = torch.randn(6, 8, generator=torch.Generator().manual_seed(3))
    network: Any = make_network(vectors).eval()
    tokens = torch.tensor([[2, 5, 7, 5, 1, 3]])  # the first word twice, the third, an unknown one
    norm = torch.nn.functional.layer_norm
    mean = (2 * norm(vectors[0], (8,)) + norm(vectors[2], (8,))) / tokens.shape[1]
    found = network(input_ids=tokens).last_hidden_state[0, 0]
    assert torch.allclose(found, norm(mean, (8,)), atol=1e-3)
    same = {name: bool((weight == make_network(vectors).state_dict()[name]).all()) for name, weight in network.state_dict().items()}
    assert all(same.values())


def test_of_glove_the_sum_of_both_vectors_is_read_and_any_other_base_stays_as_it_is(tmp_path: Path, bases: Any) -> None:
    base = write(tmp_path / "glove", WORDS, biases=True)
    encoder = as_encoder(base)
    assert (encoder.kind, encoder.family, encoder.blocks, encoder.width) == ("vectors", "bert", 1, 8)
    given, made = load_file(base.folder / "model.safetensors"), load_file(encoder.folder / "model.safetensors")
    wanted = given["words.weight"] + given["contexts.weight"]
    assert torch.equal(made["embeddings.word_embeddings.weight"][len(SPECIAL) :], wanted)
    assert as_encoder(base) == as_encoder(encoder) == encoder
    assert encoder.fingerprint == base.fingerprint
    assert as_encoder(bases("bert")) is bases("bert")


def test_a_classifier_is_trained_from_word_vectors_and_its_bundle_needs_them_no_more(
    tmp_path: Path, bases: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "rows.jsonl"
    made = rows(120)
    table.write_text("".join(json.dumps({**row, "text": f"{row['text']} {number}"}) + "\n" for number, row in enumerate(made)))
    words = sorted({word for row in made for word in str(row["text"]).lower().split()})
    base = write(tmp_path / "vectors", words)
    monkeypatch.setattr("luthier.pilot.check.READER", str(bases("bert").folder))
    luthier.check(table, base=str(base.folder))
    run = luthier.run(table, base=str(base.folder), out=tmp_path / "run", set=["training.steps=12"], force=True)
    assert json.loads((run.folder / "bundle" / "config.json").read_text())["model_type"] == "bert"
    for file in base.folder.iterdir():
        file.unlink()
    (answer,) = luthier.predict(run.folder, [made[0]["text"]])
    assert answer["label"] in ("yes", "no")


@pytest.mark.parametrize("adaptation", ["full", "freeze", "gradual", "lora"])
def test_every_adaptation_has_a_learning_rate(tmp_path: Path, adaptation: str) -> None:
    family = family_of("classification")
    assert 0 < family.learning_rate(family.read_base(write(tmp_path / "vectors", WORDS)), adaptation)[0] < 0.1


def test_new_weights_are_drawn_in_the_network_that_reads_them(tmp_path: Path) -> None:
    encoder = family_of("classification").read_base(write(tmp_path / "vectors", WORDS))
    drawn = load_file(write_random_base(encoder, tmp_path / "new", 1) / "model.safetensors")
    given = load_file(encoder.folder / "model.safetensors")
    assert {name: weight.shape for name, weight in drawn.items()} == {name: weight.shape for name, weight in given.items()}
    assert not torch.equal(drawn["embeddings.word_embeddings.weight"], given["embeddings.word_embeddings.weight"])


def test_labels_inside_a_text_are_not_learned_from_word_vectors(tmp_path: Path) -> None:
    base = write(tmp_path / "vectors", WORDS)
    table = tmp_path / "tags.jsonl"
    table.write_text(
        "".join(json.dumps({"tokens": ["good", "dog", str(number)], "labels": ["O", "B-PET", "O"]}) + "\n" for number in range(60))
    )
    with pytest.raises(ModelError, match="is a table of word vectors, and token_labels is trained on an encoder"):
        luthier.run(table, task="token_labels", base=str(base.folder), out=tmp_path / "run")
