"""A data set of the hub, as files that lie here."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

from luthier.core.errors import DataError, nearest
from luthier.core.hub import Unreachable, fetch_files, files_of
from luthier.data.row_files import ENDINGS
from luthier.data.spec import Data

PARTS = {"train": "path", "validation": "validation", "valid": "validation", "dev": "validation", "val": "validation", "test": "test"}
_PART = re.compile(rf"(?:^|[/_.-])({'|'.join(PARTS)})(?=[/_.-])")
_SHARD = re.compile(r"-\d{5}-of-\d{5}(?:-[0-9a-f]+)?(?=\.)")
LARGEST = 2 << 30
"""Bytes of a data set that are fetched; rows are held in memory."""


def from_hub(spec: Data, name: str) -> Data:
    """The specification with the hub's files in the place of its name.

    Args:
        spec: its path names the data set.
        name: owner/name, or owner/name/set where the repository holds several.

    Raises:
        DataError: it is not there, too large, or does not say which of its files are meant.
    """
    owner, own, *part = name.split("/")
    repository, prefix = f"{owner}/{own}", "/".join(part)
    try:
        sizes = files_of(repository, "dataset")
        chosen = _choose_files(repository, [file for file in sizes if file.startswith(prefix)], prefix)
        total = sum(sizes[file] for files in chosen.values() for file in files)
        if total > LARGEST:
            raise DataError(f"{name} has {total / 1e9:.1f} GB, more than fits in memory", "fetch a part of it, and give that file")
        folder = fetch_files(repository, "dataset", [file for files in chosen.values() for file in files])
    except Unreachable as problem:
        raise DataError(f"{name} is no file here, and the hub's data set of that name is not to be had: {problem}", "check the path, or the connection") from None  # fmt: skip
    return spec.model_copy(update={field: _place(folder, files) for field, files in chosen.items()})


def _choose_files(repository: str, files: list[str], prefix: str) -> dict[str, list[str]]:
    """Field of the specification → its files, in their order."""
    rows = [file for file in sorted(files) if Path(file).suffix.lower() in ENDINGS and Path(file).suffix.lower() != ".txt"]
    parts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for file in rows:
        matches = _PART.findall(file.lower())
        if matches:
            parts[PARTS[matches[-1]]][_SHARD.sub("", file)].append(file)
    if not parts and len(rows) == 1:
        return {"path": rows}
    several = sorted(
        {str(Path(file).parent) for kinds in parts.values() if len(kinds) > 1 for file in kinds} | ({*rows} if not parts else set())
    )
    if several:
        listing = ", ".join(several[:12])
        raise DataError(
            f"{repository} holds several sets: {listing}", f"name one of them: {repository}/{several[0]}; {nearest(prefix, several)}"
        )
    if "path" not in parts:
        raise DataError(
            f"{repository} has no training rows among its files ({', '.join(files[:8]) or 'none'})", "fetch it, and give the file itself"
        )
    return {field: next(iter(kinds.values())) for field, kinds in parts.items()}


def _place(folder: Path, files: list[str]) -> str:
    """One file, or a folder of its own for files that belong together: the rest of the repository does not lie in it."""
    if len(files) == 1:
        return str(folder / files[0])
    together = folder / f".luthier-{_SHARD.sub('', files[0]).replace('/', '-')}"
    together.mkdir(exist_ok=True)
    for file in files:
        link = together / Path(file).name
        if not link.exists():
            link.symlink_to((folder / file).resolve())
    return str(together)
