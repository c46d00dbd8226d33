"""Spans of a text: how cells, lists of tokens and CoNLL columns say them, and what is told of those that are wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.core.errors import DataError
from luthier.data.read_rows import read
from luthier.data.rows import Rows
from luthier.data.spans import Span, describe_tokens, spans_of, spans_of_words, trim_span, words_in, wrong_spans

CONLL = "-DOCSTART- -X- O\n\nMaria NNP B-person\nleft VBD O\nNew NNP B-place\nYork NNP I-place\n. . O\n\nShe PRP O\nslept VBD O\n"


def test_conll_columns_become_texts_with_spans_in_their_characters(tmp_path: Path) -> None:
    file = tmp_path / "rows.conll"
    file.write_text(CONLL)
    rows = read(file)
    assert [row["text"] for row in rows.values] == ["Maria left New York .", "She slept"]
    assert rows.values[0]["spans"] == [[0, 5, "person"], [11, 19, "place"]]
    assert rows.lines == [3, 9]


def test_a_sentence_whose_lines_have_other_columns_is_set_aside_with_the_line(tmp_path: Path) -> None:
    file = tmp_path / "rows.conll"
    file.write_text(CONLL + "\nHe PRP O\nwent\n\n# sent_id = 4\nThey\tPRP\tO\n#\tNN\tO\n")
    rows = read(file)
    assert [row["text"] for row in rows.values] == ["Maria left New York .", "She slept", "They #"]
    assert [(row.line, row.reason) for row in rows.rejected] == [
        (12, "line 13 has 1 columns, and most have 3: each token needs its label in the last column")
    ]


def test_a_file_of_one_column_has_texts_without_labels(tmp_path: Path) -> None:
    file = tmp_path / "rows.conll"
    file.write_text("Maria\nleft\n\nShe\n")
    assert read(file).values == [{"text": "Maria left"}, {"text": "She"}]


def test_a_file_without_tokens_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.conll"
    file.write_text("-DOCSTART- -X- O\n\n")
    with pytest.raises(DataError, match="holds no tokens"):
        read(file)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("B-a I-a O", [(0, 3, "a")]),
        ("I-a I-a I-b", [(0, 3, "a"), (4, 5, "b")]),
        ("B-a B-a I-a", [(0, 1, "a"), (2, 5, "a")]),
        ("B-a E-a S-b", [(0, 3, "a"), (4, 5, "b")]),
        ("U-a B-b L-b", [(0, 1, "a"), (2, 5, "b")]),
        ("DET NOUN NOUN", [(0, 1, "DET"), (2, 3, "NOUN"), (4, 5, "NOUN")]),
    ],
)
def test_the_usual_ways_to_label_words_say_the_same_spans(labels: str, expected: list[tuple[int, int, str]]) -> None:
    assert spans_of_words([(0, 1), (2, 3), (4, 5)], labels.split()) == [Span(*each) for each in expected]


def test_lists_of_tokens_become_a_text_and_those_with_too_few_labels_are_set_aside() -> None:
    rows = Rows(["tokens", "ner_tags"])
    rows.add(1, {"tokens": ["in", "Rome"], "ner_tags": ["O", "B-place"]})
    rows.add(2, {"tokens": ["in", "Rome"], "ner_tags": ["O"]})
    rows.add(3, {"tokens": ["in", "Rome"], "ner_tags": [0, 5]})
    found = describe_tokens(rows, "rows.jsonl")
    assert [(row["text"], row["spans"]) for row in found.values] == [("in Rome", [[3, 7, "place"]])]
    assert [row.reason for row in found.rejected] == [
        "2 tokens and 1 ner_tags: each token needs one label, O where it is in no span",
        "ner_tags holds something that is no list of names: write each label's name, such as B-person or O",
    ]


def test_other_tables_stay_as_they_are() -> None:
    rows = Rows(["text", "tokens"])
    rows.add(1, {"text": "a b", "tokens": ["a", "b"]})
    assert describe_tokens(rows, "rows.jsonl") is rows


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (
            [[0, 5, "a"], [3, 8, "b"]],
            r"the span 3 to 8 \(b\) overlaps the one from 0 to 5 \(a\): a word has one label, so keep one of them",
        ),
        ([[3, 40, "a"]], r"the span 3 to 40 \(a\) lies outside of the text, which has 21 characters"),
        ([[5, 5, "a"]], r"the span 5 to 5 \(a\) is empty: end is the character behind its last one"),
        ([[7, 3, "a"]], r"the span 7 to 3 \(a\) is empty"),
        ([[5, 6, "a"]], r"the span 5 to 6 \(a\) holds nothing but spaces"),
    ],
)
def test_a_wrong_span_is_named_with_its_remedy(cell: list[list[object]], said: str) -> None:
    found = spans_of(cell)
    assert found is not None
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(wrong_spans(found, "Maria left New York ."))


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ([[0, 5]], "which is no span: write"),
        ([[0.5, 5, "a"]], "give whole numbers, counted in characters from 0"),
        ([[True, 5, "a"]], "give whole numbers"),
        ([{"start": 0, "end": 5}], "a span from 0 to 5 without a label: name its kind"),
        ("[broken", "is no list of spans in JSON"),
        ({"start": 0}, "holds a dict, not a list of spans"),
    ],
)
def test_a_cell_that_is_no_list_of_spans_says_why(cell: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        spans_of(cell)


def test_an_empty_list_says_that_there_is_no_span_and_an_empty_cell_says_nothing() -> None:
    assert spans_of([]) == spans_of("[]") == []
    assert spans_of(None) is spans_of(" ") is None
    assert spans_of('[{"start": 0, "end": 2, "label": "a"}]') == [Span(0, 2, "a")]


def test_a_span_loses_the_spaces_at_its_ends_and_signs_without_spaces_are_words() -> None:
    assert trim_span(Span(0, 7, "a"), " Maria  left") == Span(1, 6, "a")
    assert words_in("U.S. 東京") == [(0, 1), (1, 2), (2, 3), (3, 4), (5, 6), (6, 7)]
