"""Causal language modelling: what is predicted, what it loses, who is refused, and which planted bugs are caught by name."""

from __future__ import annotations

import lzma
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import luthier
from luthier.core.errors import DataError, ExperimentError, ModelError
from luthier.core.types import Batch, Record
from luthier.data.blocks import Blocks, Encoded, join_blocks
from luthier.data.spec import Data
from luthier.evaluation.baselines import BaselineContext
from luthier.experiment import Experiment
from luthier.families import causal_lm_defaults, family_of
from luthier.families.causal_lm import n_grams, xz
from luthier.families.recognise import load_dataset
from luthier.models.causal import inner_width, make_bpe, make_generator, parameters
from luthier.objectives.causal_lm import SEPARATOR, CausalLm, CausalLmObjective
from luthier.studies.defaults import starting_experiment
from luthier.training.assemble import assemble
from luthier.training.devices import decide_device_fields
from luthier.training.prove import find_disproved, prove
from tests.conftest import rows
from tests.families.cases import CASES

TEXTS = [f"{row['text']}, {row['label']} 😀 naïve\nand so on\n" for row in rows()]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_bpe(TEXTS, 300, SEPARATOR)


def objective(tokenizer: Any, **fields: Any) -> CausalLmObjective:
    return CausalLm(**{"context": 16, **fields}).open(tokenizer, ("text",), None)


def blocks(at_work: CausalLmObjective, texts: list[str] = TEXTS) -> Any:
    return at_work.prepare([Record(number, {"text": text}) for number, text in enumerate(texts, 1)])


def tiny(context: int = 16) -> Any:
    return make_generator(300, 2, 32, 2, context, 0.0, 1).eval()


def test_a_network_of_zeros_loses_the_logarithm_of_its_vocabulary(tokenizer) -> None:
    at_work, model = objective(tokenizer), tiny()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    loss = at_work.loss(model, at_work.collate(blocks(at_work)[:8], 1, 0))
    assert float(loss.total.detach()) / loss.count == pytest.approx(math.log(300), rel=1e-5)


