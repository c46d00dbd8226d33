"""JSON of a given form, by the real library, a tiny network that knows nothing of JSON, and a reader of schemas that is not ours."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
import torch

from luthier.core.errors import DataError, ModelError
from luthier.models.decoding.choice import choose_decoder
from luthier.models.decoding.continuous_batching import ContinuousBatch
from luthier.models.decoding.grammar import JsonVocabulary
from luthier.models.decoding.network import read_network
from luthier.models.decoding.one_by_one import OneByOne, forward_of
from luthier.models.decoding.pages import PagePool
from luthier.models.decoding.request import GenerationRequest
from luthier.models.decoding.step import make_cache
from luthier.models.pretrained import load_generator
from tests.conftest import small_tokenizer

pytest.importorskip("llguidance")

ENDS = frozenset({2})
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 120}, "tags": {"type": "array", "items": {"enum": ["a", "bc"]}, "maxItems": 3}},
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}  # fmt: skip
SCHEMAS = {
    "person": PERSON,
    "enum": {"enum": ["good", "bad", 3]},
    "nested": {"$defs": {"p": {"type": "object", "properties": {"x": {"type": "boolean"}, "y": {"type": ["null", "boolean"]}}, "required": ["x", "y"], "additionalProperties": False}},
               "type": "array", "items": {"$ref": "#/$defs/p"}, "minItems": 1, "maxItems": 2},
    "integer": {"type": "integer", "minimum": 10, "maximum": 99},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return small_tokenizer(tmp_path_factory.mktemp("tokens"), True)


@pytest.fixture(scope="module")
def network(bases):
    model = load_generator(bases("llama"), 0.0)
    model.eval()
    model.network.set_attn_implementation("sdpa")
    return model.network


@pytest.fixture(scope="module")
def vocabulary(tokenizer, network):
    return JsonVocabulary(tokenizer, network.config.vocab_size, ENDS)


def batch_of(network: Any, drafted: bool = False) -> ContinuousBatch:
    known = read_network(network)
    decoder = choose_decoder(known, make_cache(known, 64, 256), "fp32").decoder
    return ContinuousBatch(decoder, PagePool(64), 4, decoder if drafted else None)


def write(batch: Any, *requests: GenerationRequest) -> list[tuple[list[int], str | None]]:
    texts = [batch.join(request) for request in requests]
    made: dict[int, tuple[list[int], str | None]] = {id(text): ([], None) for text in texts}
    while batch.texts:
        for outcome in batch.step():
            assert outcome.error is None, outcome.error
            ids, _ = made[id(outcome.text)]
            made[id(outcome.text)] = (ids + [token.id for token in outcome.tokens], outcome.finish)
    return [made[id(text)] for text in texts]


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_drawn_from_a_network_that_knows_no_json_fits_the_schema(name, network, vocabulary, tokenizer) -> None:
    grammar = vocabulary.compile(SCHEMAS[name])
    requests = [GenerationRequest((5, 6, 7), 150, 1.0, seed=seed, stop=ENDS, grammar=grammar) for seed in range(4)]
    requests[0] = GenerationRequest((5, 6, 7), 150, stop=ENDS, grammar=grammar)
    whole = 0
    for ids, finish in write(batch_of(network), *requests):
        if finish == "stop":
            jsonschema.validate(json.loads(tokenizer.decode(ids)), SCHEMAS[name])
            whole += 1
    assert whole >= 3


def test_an_object_of_any_form_is_an_object(network, vocabulary, tokenizer) -> None:
    grammar = vocabulary.compile({"type": "object"})
    requests = [GenerationRequest((9, 8), 200, 1.5, seed=seed, stop=ENDS, grammar=grammar) for seed in range(12)]
    answers = [write(batch_of(network), request)[0] for request in requests]
    whole = [json.loads(tokenizer.decode(ids)) for ids, finish in answers if finish == "stop"]
    assert len(whole) > 2 and all(isinstance(each, dict) for each in whole)


def test_neighbours_without_a_form_and_drafts_change_nothing(network, vocabulary) -> None:
    """A drafter beside it: a text with a form is not drafted, its neighbour is, and both say what they say alone."""
    formed = GenerationRequest((5, 6, 7), 60, 1.0, seed=3, stop=ENDS, grammar=vocabulary.compile(PERSON))
    free = GenerationRequest((11, 12, 13), 40, 1.0, seed=4, stop=ENDS)
    alone = [write(batch_of(network), each)[0] for each in (formed, free)]
    assert write(batch_of(network), formed, free) == alone
    assert write(batch_of(network, drafted=True), formed, free) == alone


def test_one_by_one_follows_the_form_too(network, vocabulary, tokenizer) -> None:
    request = GenerationRequest((5, 6, 7), 150, 1.0, seed=3, stop=ENDS, grammar=vocabulary.compile(SCHEMAS["nested"]))
    ids, finish = write(OneByOne(forward_of(network)), request)[0]
    assert finish == "stop"
    jsonschema.validate(json.loads(tokenizer.decode(ids)), SCHEMAS["nested"])


def test_an_answer_that_is_whole_at_its_limit_is_no_cut_one(network, vocabulary, tokenizer) -> None:
    def answer(limit: int) -> tuple[list[int], str | None]:
        return write(batch_of(network), GenerationRequest((5,), limit, stop=ENDS, grammar=vocabulary.compile({"const": True})))[0]

    ids, finish = answer(20)
    assert (tokenizer.decode(ids), finish) == ("true", "stop")
    assert answer(len(ids)) == (ids, "stop")
    assert answer(len(ids) - 1) == (ids[:-1], "length")


def test_log_probabilities_stay_those_of_the_model(network, vocabulary) -> None:
    batch = batch_of(network)
    batch.join(GenerationRequest((5, 6, 7), 4, stop=ENDS, logprobs=3, grammar=vocabulary.compile(PERSON)))
    token = next(outcome for _ in range(9) for outcome in batch.step()).tokens[0]
    with torch.inference_mode():
        wanted = network(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].log_softmax(-1)
    assert token.logprob == pytest.approx(float(wanted[token.id]), abs=1e-4)
    assert token.top[0][1] == pytest.approx(float(wanted.max()), abs=1e-4)


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "objekt"}, "objekt"),
        ({"not": {"type": "string"}}, "not"),
        ({"$ref": "http://127.0.0.1:9/x"}, "not fetch"),
        ({"x-guidance": {"lenient": True}, "not": {}}, "not"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"properties": {"a": {"type": "object", "minProperties": 2}}}, "minProperties"),
        ({"oneOf": [{"type": "object"}, {"type": "object"}]}, "oneOf"),
    ],
)
def test_a_schema_that_cannot_be_followed_is_refused_and_says_why(vocabulary, schema, says) -> None:
    with pytest.raises(DataError, match=says):
        vocabulary.compile(schema)


def test_a_property_may_be_named_like_a_keyword(vocabulary) -> None:
    vocabulary.compile({"type": "object", "properties": {"minProperties": {"type": "integer"}, "x-guidance": {"type": "null"}}})


def test_white_space_ends(vocabulary, tokenizer) -> None:
    state = vocabulary.compile({"type": "object"}).begin()
    for character in "{" + "\n" + " " * 16:
        state.accept(tokenizer.encode(character)[0])
    blank = {number for number in range(400) if not tokenizer.decode([number]).strip() and tokenizer.decode([number])}
    assert blank and not blank & set(state.allowed_tokens().tolist())


def test_a_token_that_does_not_fit_and_a_tokenizer_without_tokens_are_errors(vocabulary, tokenizer) -> None:
    with pytest.raises(ModelError, match="does not fit"):
        vocabulary.compile({"type": "object"}).begin().accept(tokenizer.encode("x")[0])
    with pytest.raises(ModelError, match="fast tokenizer"):
        JsonVocabulary(object(), 400, ENDS)
