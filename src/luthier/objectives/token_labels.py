"""Token labels: each word of a text begins a span, goes on in one, or stands in none; long texts are read in overlapping windows.

Source: Ramshaw & Marcus 1995, "Text chunking using transformation-based learning" (BIO); Devlin et al. 2019, "BERT", section 5.3 (the first piece of a
word carries its label; in overlapping windows a word is judged where it has the most context: the authors' run_squad, "max context").
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from luthier.core.component import Component
from luthier.core.errors import ExperimentError
from luthier.core.types import Batch, Cut, Example, Loss, Record, Scores
from luthier.data.spans import Span, spans_of, tags_of, trim_span, words_in
from luthier.objectives.objective import BaseObjective, surely_fits
from luthier.objectives.text_rows import MAX_LENGTH

if TYPE_CHECKING:
    import torch
    from torch import nn

UNLABELLED = -1
"""Instead of a label: what the tokenizer puts around a text, the further pieces of a word, and what another window reads with more context."""


class TokenLabels(Component):
    """Learn which parts of a text are what: names, clauses, parts of speech."""

    kind: Literal["token_labels"] = "token_labels"
    labels: tuple[str, ...] = Field(default=(), description="The kinds of spans, in order; taken from the training rows when empty.")
    max_length: int = Field(default=MAX_LENGTH, ge=8, description="Tokens of a window; a longer text is read in several.")
    overlap: int = Field(
        default=64, ge=0, description="Tokens that a window shares with the one before it (HF: stride); at most half of a window."
    )
    most_windows: int = Field(default=256, ge=1, description="Windows a text may have; what lies behind them is lost, counted.")

    def open(self, tokenizer: Any, input: tuple[str, ...], target: str | None) -> TokenLabelsObjective:
        """The objective at work.

        Args:
            tokenizer: the base's; it knows where its tokens stand in a text.
            input: the column that is read.
            target: the column of spans.

        Raises:
            ExperimentError: the tokenizer does not know where its tokens stand.
        """
        if not tokenizer.is_fast:
            raise ExperimentError(
                "the base's tokenizer does not say where its tokens stand in a text", "use another base, such as minilm-l6"
            )
        return TokenLabelsObjective(self, tokenizer, input, target)


@dataclass(frozen=True)
class Words:
    """The words of a text that carry a label, each once.

    Args:
        places: of the token that carries each, in the row's tokens, # (words,)
        starts: their first characters, # (words,)
        ends: the characters behind their last, # (words,)
        tags: 0 outside, else 1 + twice the number of the kind, one more inside of a span than at its beginning, # (words,)
        exact: whether a span that begins here is said to the character by the tags of its words, # (words,)
        there: spans that the text has of each kind, # (kinds,)
    """

    places: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    tags: np.ndarray
    exact: np.ndarray
    there: np.ndarray


@dataclass(frozen=True)
class Said:
    """A span that the labels of words say.

    Args:
        first: number of its first word.
        last: number of its last.
        kind: number of its kind.
    """

    first: int
    last: int
    kind: int


def spans_said(tags: Sequence[int]) -> list[Said]:
    """The spans that the labels of a text's words say; an inside without a beginning begins one, as in seqeval.

    >>> [(span.first, span.last, span.kind) for span in spans_said([1, 2, 0, 2, 3])]
    [(0, 1, 0), (3, 3, 0), (4, 4, 1)]
    """
    spans: list[Said] = []
    for index, tag in enumerate(tags):
        if not tag:
            continue
        kind, inside = divmod(int(tag) - 1, 2)
        if inside and spans and spans[-1].last == index - 1 and spans[-1].kind == kind:
            spans[-1] = Said(spans[-1].first, index, kind)
        else:
            spans.append(Said(index, index, kind))
    return spans


def label_words(places: np.ndarray, bounds: np.ndarray, spans: Sequence[Span], kinds: Sequence[str]) -> Words:
    """The label of each word from the spans' characters.

    Args:
        places: of the tokens that carry the words, # (words,)
        bounds: where the words begin and end, # (words, 2)
        spans: without spaces at their ends, by their start.
        kinds: by name; spans of others are left out.
    """
    indices = {kind: index for index, kind in enumerate(kinds)}
    known = [span for span in spans if span.label in indices]
    starts, ends = bounds[:, 0], bounds[:, 1]
    tags, there = np.zeros(len(places), dtype=np.int64), np.zeros(len(kinds))
    for span in known:
        kind = indices[span.label]
        there[kind] += 1
        first, behind = int(np.searchsorted(ends, span.start, "right")), int(np.searchsorted(starts, span.end, "left"))
        inside = [word for word in range(first, behind) if not tags[word]]
        for word in inside:
            tags[word] = 2 + 2 * kind
        if inside:
            tags[inside[0]] = 1 + 2 * kind
    expected = {(span.start, span.end, indices[span.label]) for span in known}
    exact = np.zeros(len(places), dtype=np.int64)
    for predicted in spans_said(tags.tolist()):
        exact[predicted.first] = (int(starts[predicted.first]), int(ends[predicted.last]), predicted.kind) in expected
    return Words(places, starts, ends, tags, exact, there)


def count_right(tags: np.ndarray, truth: np.ndarray, exact: np.ndarray, kinds: int) -> tuple[np.ndarray, np.ndarray, list[Said]]:
    """Of each kind the spans that are right, start, end and label, and those that were said; and the spans said.

    Args:
        tags: of a text's words as said, # (words,)
        truth: as they are, # (words,)
        exact: see `Words`, # (words,)
        kinds: how many there are.
    """
    right, predicted = np.zeros(kinds), np.zeros(kinds)
    spans = spans_said(tags.tolist())
    true = {span for span in spans_said(truth.tolist()) if exact[span.first]}
    for span in spans:
        predicted[span.kind] += 1
        right[span.kind] += span in true
    return right, predicted, spans


def scores_of_words(each: Sequence[tuple[np.ndarray, Words]], kinds: Sequence[str]) -> Scores:
    """What a model says of the words of some texts, as scores.

    Args:
        each: for each text the logarithms of the probabilities of its words' labels, # (words, 1 + 2 × kinds), and the words.
        kinds: by name.
    """
    rows = []
    for logged, words in each:
        tags = logged.argmax(1) if len(logged) else np.zeros(0, dtype=np.int64)
        right, predicted, predictions = count_right(tags, words.tags, words.exact, len(kinds))
        sure = logged.max(1) if len(logged) else np.zeros(0)
        spans = [
            (
                int(words.starts[span.first]),
                int(words.ends[span.last]),
                kinds[span.kind],
                float(np.exp(sure[span.first : span.last + 1].min())),
            )
            for span in predictions
        ]
        loss = -float(np.take_along_axis(logged, words.tags[:, None], 1).sum()) if len(logged) else 0.0
        rows.append((loss, float(len(tags)), float((tags == words.tags).sum()), right, predicted, words.there, spans))
    said_of_rows = np.empty(len(rows), dtype=object)
    for index, row in enumerate(rows):
        said_of_rows[index] = row[6]
    loss, count, right_words = (np.array([row[column] for row in rows], dtype=np.float64) for column in range(3))
    of_kinds = {
        name: np.array([row[column] for row in rows], dtype=np.float64).reshape(len(rows), len(kinds))
        for name, column in (("right_spans", 3), ("named_spans", 4), ("there_spans", 5))
    }
    return Scores(loss, count, more={"right_words": right_words, **of_kinds, "said": said_of_rows})


class TokenLabelsObjective(BaseObjective[TokenLabels, Any]):
    """See `TokenLabels`."""

    unit = "word"
    learned = "label for every word"
    metrics: tuple[str, ...] = ("span_f1", "token_accuracy", "loss")

    def prepare(self, records: Sequence[Record]) -> list[Example]:
        """Encode the rows in windows, and give each word's label to its first token."""
        if not records:
            return []
        texts = [str(record.values.get(self.input[0]) or "") for record in records]
        examples = []
        for position, (record, text, (inputs, places, bounds, cut)) in enumerate(zip(records, texts, self._tokenize(texts), strict=True)):
            cell_spans = spans_of(record.values.get(self.target or ""))
            spans = [trim_span(span, text) for span in cell_spans or ()]
            words = label_words(places, bounds, spans, self.spec.labels)
            target = np.full(len(inputs["tokens"]), UNLABELLED)
            target[words.places] = words.tags
            facts = {"cut": cut, "words": words, "spans": spans, "text": text, "kinds": self.spec.labels}
            units = float(len(places)) if cell_spans is not None else 0.0
            examples.append(Example(position, inputs, tuple(target.tolist()), record, len(inputs["tokens"]), units, facts=facts))
        return examples

    def cuts(self, records: Sequence[Record]) -> list[tuple[Cut, ...]]:
        """The texts that go on behind the last window."""
        texts = [str(record.values.get(self.input[0]) or "") for record in records]
        found: list[tuple[Cut, ...]] = [() for _ in records]
        long = [index for index, text in enumerate(texts) if not surely_fits(text, self.spec.max_length)]
        read = self._tokenize([texts[index] for index in long]) if long else ()
        for index, (_, _, _, lost) in zip(long, read, strict=True):
            if lost:
                tokens = len(self.tokenizer(texts[index], truncation=False, verbose=False)["input_ids"])
                found[index] = (Cut((self.input[0],), tokens, tokens - lost),)
        return found

    def remedy_for_cuts(self) -> str:
        """More windows."""
        return "a larger objective.most_windows"

    def _tokenize(self, texts: list[str]) -> Iterator[tuple[dict[str, list[int]], np.ndarray, np.ndarray, int]]:
        """Of each text the tokens of its windows end to end with their places in these, which tokens carry its words, where the words stand, and tokens lost."""
        longest, overlap = self.spec.max_length, min(self.spec.overlap, self.spec.max_length // 2)
        encoded = self.tokenizer(
            texts, truncation=True, max_length=longest, stride=overlap, return_overflowing_tokens=True, return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )  # fmt: skip
        windows: list[list[int]] = [[] for _ in texts]
        for window, row in enumerate(encoded["overflow_to_sample_mapping"]):
            windows[row].append(window)
        for text, all_of_row in zip(texts, windows, strict=True):
            used, lost = all_of_row[: self.spec.most_windows], all_of_row[self.spec.most_windows :]
            tokens, places, offsets = [], [], []
            for index, window in enumerate(used):
                own = [position for position, special in enumerate(encoded["special_tokens_mask"][window]) if not special]
                first = (
                    overlap // 2 if index else 0
                )  # of the tokens that two windows share, each half belongs to the window with more context
                behind = len(own) - (overlap - overlap // 2) if index + 1 < len(used) else len(own)
                offsets += [(len(tokens) + position, *encoded["offset_mapping"][window][position]) for position in own[first:behind]]
                tokens += encoded["input_ids"][window]
                places += range(len(encoded["input_ids"][window]))
            carrying, bounds = first_pieces(text, offsets)
            again = overlap + self.tokenizer.num_special_tokens_to_add()
            yield {"tokens": tokens, "place": places}, carrying, bounds, sum(len(encoded["input_ids"][window]) - again for window in lost)

    def collate(self, examples: Sequence[Example], seed: int, step: int) -> Batch:
        """Tokens of the windows end to end, for each its place in its window, and its label, or -1."""
        import torch

        def flat(values: Iterator[Sequence[int]]) -> torch.Tensor:
            return torch.tensor([value for row in values for value in row], dtype=torch.int64)

        words: list[Words] = [example.facts["words"] for example in examples]
        target = flat(example.target for example in examples)
        more = {name: torch.zeros(len(target), dtype=torch.int64) for name in ("start", "end", "exact")}
        at = 0
        for example, row in zip(examples, words, strict=True):
            carrying = torch.from_numpy(at + row.places)
            for name, values in (("start", row.starts), ("end", row.ends), ("exact", row.exact)):
                more[name][carrying] = torch.from_numpy(values)
            at += example.size
        return Batch(
            index=torch.tensor([example.index for example in examples]),
            lengths=torch.tensor([example.size for example in examples]),
            flat={name: flat(example.inputs[name] for example in examples) for name in ("tokens", "place")} | {"target": target, **more},
            each={"there": torch.from_numpy(np.stack([row.there for row in words]))},
        )

    def loss(self, model: nn.Module, batch: Batch) -> Loss:
        """Cross-entropy, summed over the words; each word counts one."""
        from torch.nn.functional import cross_entropy

        logits, target = self._label_scores(model, batch)
        return Loss(cross_entropy(logits.float(), target, reduction="sum"), float(len(target)))

    def score(self, model: nn.Module, batch: Batch) -> Scores:
        """The loss of each row's words, and the spans that their likeliest labels say."""
        import torch

        with torch.no_grad():
            logged = self._label_scores(model, batch)[0].float().log_softmax(-1).double().cpu().numpy()
        flat = {name: values.cpu().numpy() for name, values in batch.flat.items()}
        carrying = np.flatnonzero(flat["target"] >= 0)
        cuts = np.searchsorted(carrying, batch.lengths.cumsum(0).cpu().numpy())[:-1]
        starts, ends, tags, exact = (np.split(flat[name][carrying], cuts) for name in ("start", "end", "target", "exact"))
        there = batch.each["there"].double().cpu().numpy()
        rows = [Words(*fields) for fields in zip(np.split(carrying, cuts), starts, ends, tags, exact, there, strict=True)]
        return scores_of_words(list(zip(np.split(logged, cuts), rows, strict=True)), self.spec.labels)

    def _label_scores(self, model: Any, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The scores of each label at each token that carries one, and which it is, # (words, labels), (words,)"""
        places = (batch.flat["target"] >= 0).nonzero()[:, 0]
        return model(batch).index_select(0, places), batch.flat["target"].index_select(0, places)

    def reference_loss(self, model: Any, example: Example) -> torch.Tensor | None:
        """As transformers' own network says it, of a text that is read in one window."""
        if not getattr(model, "packs", False) or example.inputs["place"].count(0) != 1:
            return None
        import torch
        from torch.nn.functional import cross_entropy

        device = next(model.network.parameters()).device
        with model.for_generation() as network:
            logits = network(input_ids=torch.tensor([list(example.tokens)], device=device)).logits[0]
        return cross_entropy(logits.float(), torch.tensor(example.target, device=device), ignore_index=UNLABELLED, reduction="sum")

    def learned_tokens(self, example: Example) -> list[bool]:
        """The first token of each word."""
        return [tag >= 0 for tag in example.target]

    @property
    def tags(self) -> list[str]:
        """The labels of words, in order."""
        return tags_of(self.spec.labels)


def first_pieces(text: str, offsets: Sequence[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Which tokens carry the words of a text: the first that begins in each; and where these words stand.

    Args:
        text: as the tokenizer read it.
        offsets: of each token its place, and where it begins and ends in the text, spaces before it included.

    Returns:
        # (words,), (words, 2)
    """
    words = words_in(text)
    starts = [start for start, _ in words]
    places, bounds, last = [], [], -1
    for token, start, end in offsets:
        start += len(text[start:end]) - len(text[start:end].lstrip())
        word = bisect_right(starts, start) - 1
        if start >= end or word <= last or start >= words[word][1]:
            continue
        places.append(token)
        bounds.append(words[word])
        last = word
    return np.array(places, dtype=np.int64), np.array(bounds, dtype=np.int64).reshape(-1, 2)
