"""What every family promises, tried on each of the table: recognised, split, proven, trained as a plain loop trains, resumed to the same bytes, judged, shipped, used."""

from __future__ import annotations

import base64
import inspect
import json
import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import luthier
from luthier.core.run import Run
from luthier.core.types import Loss, Scores
from luthier.data.dataset import Dataset
from luthier.data.spec import Data
from luthier.delivery.exports import EXPORTERS
from luthier.evaluation.metrics import measure
from luthier.evaluation.score import score
from luthier.experiment import Experiment
from luthier.families import FAMILIES, family_of
from luthier.families.recognise import load_dataset
from luthier.models.store import resolve
from luthier.optim.schedules import progress
from luthier.serving.limits import Limits
from luthier.training.assemble import assemble
from luthier.training.devices import decide_device_fields
from luthier.training.prove import find_disproved, prove
from luthier.training.steps import Work, steps
from tests import processes
from tests.families.cases import CASES, QUICK, Case, base_of

FOREVER = 1e6
SHORT = 20
"""Tokens of an answer: a model that has learned for 16 steps does not end one by itself."""
NOISE = 1e-4
"""Of what each weight of a tensor would have if this tensor had the whole gradient, evenly: a smaller one may be rounding."""
TRAINED = [name for name in FAMILIES if family_of(name).Spec is not None]


@dataclass
class Tried:
    """A family's finished run."""

    name: str
    case: Case
    rows: Path
    base: str
    run: Run
    datasets: dict[str, Dataset] = field(default_factory=dict)

    def read(self, data: Data) -> Dataset:
        """The rows, read once."""
        key = data.model_dump_json()
        if key not in self.datasets:
            self.datasets[key] = load_dataset(data, checks=())
        return self.datasets[key]


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Name of a family → its run, made once."""
    made: dict[str, Tried] = {}
    folder = tmp_path_factory.mktemp("families")

    def one(name: str) -> Tried:
        if name not in made:
            case, place = CASES[name], folder / name
            place.mkdir()
            rows, base = case.write(place), base_of(case, folder)
            run = luthier.run(rows, base=base, out=place / "run", set=[*QUICK, *case.changes], force=True, **case.options)
            made[name] = Tried(name, case, rows, base, run)
        return made[name]

    return one


def work_of(it: Tried, **changes: Any) -> Work:
    """The run's parts, built anew."""
    experiment = Experiment.load(it.run.folder / "experiment.yaml").model_copy(update={"environment": {}})
    for path, value in changes.items():
        experiment = experiment.replace(path.replace("__", "."), value)
    experiment = decide_device_fields(experiment)
    dataset = it.read(experiment.data)
    base = resolve(experiment.model.base) if experiment.model.base else None
    return assemble(experiment, base, family_of(it.name).load_processor(base, experiment.objective, dataset), dataset.records)


def weights_of(bundle: Path) -> dict[str, torch.Tensor]:
    return load_file(bundle / "model.safetensors")


def test_every_family_that_can_be_trained_has_a_row() -> None:
    assert sorted(CASES) == sorted(TRAINED)


@pytest.mark.parametrize("name", TRAINED)
def test_its_rows_are_recognised_split_and_proven(tried: Any, name: str) -> None:
    it = tried(name)
    experiment = Experiment.load(it.run.folder / "experiment.yaml")
    assert experiment.data.task == name == experiment.objective.kind  # type: ignore[attr-defined]
    parts = it.run.json("splits.json")["rows"]
    assert all(parts[part] for part in ("train", "validation", "test"))
    places = [tuple(row) for rows in parts.values() for row in rows]
    assert len(set(places)) == len(places)
    proofs = it.run.json("proofs.json")["proofs"]
    assert len(proofs) >= 6
    assert all(proof["held"] for proof in proofs), [proof for proof in proofs if not proof["held"]]


@dataclass
class Taken:
    """What a step did: the mean gradient that it was taken by, before it was clipped, and the parameters behind it."""

    gradients: dict[str, torch.Tensor]
    parameters: dict[str, torch.Tensor]


