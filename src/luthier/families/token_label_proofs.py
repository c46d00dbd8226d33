"""Proofs for labels inside a text: each stands on its words, once, and on nothing else."""

from __future__ import annotations

import math
from collections import Counter

from luthier.core.proof import Proof, ProofContext, row_of
from luthier.core.types import Example
from luthier.data.spans import Span
from luthier.objectives.token_labels import spans_said

SAYABLE = 0.95
"""Share of the spans that begin and end where words do; of fewer too much is lost."""


def _carrying(example: Example) -> list[int]:
    """The places of the tokens that have a label."""
    return [position for position, tag in enumerate(example.target) if tag >= 0]


def labels_stand_on_their_spans(context: ProofContext) -> Proof:
    """The labels that the tokens carry say the spans of the row, where the tokens stand in the text."""
    spans, lost, first_lost = 0, 0, None
    for example in context.read:
        words, known = example.facts["words"], [span for span in example.facts["spans"] if span.label in example.facts["kinds"]]
        bounds = dict(zip(words.places.tolist(), zip(words.starts.tolist(), words.ends.tolist(), strict=True), strict=True))
        places = _carrying(example)
        spans_read = spans_said([example.target[position] for position in places])
        nowhere = (0, 0)
        recovered = {
            Span(bounds.get(places[one.first], nowhere)[0], bounds.get(places[one.last], nowhere)[1], example.facts["kinds"][one.kind])
            for one in spans_read
        }
        missed = [span for span in known if span not in recovered]
        if missed and not example.facts["cut"]:
            lost += len(missed)
            first_lost = first_lost or (example, missed[0])
        spans += len(known)
    share = 1 - lost / max(spans, 1)
    first = f"; the first is {first_lost[1].describe(first_lost[0].facts['text'])!r}" if first_lost else ""
    return Proof(
        held=share >= SAYABLE,
        claim=f"the labels of the tokens say {share:.1%} of {spans:,} spans to the character{first}" + ("" if share >= SAYABLE else ": they stand on other tokens, or spans begin or end inside of words"),
        evidence={"spans": spans, "lost": lost, **(row_of(first_lost[0]) if first_lost else {})},
    )  # fmt: skip


def special_tokens_carry_no_label(context: ProofContext) -> Proof:
    """What the tokenizer puts around a text, and padding, is not learned."""
    special = set(context.tokenizer.all_special_ids) - {context.tokenizer.unk_token_id}
    for example in context.read:
        wrong = next((position for position in _carrying(example) if example.tokens[position] in special), None)
        if wrong is not None:
            return Proof(held=False, claim=f"token {wrong} is {context.tokenizer.decode([example.tokens[wrong]])}, which belongs to no text, and has a label",
                         evidence={**row_of(example), "token": wrong})  # fmt: skip
    return Proof(held=True, claim="no label stands on a token that the tokenizer put around a text", evidence={"rows": len(context.read)})


def each_word_counts_once(context: ProofContext) -> Proof:
    """A word that two windows read is learned and judged in one of them."""
    windows = 0
    for example in context.read:
        words = example.facts["words"]
        several = example.inputs["place"].count(0)
        windows += several
        twice = Counter(zip(words.starts.tolist(), words.ends.tolist(), strict=True))
        word, times = twice.most_common(1)[0] if twice else ((0, 0), 1)
        if times > 1 or len(_carrying(example)) > len(twice):
            claim = f"{len(_carrying(example))} labels stand on {len(twice)} words: words that two windows share are counted twice"
            return Proof(held=False, claim=claim, evidence={**row_of(example), "windows": several, "word": list(word)})
    return Proof(
        held=True, claim=f"every word of {len(context.read):,} rows ({windows:,} windows) has one label", evidence={"windows": windows}
    )


def starts_where_it_must(context: ProofContext) -> Proof:
    """A new head knows nothing: the loss of a word is the logarithm of the number of labels."""
    from luthier.evaluation.score import score

    scores = score(context.model, context.objective, context.rows)
    began = float(scores.loss.sum() / scores.count.sum())
    expected = math.log(1 + 2 * len(context.spec.labels))
    return Proof(
        held=began <= expected + max(0.5, 0.25 * expected),
        claim=f"the loss of a word begins at {began:.3f}; a head that knows nothing has {expected:.3f}",
        evidence={"loss": began, "expected": expected},
    )


READ = (labels_stand_on_their_spans, special_tokens_carry_no_label, each_word_counts_once)
"""Those that only read examples."""