def test_loss_and_gradients_are_those_of_plain_torch(tokenizer) -> None:
    at_work, ours, plain = objective(tokenizer), tiny(), tiny()
    some = blocks(at_work)[:5]
    loss = at_work.loss(ours, at_work.collate(some, 1, 0))
    loss.total.backward()
    plain.network.set_attn_implementation("eager")
    total = torch.zeros(())
    for block in some:
        tokens, following = (torch.from_numpy(part.astype(np.int64)) for part in (block.tokens, block.target))
        total = total + cross_entropy(plain.network(input_ids=tokens[None]).logits[0], following, reduction="sum")
    total.backward()
    assert float(loss.total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    for (name, one), (_, other) in zip(ours.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.allclose(one.grad.to_dense(), other.grad, atol=1e-4), name


def test_the_blocks_of_a_document_predict_each_of_its_tokens_once(tokenizer) -> None:
    at_work = objective(tokenizer)
    found = blocks(at_work)
    for number, text in enumerate(TEXTS):
        own = [block for block in found if block.facts["document"] == number]
        tokens = tokenizer(text)["input_ids"]
        assert np.concatenate([block.target for block in own]).tolist() == [*tokens, at_work.end]
        assert own[0].tokens[0] == at_work.before
        assert sum(block.facts["bytes"] for block in own) == len(text.encode())
        assert all(block.size <= 16 for block in own)
    assert [part.tolist() for part in join_blocks(found)][3] == [at_work.before, *tokenizer(TEXTS[3])["input_ids"], at_work.end]


def test_passages_have_no_end(tokenizer) -> None:
    at_work = objective(tokenizer, ends=False)
    last = [block for block in blocks(at_work) if block.facts["document"] == 0][-1]
    assert last.target[-1] == tokenizer(TEXTS[0])["input_ids"][-1]


def test_a_long_text_is_encoded_piece_by_piece_as_it_would_be_whole(tokenizer, monkeypatch) -> None:
    at_work, text = objective(tokenizer), "".join(TEXTS)
    whole = at_work.encode(text)
    monkeypatch.setattr("luthier.data.blocks.PIECE", 50)
    parts = at_work.encode(text)
    assert np.array_equal(whole.tokens, parts.tokens)
    assert np.array_equal(whole.bytes, parts.bytes)
    assert whole.tokens[1:-1].tolist() == tokenizer(text)["input_ids"]


def test_many_tokens_stay_in_a_file_and_examples_are_made_when_they_are_asked_for(tokenizer, monkeypatch) -> None:
    at_work = objective(tokenizer)
    small = blocks(at_work)
    monkeypatch.setattr("luthier.data.blocks.IN_MEMORY", 0)
    large = blocks(at_work)
    assert isinstance(large, Blocks) and isinstance(large.tokens, np.memmap)
    assert len(large) == len(small)
    assert all(one.tokens.tolist() == other.tokens.tolist() and one.facts == other.facts for one, other in zip(small, large, strict=True))
    assert large[-1].index == len(large) - 1
    with pytest.raises(IndexError):
        large[len(large)]


def test_an_interval_draws_whole_documents(tokenizer) -> None:
    from luthier.evaluation.compare import interval
    from luthier.evaluation.score import score

    at_work = objective(tokenizer)
    found = score(tiny(), at_work, blocks(at_work))
    assert found.rows == len(TEXTS) < len(found.loss)
    one = replace(found, groups=np.zeros(len(found.loss), dtype=int))  # one document: nothing is left to chance
    low, high = interval("bits_per_byte", one)
    assert low == high
    low, high = interval("bits_per_byte", found)
    assert low < high


def test_the_size_of_a_network_is_what_it_is_said_to_be() -> None:
    model = make_generator(300, 3, 64, 2, 16, 0.0, 1)
    body = [each for name, each in model.network.named_parameters() if "embed" not in name and "norm" not in name]
    assert sum(each.numel() for each in body) == parameters(3, 64)
    assert inner_width(192) == 512
    assert CausalLm(depth=4).size == (256, 4)
    assert CausalLm(depth=4, width=128, heads=4).size == (128, 4)


def test_learning_rate_and_batch_follow_the_step_law() -> None:
    rate, tokens = causal_lm_defaults.step_law(1e9, 2e10)
    assert rate == pytest.approx(1.79 * 1e9**-0.713 * 2e10**0.307)
    assert tokens == pytest.approx(0.58 * 2e10**0.571)
    assert causal_lm_defaults.step_law(1e6, 1e6)[0] == causal_lm_defaults.HIGHEST_RATE


# rows


def novel(folder: Path, name: str = "novel.txt", lines: int = 900) -> Path:
    file = folder / name
    file.write_text("".join(f"Line {number} of {name}: the {TEXTS[number % 60].splitlines()[0]}.\n" for number in range(lines)))
    return file


def test_one_document_becomes_passages_whose_last_ones_are_tested(tmp_path) -> None:
    file = novel(tmp_path)
    dataset = load_dataset(Data(path=str(file), task="causal_lm"), checks=())
    parts = {part: [record.values["text"] for record in records] for part, records in dataset.records.items()}
    assert "".join(parts["train"] + parts["validation"] + parts["test"]) == file.read_text()
    assert len(parts["test"]) >= 20
    assert all(text.endswith("\n") for text in parts["train"])
    family = family_of("causal_lm")
    assert not family.fit_spec(CausalLm(), dataset).ends


def test_a_folder_of_many_documents_is_split_by_documents(tmp_path) -> None:
    for number in range(40):
        novel(tmp_path, f"{number}.txt", 20 + number)
    dataset = load_dataset(Data(path=str(tmp_path), task="causal_lm"), checks=())
    assert dataset.count == 40
    assert family_of("causal_lm").fit_spec(CausalLm(), dataset).ends


def test_bytes_that_are_no_utf8_and_ends_of_lines_of_other_systems_are_read(tmp_path) -> None:
    plain = novel(tmp_path).read_text()
    (tmp_path / "dos.txt").write_bytes(plain.replace("\n", "\r\n").encode())
    (tmp_path / "marked.txt").write_bytes(b"\xef\xbb\xbf" + plain.encode())
    for name in ("dos.txt", "marked.txt"):
        dataset = load_dataset(Data(path=str(tmp_path / name), task="causal_lm"), checks=())
        assert "".join(record.values["text"] for part in ("train", "validation", "test") for record in dataset.records[part]) == plain


def test_too_little_text_is_refused_with_what_would_do(tmp_path) -> None:
    file = tmp_path / "note.txt"
    file.write_text("a short note\n" * 20)
    with pytest.raises(DataError, match="1 document with 260 characters") as caught:
        load_dataset(Data(path=str(file), task="causal_lm"))
    assert "more text" in caught.value.remedy


def test_a_vocabulary_that_the_text_does_not_fill_is_refused_with_the_one_that_it_does(tmp_path) -> None:
    dataset = load_dataset(Data(path=str(novel(tmp_path)), task="causal_lm"), checks=())
    with pytest.raises(DataError, match=r"hold [\d,]+ different tokens, and objective.vocabulary=60000 were asked for") as caught:
        family_of("causal_lm").load_processor(None, CausalLm(vocabulary=60_000), dataset)
    assert caught.value.exit_code == 2
    enough = int(caught.value.remedy.rpartition("=")[2])
    assert len(family_of("causal_lm").load_processor(None, CausalLm(vocabulary=enough), dataset)) == enough


def test_a_target_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="learns from the texts alone"):
        load_dataset(Data(path=str(novel(tmp_path)), task="causal_lm", target="file"))


def test_an_encoder_is_refused_as_a_base(bases, tmp_path) -> None:
    with pytest.raises(ModelError, match="is an encoder"):
        family_of("causal_lm").load(CausalLm(), Experiment.model_fields["model"].default_factory(), bases("bert"), 1)  # type: ignore[misc,call-arg]


def test_a_width_that_no_heads_divide_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be divided among 3 heads"):
        family_of("causal_lm").load(CausalLm(width=40, heads=3), Experiment.model_fields["model"].default_factory(), None, 1)  # type: ignore[misc,call-arg]


def test_a_tokenizer_without_an_end_is_refused(tokenizer) -> None:
    from transformers import PreTrainedTokenizerFast

    with pytest.raises(ExperimentError, match="no token that ends a text"):
        CausalLm().open(PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer), ("text",), None)


