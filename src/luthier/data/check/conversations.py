"""Faults in conversations and in pairs of texts: answers that repeat the prompt or each other, and control tokens inside texts."""

from __future__ import annotations

from collections import Counter

from luthier.core.finding import Finding
from luthier.core.words import several
from luthier.data.check.sheet import Sheet
from luthier.data.near_duplicates import normalise

CONTROL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "[INST]",
    "[/INST]",
    "<s>",
    "</s>",
    "<start_of_turn>",
    "<end_of_turn>",
)
OFTEN = 0.02


def check(sheet: Sheet) -> list[Finding]:
    """Answers (of pairs: targets) that repeat their prompt (source) or each other, and control tokens written into the text."""
    if sheet.kind.learns != "answer":
        return []
    prompt, answer = sheet.kind.names
    findings = []
    echoed = [row for row in range(len(sheet)) if len(said := normalise(sheet.labels[row])) > 20 and said in sheet.plain[row]]
    if echoed:
        severity = "warning" if len(echoed) > OFTEN * len(sheet) else "note"
        whole = sum(normalise(sheet.labels[row]) == sheet.plain[row] for row in echoed)
        own = f"{'its' if len(echoed) == 1 else 'their'} {prompt}"
        repeated = f"{own} or a part of it, {whole:,} of them word for word" if whole else f"only a part of {own}"
        claim = several(len(echoed), answer, f"repeat {own if whole == len(echoed) else repeated}")
        findings.append(
            sheet.finding("conversations.echo", severity, claim, f"look whether {prompt} and {answer} were joined or mixed up", echoed)
        )
    same, count = Counter(normalise(label) for label in sheet.labels).most_common(1)[0]
    if count > max(3, OFTEN * len(sheet)):
        rows = [row for row in range(len(sheet)) if normalise(sheet.labels[row]) == same]
        findings.append(sheet.finding("conversations.same", "warning", f"{count:,} {prompt}s have the same {answer}", "the model will learn to say it always", rows))  # fmt: skip
    marks = [mark for mark in dict.fromkeys((*CONTROL, *sheet.control)) if len(mark) > 2]
    written = [row for row in range(len(sheet)) if any(mark in sheet.texts[row] or mark in sheet.labels[row] for mark in marks)]
    if written:
        notes = [", ".join(mark for mark in marks if mark in sheet.texts[row] + sheet.labels[row]) for row in written]
        findings.append(sheet.finding("conversations.control", "warning", several(len(written), "row", "hold a template's control tokens as text"),
                                      "they are encoded as plain text; if a template was applied before, take it out: it is applied once, here", written, notes=notes))  # fmt: skip
    return findings