def plain_steps(work: Work, count: int) -> list[Taken]:
    """Steps as a plain loop of PyTorch takes them: its own gradients, clipping and optimizer."""
    network, spec = work.model.network, work.experiment.optimizer
    settings: Any = spec
    network.train()
    of_rows = {"lr": settings.lr, "eps": getattr(settings, "eps", 1e-8)}
    moments = {"betas": getattr(settings, "betas", (0.9, 0.999))}
    kind, more = (torch.optim.Adagrad, {}) if settings.kind == "adagrad" else (torch.optim.AdamW, moments)
    moving = [each for each in network.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in moving if each.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [each for each in moving if each.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = kind(groups, **of_rows, **more)
    for embedding in (module for module in network.modules() if isinstance(module, torch.nn.Embedding)):
        embedding.sparse = False
    taken = []
    for number in range(count):
        batch = work.objective.collate(work.examples_of_step(number), work.experiment.seed, number)
        with work.model.dropout_keys.set_keys(work.experiment.seed, number, batch.index, batch.lengths, batch.stream_lengths):
            loss = work.objective.loss(work.model, batch)
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        for each in network.parameters():
            each.grad = each.grad.to_dense() if each.grad is not None and each.grad.is_sparse else each.grad
        gradients = {key: each.grad.clone() for key, each in network.named_parameters() if each.grad is not None}
        if settings.clip:
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * progress(work.experiment.schedule, number, work.total)[1]
        optimizer.step()
        taken.append(Taken(gradients, {key: each.detach().clone() for key, each in network.named_parameters()}))
    return taken


def our_steps(work: Work, count: int) -> list[Taken]:
    """The same steps as a run takes them."""
    sums: dict[str, torch.Tensor] = {}

    def note() -> None:
        sums.clear()
        for key, master in work.masters.outer.items():
            if master.grad is None:
                continue
            whole = master.grad.to_dense() if master.grad.is_sparse else master.grad.clone()
            if key in work.masters.sparse_rows:  # of an embedding the rows of the tokens that the examples hold
                rows, whole = whole, torch.zeros_like(work.masters.inner[key])
                whole[work.masters.sparse_rows[key].tokens] = rows
            sums[key] = whole

    work.masters.before_moving = note
    results, network = [], work.model.network
    for _, step in zip(range(count), steps(work), strict=False):
        gradients = {key: each / step.count for key, each in sums.items()}
        results.append(Taken(gradients, {key: each.detach().clone() for key, each in network.named_parameters()}))
    return results


def norm_of(parts: Iterable[torch.Tensor]) -> float:
    return sum(float(part.double().norm() ** 2) for part in parts) ** 0.5


@pytest.mark.parametrize("name", TRAINED)
def test_two_steps_are_those_of_a_plain_loop(tried: Any, name: str) -> None:
    """All gradients, and all weights but those whose gradient is rounding: Adam divides a gradient by its own size, so of noise it makes whole steps.

    Such weights have moved apart when the second step begins, so its gradients are allowed a little more.
    """
    changes = {"model__dropout": 0.0, "training__dtype": "float32", "training__micro_batch_tokens": 1 << 30}
    start = {key: each.detach().clone() for key, each in work_of(tried(name), **changes).model.network.named_parameters()}
    ours, plain = our_steps(work_of(tried(name), **changes), 2), plain_steps(work_of(tried(name), **changes), 2)
    told = {key: torch.ones_like(each, dtype=torch.bool) for key, each in start.items()}
    for one, other, allowed in zip(ours, plain, (1e-5, 3e-5), strict=True):
        size = norm_of(other.gradients.values())
        assert size > 0
        assert one.gradients.keys() <= other.gradients.keys()
        gradients = {key: one.gradients.get(key, torch.zeros_like(each)) - each for key, each in other.gradients.items()}
        apart = norm_of(gradients.values())
        assert apart < allowed * size, (apart, size)
        for key, each in other.gradients.items():
            if each.any():  # rows of tokens that are never met have none: a plain loop lets them decay, here they stay as they are
                told[key] &= each.abs() > NOISE * size / each.numel() ** 0.5
        moved = norm_of((each - start[key])[told[key]] for key, each in other.parameters.items())
        off = norm_of((one.parameters[key] - each)[told[key]] for key, each in other.parameters.items())
        assert moved > 0
        assert off < allowed * moved, (off, moved)
    weights, compared = (sum(int(count) for count in counts) for counts in ((each.numel() for each in start.values()), (each.sum() for each in told.values())))  # fmt: skip
    assert compared > 0.1 * weights, (compared, weights)


@pytest.mark.parametrize("name", TRAINED)
def test_micro_batches_change_nothing_or_it_says_that_it_does_not_split(tried: Any, name: str) -> None:
    whole, split = (
        work_of(tried(name), model__dropout=0.0, training__dtype="float32", training__micro_batch_tokens=limit) for limit in (1 << 30, 1)
    )
    for work in (whole, split):
        next(steps(work))
    one, two = whole.masters.weights(), split.masters.weights()
    if not whole.objective.splits:
        assert all(torch.equal(one[key], two[key]) for key in one)
        return
    moved = [key for key in one if not key.endswith("key.bias")]  # it has no gradient but rounding, of which Adam makes whole steps
    for key in (
        moved
    ):  # Adam makes a good part of a step of a gradient that is nearly zero: of single weights rounding is seen, on some processors
        apart = (one[key] - two[key]).abs()
        assert int((apart > 3e-5).sum()) <= max(1, apart.numel() // 500), key
        assert float(apart.max()) < 0.1 * whole.experiment.optimizer.lr, key


@pytest.mark.parametrize("name", TRAINED)
def test_what_was_stopped_and_resumed_ships_the_same_bytes(tried: Any, name: str, tmp_path: Path) -> None:
    it = tried(name)

    def stop(step: Any) -> None:
        if step.number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        luthier.run(
            it.rows, base=it.base, out=tmp_path / "run", set=[*QUICK, *it.case.changes], force=True, watchers=[stop], **it.case.options
        )
    again = luthier.resume(tmp_path / "run")
    one, two = weights_of(it.run.folder / "bundle"), weights_of(again.folder / "bundle")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    first, second = it.run.verdict, again.verdict
    assert first is not None and second is not None
    assert first["test"] == second["test"]


class Page(HTMLParser):
    """Counts what stands in a page, and refuses tags that do not close."""

    EMPTY = ("meta", "link", "br", "img", "input", "hr", "circle", "line", "path", "rect", "polyline", "polygon", "col", "use")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize("name", TRAINED)
def test_its_report_is_a_whole_page_that_tells_the_verdict(tried: Any, name: str) -> None:
    page = Page()
    page.feed((tried(name).run.folder / "report.html").read_text())
    assert not page.open
    said = " ".join(page.texts)
    assert "unseen rows" in said
    assert "Traceback" not in said


def test_every_bundle_says_in_a_fresh_process_what_it_says_here(tried: Any) -> None:
    asked = {name: (str(tried(name).run.folder), list(tried(name).case.ask)) for name in TRAINED}
    here = {name: luthier.predict(folder, rows, limit=SHORT) for name, (folder, rows) in asked.items()}
    code = f"import json, luthier\nprint('ANSWER' + json.dumps({{name: luthier.predict(folder, rows, limit={SHORT}) for name, (folder, rows) in {asked!r}.items()}}))"
    done = processes.run("-c", code, check=True)
    there = json.loads(done.stdout.split("ANSWER")[-1])
    for name in TRAINED:
        assert json.loads(json.dumps(here[name])) == there[name]
        assert len(there[name]) == len(asked[name][1])


@pytest.mark.parametrize("name", TRAINED)
def test_the_bundle_scores_what_the_verdict_says(tried: Any, name: str) -> None:
    from luthier.delivery.bundle import open_bundle

    it = tried(name)
    base = resolve(str(it.run.folder))
    assert base.bundle is not None and it.run.verdict is not None
    family = family_of(name)
    model, objective = open_bundle(base, family.load_processor(base, family.spec_class.model_validate(base.bundle["objective"])))
    dataset = it.read(Experiment.load(it.run.folder / "experiment.yaml").data)
    metric = it.run.verdict["metric"]
    found = measure(score(model, objective, objective.prepare(dataset.records["test"])), (metric,))[metric]
    assert found == pytest.approx(it.run.verdict["test"]["value"], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("name", TRAINED)
def test_planted_bugs_are_caught(tried: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is averaged in each micro-batch by itself, and an evaluation that counts other rows than training."""
    work = work_of(tried(name), model__dropout=0.0)
    own_loss, own_score = type(work.objective).loss, type(work.objective).score

    def serve(record: Any) -> Any:
        return family_of(name).serving_inputs(record, work.objective)

    def average(self: Any, model: Any, batch: Any) -> Loss:
        found = own_loss(self, model, batch)
        return Loss(found.total / max(found.count, 1), 1.0)

    def halve(self: Any, model: Any, batch: Any) -> Scores:
        found = own_score(self, model, batch)
        return Scores(found.loss / 2, found.count, found.target, found.probabilities, found.bytes, found.labels, more=found.more)

    monkeypatch.setattr(type(work.objective), "score", halve)
    assert "judged as trained" in {proof.name for proof in find_disproved(prove(work, serve, FOREVER))}
    monkeypatch.setattr(type(work.objective), "score", own_score)
    if work.objective.splits:
        work = work_of(tried(name), model__dropout=0.0)
        monkeypatch.setattr(type(work.objective), "loss", average)
        assert {"accumulated is whole", "judged as trained"} & {proof.name for proof in find_disproved(prove(work, serve, FOREVER))}


@pytest.mark.parametrize("name", TRAINED)
def test_its_bundle_says_over_http_exactly_what_it_says_here(
    tried: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Limits().default_tokens == inspect.signature(luthier.predict).parameters["limit"].default  # so nobody has to say it
    monkeypatch.setenv("LUTHIER_HOME", str(tmp_path))
    it = tried(name)
    running = luthier.serve(it.run.folder, port=0, say=lambda line: None, wait=False)
    try:
        images, model = family_of(name).kind.images, running.service.model
        limit = {"limit": SHORT} if model.engine or model.objective.writes else {}
        rows = [base64.b64encode(Path(row).read_bytes()).decode() if images else row for row in it.case.ask]
        for asked in (rows, rows[:1], [running.service.model.example]):
            request = urllib.request.Request(
                f"{running.address}/predict",
                json.dumps({"rows": asked, **limit}).encode(),
                {"Authorization": f"Bearer {running.token}", "Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request) as answer:
                said = json.load(answer)["data"]
            if asked is rows or asked == rows[:1]:
                assert said == json.loads(json.dumps(luthier.predict(it.run.folder, list(it.case.ask)[: len(asked)], limit=SHORT)))
            assert len(said) == len(asked)
    finally:
        running.close(0)


@pytest.mark.parametrize("name", TRAINED)
def test_an_export_of_its_bundle_says_the_same(tried: Any, name: str, tmp_path: Path) -> None:
    """In the first of these formats that holds it, proven stage by stage in a runtime that is not torch."""
    pytest.importorskip("onnxruntime")
    it = tried(name)
    bundle = resolve(str(it.run.folder))
    (format, *_) = [each for each in ("onnx", "word2vec") if not EXPORTERS[each]().refuse(bundle, EXPORTERS[each].precisions[0])]
    done = luthier.export(it.run.folder, to=format, out=tmp_path / "exported", most=3)
    assert done.parity is not None
    states = {stage["name"]: stage["state"] for stage in done.parity["stages"]}
    assert done.parity["same"] and "parts" not in states.values()
    assert states["token ids"] == states["log-probabilities"] == "same"