# baselines


def test_n_grams_are_chen_and_goodmans_and_add_up_to_one() -> None:
    from luthier.evaluation.ngrams import KneserNey

    random = np.random.default_rng(0)
    documents = [np.concatenate([[0], random.zipf(1.5, 200) % 12 + 1]) for _ in range(4)]
    model = KneserNey(documents, 13, order=2)
    pairs, alone = {}, {}
    for document in documents:
        for one, two in zip(document[:-1].tolist(), document[1:].tolist(), strict=True):
            pairs[one, two] = pairs.get((one, two), 0) + 1
    for _, two in pairs:
        alone[two] = alone.get(two, 0) + 1

    def discounts(counts: Any) -> list[float]:
        n = [sum(count == size for count in counts) for size in (1, 2, 3, 4)]
        y = n[0] / max(n[0] + 2 * n[1], 1)
        return [
            0,
            *(
                float(np.clip(size - (size + 1) * y * n[size] / n[size - 1] if n[size - 1] else size / 2, 0.05, size - 0.05))
                for size in (1, 2, 3)
            ),
        ]

    d1, d2 = discounts(alone.values()), discounts(pairs.values())

    def one(token: int) -> float:
        total = sum(alone.values())
        left = sum(d1[min(count, 3)] for count in alone.values())
        count = alone.get(token, 0)
        return (max(count - d1[min(count, 3)], 0) + left / 13) / total

    def two(context: int, token: int) -> float:
        own = {pair: count for pair, count in pairs.items() if pair[0] == context}
        count, total = own.get((context, token), 0), sum(own.values())
        left = sum(d2[min(count, 3)] for count in own.values())
        return (max(count - d2[min(count, 3)], 0) + left * one(token)) / total

    for context in (0, 1, 2):
        found = [math.exp(-model.losses(np.array([context, token]))[0]) for token in range(13)]
        assert found == pytest.approx([two(context, token) for token in range(13)], rel=1e-9)
        assert sum(found) == pytest.approx(1.0, rel=1e-9)


def test_xz_takes_behind_the_training_text_what_it_takes_more_with_it(tokenizer) -> None:
    at_work = objective(tokenizer)
    parts = blocks(at_work, TEXTS[:40]), blocks(at_work, TEXTS[40:50]), blocks(at_work, TEXTS[50:])
    context = BaselineContext(("text",), 0, tokenizer, at_work)
    found = xz(parts[0], parts[1], context).score(parts[2])
    before, text = ("\n".join(TEXTS[:40]).encode(), "".join(TEXTS[50:]).encode())
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 1 << 16}]
    more = len(lzma.compress(before + text, lzma.FORMAT_RAW, filters=filters)) - len(
        lzma.compress(before, lzma.FORMAT_RAW, filters=filters)
    )
    assert float(found.loss.sum()) / math.log(2) == pytest.approx(8 * more, rel=1e-6)
    assert found.bytes is not None and float(found.bytes.sum()) == len(text)
    assert float(n_grams(parts[0], parts[1], context).score(parts[2]).loss.sum()) < float(found.loss.sum())


# planted bugs


@pytest.fixture(scope="module")
def novels(tmp_path_factory) -> Any:
    return load_dataset(Data(path=str(novel(tmp_path_factory.mktemp("novels"))), task="causal_lm"), checks=())


