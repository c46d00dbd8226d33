"""Text that is made token by token: whole characters, no stop string, and together the same as at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from luthier.serving.interface import Token
from luthier.serving.text_stream import TextStream


def decode(ids: Sequence[int]) -> str:
    """A token a byte."""
    return bytes(ids).decode(errors="replace")


def stream(text: bytes, sizes: Sequence[int], stops: Sequence[str] = ()) -> tuple[list[str], list[int], bool]:
    """The pieces of a text whose tokens come in groups, the tokens that were told, and whether it was stopped."""
    made, pieces, told, place = TextStream(decode, stops), [], [], 0
    for size in [*sizes, *[1] * len(text)]:
        piece = made.push([Token(byte, 0.0) for byte in text[place : place + size]])
        pieces.append(piece.text)
        told += [token.id for token, _ in piece.tokens]
        place += size
        if piece.stopped or place >= len(text):
            break
    last = made.finish()
    return [*pieces, last.text], told + [token.id for token, _ in last.tokens], made.stopped


@settings(max_examples=60, deadline=None)
@given(some.text(), some.lists(some.integers(1, 5), max_size=20))
def test_pieces_join_to_the_text_and_each_is_whole(text: str, sizes: list[int]) -> None:
    if "\ufffd" in text:
        return
    pieces, told, stopped = stream(text.encode(), sizes)
    assert "".join(pieces) == text
    assert bytes(told) == text.encode()
    assert not stopped
    assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=100, deadline=None)
@given(
    some.text("abc🙂é", max_size=30),
    some.lists(some.text("abc🙂é", min_size=1, max_size=4), min_size=1, max_size=3),
    some.lists(some.integers(1, 5), max_size=20),
)
def test_it_ends_before_the_first_stop_string_wherever_tokens_divide_it(text: str, stops: list[str], sizes: list[int]) -> None:
    pieces, told, stopped = stream(text.encode(), sizes, stops)
    places = [text.find(stop) for stop in stops if stop in text]
    assert stopped == bool(places)
    whole = "".join(pieces)
    assert not any(stop in whole for stop in stops)
    if not places:
        assert whole == text
    else:  # of two that end with the same token, the one that begins first
        assert text.startswith(whole) and any(text[len(whole) :].startswith(stop) for stop in stops)
        assert bytes(told).startswith(whole.encode()[:1])


def test_what_could_begin_a_stop_string_is_held_back() -> None:
    made = TextStream(decode, ["</end>"])
    assert made.push([Token(byte, 0.0) for byte in b"yes </en"]).text == "yes "
    assert made.push([Token(byte, 0.0) for byte in b"try"]).text == "</entry"
    assert made.push([Token(byte, 0.0) for byte in b" </"]).text == " "
    assert made.finish().text == "</"


def test_bytes_that_never_become_a_character_do_not_hold_the_rest_back() -> None:
    made = TextStream(decode)
    said = "".join(made.push([Token(byte, 0.0)]).text for byte in b"\xff\xff\xff\xff\xff\xff abc")
    assert said.endswith("abc")
    assert "\ufffd" in said
    cut = TextStream(decode)
    assert cut.push([Token(0xF0, 0.0), Token(0x9F, 0.0)]).text == ""
    assert cut.finish().text == "\ufffd"


@pytest.mark.parametrize("stops", [(), ("",)])
def test_no_stop_string_stops_nothing(stops: tuple[str, ...]) -> None:
    assert stream(b"abc", [1], stops) == (["a", "b", "c", ""], [97, 98, 99], False)
