"""JSON that every reader reads alike."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from luthier.app.server.errors import Refused
from luthier.app.server.strict_json import parse

VALUES = some.recursive(
    some.none() | some.booleans() | some.integers(-(1 << 60), 1 << 60) | some.floats(allow_nan=False, allow_infinity=False) | some.text(),
    lambda inside: some.lists(inside, max_size=4) | some.dictionaries(some.text(), inside, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None)
@given(some.dictionaries(some.text(), VALUES, max_size=4), some.booleans())
def test_what_json_writes_is_read_as_it_was(value: dict[str, Any], ascii: bool) -> None:
    try:
        content = json.dumps(value, ensure_ascii=ascii).encode()
    except UnicodeEncodeError:
        return
    assert parse(content, 100) == value


@settings(max_examples=100, deadline=None)
@given(some.binary(max_size=200))
def test_any_other_bytes_are_refused_and_raise_nothing_else(content: bytes) -> None:
    try:
        assert isinstance(parse(content, 8), dict)
    except Refused as problem:
        assert problem.status == 400


def test_depth_is_counted_from_the_object() -> None:
    assert parse(b'{"a": [1]}', 2) == {"a": [1]}
    with pytest.raises(Refused, match="deeper than 2"):
        parse(b'{"a": [[1]]}', 2)
    with pytest.raises(Refused, match="deeper"):
        parse(b'{"a":' * 200_000 + b"1" + b"}" * 200_000, 16)


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (rb'{"rows": ["x", "\ud800"]}', "rows.1"),
        (rb'{"messages": [{"role": "user", "content": "\udc00"}]}', "messages.0.content"),
        (rb'{"input": "a\ud83d"}', "input"),
        (rb'{"rows": [{"\ud800": 1}]}', "rows.0"),
        (rb'{"\ud800": 1}', None),
    ],
)
def test_a_text_with_half_of_a_character_pair_is_named_by_its_field(content: bytes, field: str | None) -> None:
    with pytest.raises(Refused, match="surrogate") as problem:
        parse(content, 8)
    assert problem.value.param == field
    assert field is None or field in problem.value.message
    problem.value.message.encode()


def test_a_whole_character_pair_that_is_written_in_two_halves_is_read() -> None:
    assert parse(rb'{"input": "\ud83d\ude00"}', 8) == {"input": "\N{GRINNING FACE}"}
