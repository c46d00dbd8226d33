"""The data sets that another trainer's file names: where they lie, how their rows are laid out, and all of them as one file of conversations, pairs or texts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.core.errors import DataError, ExperimentError, nearest
from luthier.core.hub import NAME
from luthier.core.run import AGAIN, name_disk_errors, write_file
from luthier.core.words import plural, several
from luthier.data.foreign_rows import Layout
from luthier.data.hub import from_hub
from luthier.data.read_rows import read
from luthier.data.spec import Data

Say = Callable[[str], None]
ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history"}
PART = re.compile(r"train(?:\[:(?:(?P<share>\d{1,2}(?:\.\d+)?)%|(?P<most>\d+))\])?")
"""The rows that are meant: train, train[:20%], train[:500]."""
CATALOGUE = "dataset_info.json"


@dataclass(frozen=True)
class ForeignSet:
    """One data set of another trainer's file.

    Args:
        name: as the file names it.
        place: a file or folder, or a name on the hub.
        layout: how its rows are laid out.
        most: rows that are taken of it, from its beginning; 0 takes all.
        share: of its rows, from its beginning.
    """

    name: str
    place: str
    layout: Layout
    most: int = 0
    share: float = 1.0

    def take(self, rows: list[Any]) -> list[Any]:
        """Those of the rows that are named."""
        rows = rows[: round(self.share * len(rows))] if self.share < 1 else rows
        return rows[: self.most] if self.most else rows


def find_sets(config: Mapping[str, Any], trainer: str, file: Path) -> list[ForeignSet]:
    """The data sets that a file names.

    Args:
        config: its keys and values.
        trainer: whose file it is.
        file: where it lies; its folder is looked into where the current one holds no such path.

    Raises:
        ExperimentError: it names none, or one whose rows are laid out in a way that is not known.
    """
    sets = _of_llamafactory(config, file) if trainer == "llamafactory" else _of_axolotl(config)
    if not sets:
        raise ExperimentError(f"{file} names no data set", "give one: --data FILE")
    return sets


def _of_axolotl(config: Mapping[str, Any]) -> list[ForeignSet]:
    datasets = config.get("datasets") or config.get("pretraining_dataset") or []
    sets = []
    for entry in [datasets] if isinstance(datasets, Mapping | str) else datasets:
        entry = {"path": entry} if isinstance(entry, str) else entry
        if not isinstance(entry, Mapping) or not entry.get("path"):
            raise ExperimentError(f"a data set is named without a path: {str(entry)[:80]}", "write it as - path: FILE")
        name = str(entry["path"])
        part = PART.fullmatch(str(entry.get("split") or "train"))
        if part is None or entry.get("shards"):
            raise ExperimentError(
                f"{name}: only a part of it is named (split: {entry.get('split')}), which is not read",
                "write that part into a file, and give it with --data",
            )
        files = entry.get("data_files")
        places = [str(file) for file in ([files] if isinstance(files, str) else files or [name])]
        kind = entry.get("type") or ("completion" if config.get("pretraining_dataset") else "")
        layout = replace(_axolotl_layout(name, entry, kind, bool(config.get("rl"))), system=str(config.get("default_system_message") or ""))
        most, share = int(part["most"] or 0), float(part["share"] or 100.0) / 100
        sets += [ForeignSet(name, path, layout, most, share) for path in places]
    return sets


def _axolotl_layout(name: str, entry: Mapping[str, Any], kind: Any, pairs: bool) -> Layout:
    """How a data set of Axolotl's is laid out, by its type."""
    if isinstance(kind, Mapping):
        if kind.get("format") or kind.get("no_input_format"):
            raise ExperimentError(
                f"{name}: a prompt format of its own is not kept",
                "rows are conversations here, laid out by the base's chat template: give --data with such rows",
            )
        columns = {
            "prompt": kind.get("field_instruction", "instruction"),
            "query": kind.get("field_input", "input"),
            "response": kind.get("field_output", "output"),
        }
        return Layout("instruction", {**columns, "system": str(kind.get("field_system") or "system")})
    word = str(kind).partition(".")[0].partition(":")[0]
    names = entry.get("message_property_mappings") or {}
    tags = (
        str(entry.get("message_field_role") or names.get("role") or "role"),
        str(entry.get("message_field_content") or names.get("content") or "content"),
    )
    roles = {str(alias): str(role) for role, aliases in (entry.get("roles") or {}).items() for alias in aliases or []}
    if pairs:
        field = {side: str(entry.get(f"field_{side}") or side) for side in ("chosen", "rejected")}
        messages = {"messages": str(entry.get("field_messages") or "messages")} if word == "chat_template" else {}
        common = {"prompt": str(entry.get("field_prompt") or "prompt"), "system": str(entry.get("field_system") or "system")}
        return Layout("pair", {**common, **messages, **field}, tags, roles)
    if word in ("alpaca", "alpaca_w_system", "alpaca_chat"):
        return Layout("instruction", ALPACA)
    if word in ("chat_template", "sharegpt"):
        own = "conversations" if word == "sharegpt" else "messages"
        return Layout(
            "turns",
            {"messages": str(entry.get("field_messages") or entry.get("conversation_field") or own)},
            ("from", "value") if word == "sharegpt" else tags,
            roles,
        )
    if word in ("completion", "pretrain"):
        return Layout("text", {"text": str(entry.get("field") or entry.get("text_column") or "text")})
    known = ("alpaca", "chat_template", "sharegpt", "completion", "pretrain")
    raise ExperimentError(
        f"{name}: rows of the type {kind!r} are not known here", f"{nearest(word, known)}; or give rows that Luthier reads: --data FILE"
    )


