"""What a person types: shares with and without a percent sign."""

from __future__ import annotations

import pytest

from luthier.app.typed import read_share
from luthier.core.errors import ExperimentError


@pytest.mark.parametrize("text", ["5%", "0.05", " 5 % ", ".05"])
def test_a_share_is_typed_with_or_without_a_percent_sign(text: str) -> None:
    assert read_share(text, "--error-below") == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("text", "said"),
    [("5", "did you mean 5%"), ("0", "more than 0%"), ("100%", "more than 0%"), ("five", "is no share"), ("nan", "more than 0%")],
)
def test_what_is_no_share_is_refused_with_what_was_meant(text: str, said: str) -> None:
    with pytest.raises(ExperimentError, match=said):
        read_share(text, "--error-below")


def test_nothing_typed_is_nothing() -> None:
    assert read_share(None, "--error-below") is None
