"""Put a run's bundle on the hub of models, with its card."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from luthier.core import hub
from luthier.core.errors import ModelError
from luthier.core.words import plural, size
from luthier.models.manifest import FACTS, OTHER_ENDINGS, read_bundle
from luthier.pilot.stages.named_runs import bundle_of, run_or_bundle

Say = Callable[[str], None]
CARD = "README.md"
LANGUAGES = {
    "English": "en",
    "German": "de",
    "French": "fr",
    "Spanish": "es",
    "Italian": "it",
    "Japanese": "ja",
    "Chinese": "zh",
    "many": "multilingual",
}
LICENCES = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gemma", "llama3", "cc-by-4.0", "cc-by-sa-4.0", "cc0-1.0", "other")
"""As the hub names them; any other is `other` there."""


@dataclass(frozen=True)
class Pushed:
    """What was put on the hub, or would be.

    Args:
        name: owner/name.
        url: of the repository.
        private: whether only its owner sees it.
        files: name → bytes.
        commit: on the hub; empty where nothing was sent.
        removed: files of an earlier push that are not part of this bundle.
    """

    name: str
    url: str
    private: bool
    files: dict[str, int]
    commit: str = ""
    removed: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(self)


def push(
    run: str | os.PathLike[str],
    name: str,
    *,
    public: bool = False,
    dry_run: bool = False,
    message: str | None = None,
    say: Say = lambda line: None,
) -> Pushed:
    """Put a bundle on the hub: its files as they are, and its card with what the hub reads of it.

    Args:
        run: the folder of a run, a study or a bundle, or an alias.
        name: owner/name of the repository; it is made where it is not there.
        public: let everybody see it; otherwise only its owner does.
        dry_run: only say what would be sent.
        message: of the commit.
        say: told what is sent, before it is.

    Returns:
        What was sent.

    Raises:
        ModelError: the bundle is not whole, the name is no name, or the hub cannot be reached or does not let it happen.
    """
    if not hub.NAME.fullmatch(name):
        raise ModelError(f"{name!r} names no repository of the hub", "write it as owner/name, such as me/intents")
    bundle = bundle_of(run_or_bundle(run))
    facts, _ = read_bundle(bundle)
    with tempfile.TemporaryDirectory() as aside:
        card = Path(aside) / CARD
        card.write_text(card_for_hub((bundle / CARD).read_text() if (bundle / CARD).is_file() else "", name))
        files = {where: bundle / where for where in (*facts.get("files", {}), FACTS)} | {CARD: card}
        sizes = {where: path.stat().st_size for where, path in files.items()}
        say(
            f"{name} ({'public' if public else 'private'}): {plural(len(files), 'file')}, {size(sum(sizes.values()))}: {', '.join(sorted(files))}"
        )
        base = str((facts.get("base") or {}).get("name") or "")
        if "/" in base and not hub.NAME.fullmatch(base):
            say(f"{FACTS} names the base by the folder that it lay in: {base}")
        result = Pushed(name, f"{hub.endpoint()}/{name}", not public, sizes)
        if dry_run:
            return result
        try:
            commit, removed = hub.push_files(
                name, files, message or f"Luthier: {bundle.parent.name}", private=not public, mark=FACTS, beside=OTHER_ENDINGS
            )
        except hub.Unreachable as problem:
            raise ModelError(f"{name} could not be pushed: {problem}", _remedy(problem)) from None
    return Pushed(name, result.url, result.private, sizes, commit, removed)


def _remedy(problem: hub.Unreachable) -> str:
    message = str(problem)
    if "HF_HUB_OFFLINE" in message:
        return "unset HF_HUB_OFFLINE where the hub can be reached; `--dry-run` says what would be sent"
    if problem.status in (401, 403) or "no token" in message:
        return "log in with `hf auth login`, or set HF_TOKEN, with a token that may write to this name"
    if "public" in message:
        return "add --public to push to it all the same, or choose another name"
    if "did not put there" in message:
        return "choose another name"
    return "check the connection and the name, and type the command again: what was sent already is not sent twice"


def card_for_hub(card: str, name: str) -> str:
    """A bundle's card as the hub reads it: with metadata in its own words, and commands that name the repository.

    Args:
        card: README.md of the bundle.
        name: owner/name.
    """
    head, text = {}, card
    if card.startswith("---\n") and "\n---\n" in card[4:]:
        front, _, text = card[4:].partition("\n---\n")
        read = yaml.safe_load(front)
        head = read if isinstance(read, dict) else {}
    base, language, licence = (str(head.get(key) or "") for key in ("base_model", "language", "license"))
    if not hub.NAME.fullmatch(base):
        head.pop("base_model", None)  # a folder, or a name of ours, which leads nowhere there
    head["license"] = licence if licence in LICENCES else "other"
    head.pop("language", None)
    if language in LANGUAGES or (len(language) == 2 and language.islower()):
        head["language"] = LANGUAGES.get(language, language)
    head["tags"] = list(dict.fromkeys([*(head.get("tags") or []), "luthier"]))
    return f"---\n{yaml.safe_dump(head, sort_keys=True, allow_unicode=True)}---\n{text.replace('PATH', name)}"