def find_failed(dataset: Any) -> set[str]:
    """The proofs that fail on a tiny run over these rows."""
    family = family_of("causal_lm")
    experiment, _ = starting_experiment(dataset, None, 1, scratch=True)
    small = ("vocabulary=300", "depth=2", "width=32", "heads=2", "context=16")
    experiment = decide_device_fields(
        experiment.set(*(f"objective.{each}" for each in small), "training.dtype=float32", "optimizer.lr=0.003")
    )
    work = assemble(experiment, None, family.load_processor(None, experiment.objective, dataset), dataset.records)
    return {proof.name for proof in find_disproved(prove(work, lambda record: family.serving_inputs(record, work.objective), 1e6))}


def plant(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let every batch be changed before it is learned from."""
    own = CausalLmObjective.collate
    monkeypatch.setattr(CausalLmObjective, "collate", lambda self, examples, seed, step: change(own(self, examples, seed, step)))


def test_what_is_right_is_proven(novels) -> None:
    assert not find_failed(novels)


@pytest.mark.parametrize("shift", [-1, 1])
def test_a_label_that_is_shifted_by_one_is_caught(novels, monkeypatch, shift: int) -> None:
    def move(batch: Batch) -> Batch:
        return replace(batch, flat={**batch.flat, "next": batch.flat["next"].roll(shift)})

    plant(monkeypatch, move)
    assert "each token is predicted once" in find_failed(novels)


def test_padding_that_is_learned_is_caught(novels, monkeypatch) -> None:
    def pad(batch: Batch) -> Batch:
        longest = int(batch.lengths.max()) + 2
        flat = {name: torch.cat([torch.cat([part, part.new_zeros(longest - len(part))]) for part in values.split(batch.lengths.tolist())])
                for name, values in batch.flat.items()}  # fmt: skip
        return replace(batch, flat=flat, lengths=torch.full_like(batch.lengths, longest))

    plant(monkeypatch, pad)
    assert "each token is predicted once" in find_failed(novels)


def test_documents_that_see_each_other_are_caught(novels, monkeypatch) -> None:
    from luthier.models import pretrained

    monkeypatch.setattr(pretrained, "segment_lengths", lambda batch: batch.lengths.sum()[None])  # one long row
    assert {"packed is alone", "a row moves only itself"} & find_failed(novels)


def test_documents_in_one_block_are_caught(novels, monkeypatch) -> None:
    def run_together(self: Any, records: Any) -> Any:
        alone = [self.encode(self.text_of(record)) for record in records]
        both = [Encoded(np.append(one.tokens, other.tokens), np.append(one.bytes, other.bytes + one.size), one.size + other.size)
                for one, other in zip(alone, [*alone[1:], alone[0]], strict=True)]  # fmt: skip
        return Blocks(records, both, self.spec.context, len(self.tokenizer))

    monkeypatch.setattr(CausalLmObjective, "prepare", run_together)
    assert "each token is predicted once" in find_failed(novels)


# the whole way


def test_a_bundle_goes_on_with_a_text_in_the_same_way_each_time_and_is_a_base(tmp_path) -> None:
    small = {"objective.vocabulary": 300, "objective.depth": 1, "objective.width": 32, "objective.heads": 2, "objective.context": 16,
             "training.steps": 12, "optimizer.lr": 1e-5}  # fmt: skip  # it knows nothing afterwards, as proofs of those that go on expect
    run = luthier.run(novel(tmp_path), task="causal_lm", out=tmp_path / "run", set=small, force=True)
    one, two = luthier.predict(run.folder, ["The phone", "Line"], limit=8), luthier.predict(run.folder, ["Line", "The phone"], limit=8)
    assert one[0]["text"] == two[1]["text"]
    said = [line for line in run.lines("samples.jsonl") if "said" in line]
    assert said and {"step", "row", "asked", "said"} <= set(said[0])
    assert "What it says, through the training" in (run.folder / "report.html").read_text()
    on = luthier.run(novel(tmp_path, "more.txt"), task="causal_lm", base=str(run.folder), out=tmp_path / "on",
                     set={"training.steps": 4, "objective.context": 16}, force=True)  # fmt: skip
    assert on.verdict is not None and on.verdict["base"]["name"].endswith("untouched")
    for task in ("classification", "chat"):
        (tmp_path / task).mkdir()
        table = CASES[task].write(tmp_path / task)
        after = luthier.run(table, task=task, base=str(run.folder), out=tmp_path / f"{task}_run", set={"training.steps": 4}, force=True)
        assert after.verdict is not None


def test_more_tokens_than_the_texts_hold_are_refused_by_the_field(novels) -> None:
    family = family_of("causal_lm")
    with pytest.raises(DataError, match=r"objective\.vocabulary=50000"):
        family.load_processor(None, CausalLm(vocabulary=50_000), novels)