def _of_llamafactory(config: Mapping[str, Any], file: Path) -> list[ForeignSet]:
    datasets = config.get("dataset") or []
    names = [name.strip() for name in datasets.split(",")] if isinstance(datasets, str) else [str(name) for name in datasets]
    if not names:
        return []
    folder = locate(str(config.get("dataset_dir") or "data"), file)
    catalogue = folder / CATALOGUE
    try:
        entries = json.loads(catalogue.read_text())
    except (OSError, ValueError) as problem:
        raise ExperimentError(
            f"{catalogue}, which says what {names[0]!r} is, cannot be read: {problem}",
            "set dataset_dir to the folder that holds it, or give the rows: --data FILE",
        ) from None
    most = config.get("max_samples") or 0
    if isinstance(most, bool) or not isinstance(most, int) or most < 0:
        raise ExperimentError(f"max_samples: {most!r} is no whole number above 0", "mend the value in the file")
    return [_llamafactory_set(name, entries, folder, config, most) for name in names]


def _llamafactory_set(name: str, entries: Any, folder: Path, config: Mapping[str, Any], most: int) -> ForeignSet:
    if not isinstance(entries, Mapping) or not isinstance(entries.get(name), Mapping):
        raise ExperimentError(
            f"{folder / CATALOGUE} knows no data set {name!r}", nearest(name, entries if isinstance(entries, Mapping) else ())
        )
    about = entries[name]
    path = str(folder / about["file_name"]) if about.get("file_name") else str(about.get("hf_hub_url") or "")
    if not path:
        raise ExperimentError(f"{name} is neither a file nor on the Hugging Face hub", "give its rows: --data FILE")
    if about.get("subset") or str(about.get("split") or "train") != "train" or about.get("folder"):
        raise ExperimentError(
            f"{name}: only a part of it is named, which is not read", "write that part into a file, and give it with --data"
        )
    sharegpt = about.get("formatting") == "sharegpt"
    columns = {key: str(value) for key, value in (about.get("columns") or {}).items() if value}
    own: dict[str, str] = (
        {"messages": "conversations"}
        if sharegpt
        else {key: value for key, value in ALPACA.items() if key in ("prompt", "query", "response")}
    )
    for part in ("images", "videos", "audios", "tools", "kto_tag"):
        if part in columns:
            raise ExperimentError(f"{name} has {part}, which are not learned from here", "choose another data set")
    tags = about.get("tags") or {}
    roles = {str(tags[f"{role}_tag"]): role for role in ("user", "assistant", "system") if tags.get(f"{role}_tag")}
    kind: Any = "pair" if about.get("ranking") else "text" if config.get("stage") == "pt" else "turns" if sharegpt else "instruction"
    columns = {**own, **columns}
    if kind == "text":
        columns = {"text": columns["prompt"]}
    if kind == "pair":
        columns = {"chosen": "chosen", "rejected": "rejected", **columns}
    layout = Layout(
        kind,
        columns,
        (str(tags.get("role_tag") or "from"), str(tags.get("content_tag") or "value")),
        roles,
        str(config.get("default_system") or ""),
    )
    return ForeignSet(name, path, layout, most)


def locate(path: str, file: Path) -> Path:
    """A path of another trainer's file: as from the current folder, as the trainers take it; where nothing is there, from the file's own."""
    location = Path(path).expanduser()
    beside = file.parent / location
    return beside if not location.is_absolute() and not location.exists() and beside.exists() else location


def write_rows(sets: Sequence[ForeignSet], file: Path, out: Path, say: Say) -> int:
    """Write the rows of all sets into one file, as this project's readers know them.

    Args:
        sets: one or several; those of one experiment are of one kind.
        file: the trainer's file, beside which paths are looked for.
        out: .jsonl; made anew.
        say: told where rows are read from a place outside, and what could not be read.

    Returns:
        How many rows were written.

    Raises:
        DataError: a set is not to be had, or holds no row that can be read so.
    """
    lines: list[str] = []
    for foreign_set in sets:
        path = _place_of(foreign_set, file, say)
        rows = read(path)
        samples = foreign_set.take(rows.values)
        records, reasons = [], []
        for values in samples:
            try:
                records.append(json.dumps(foreign_set.layout.rewrite(values), ensure_ascii=False))
            except ValueError as problem:
                reasons.append(str(problem))
        if not records:
            raise DataError(f"{foreign_set.name} ({path}) holds no row that can be read so: {reasons[0] if reasons else 'it is empty'}",
                            f"its columns are {', '.join(rows.columns)}; give rows that Luthier reads: --data FILE")  # fmt: skip
        if reasons:
            say(f"{foreign_set.name}: {several(len(reasons), 'row', 'are left out')}; the first: {reasons[0]}")
        say(f"{foreign_set.name}: {plural(len(records), 'row')} of {path}")
        lines += records
    with name_disk_errors(str(out), AGAIN):
        out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, "\n".join(lines) + "\n", AGAIN)
    return len(lines)


def _place_of(foreign_set: ForeignSet, file: Path, say: Say) -> Path:
    """The file or folder of a set; what lies on the hub is fetched."""
    path = locate(foreign_set.place, file)
    if path.exists():
        inside = any(path.resolve().is_relative_to(home.resolve()) for home in (Path.cwd(), file.parent))
        if not inside:
            say(f"{foreign_set.name} is read from {path.resolve()}, outside of this folder and of {file.parent}")
        return path
    if NAME.fullmatch(foreign_set.place) and not foreign_set.place.startswith((".", "/")):
        say(f"{foreign_set.place} is no file here: fetching the data set of that name from the hub")
        return Path(from_hub(Data(path=foreign_set.place), foreign_set.place).path)
    raise DataError(f"{foreign_set.name}: there is no file {path}", "put it there, or give the rows: --data FILE")
