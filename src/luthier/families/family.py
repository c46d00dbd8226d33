"""What every family answers, in the order in which a run asks: rows, starting point, model and loss, proofs, judging, use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.core.component import Component
from luthier.core.errors import ExperimentError
from luthier.core.types import Example, Inputs, JsonObject, Record, Scores
from luthier.data.near_duplicates import clusters, normalise
from luthier.data.row_reader import Columns, RowKind, RowView
from luthier.data.rows import Rejected, Rows
from luthier.data.spec import Data
from luthier.data.usable_rows import reject_reason
from luthier.evaluation.metric_choice import AUTO
from luthier.families.choice import Choice

if TYPE_CHECKING:
    from luthier.core.cache import Cache
    from luthier.core.finding import Finding
    from luthier.core.interfaces import Objective, Processor, TrainableModel
    from luthier.core.proof import ProofFunction
    from luthier.data.dataset import Dataset
    from luthier.evaluation.baselines import Baseline, BaselineContext
    from luthier.evaluation.outputs import Outputs
    from luthier.models.base import Base
    from luthier.models.spec import Model


class Family(ABC):
    """One kind of model and data. A method without a default has to be written; the others suit texts that are read one row at a time."""

    name: str
    """As after `--task`, and as `objective.kind`."""
    kind: RowKind = RowKind()
    """What its rows are like."""
    specificity: int = 0
    """Of several families that recognise a table the one with the highest takes it."""
    Spec: type[Component] | None = None
    """The hyperparameters of what is learned; its `open` gives the objective. None: such rows can be checked, not trained on."""
    base: str | None = None
    """The base that is taken if nobody says another; None: the network is made from scratch."""
    from_scratch: bool = False
    """Whether `--base scratch` makes a network that knows nothing."""
    base_kinds: tuple[str, ...] = ("encoder", "decoder")
    """Kinds of bases that it can be trained on."""
    metrics: tuple[str, ...] = ("loss",)
    """The metrics that may decide, all of which the verdict gives of every model."""
    compares_untouched: bool = False
    """Whether the untouched base can be scored with the same loss, and so is a baseline."""
    reads_untouched: bool = False
    """Whether one of its baselines reads what the untouched base makes of rows (`BaselineContext.untouched`)."""
    has_reference: bool = False
    """Whether its objective also has to know what the untouched base says of the test rows."""
    generates: bool = False
    """Whether it answers in words."""
    converses: bool = False
    """Whether it answers the turns of a conversation: `luthier chat` can talk to it, and bases are compared by what they foresee of its answers."""
    embeds: bool = False
    """Whether a prediction holds the `vector` of a text, and of two texts their `similarity`: it is served as `/v1/embeddings`."""
    trains_base: bool = True
    """Whether the base's own weights may move; where not, its bundles are no base for another family: they hold an untouched one."""
    structured: tuple[str, ...] = ()
    """What of a prediction is a list of objects, which a file of predictions keeps as one (in CSV as JSON)."""
    known_as: tuple[str, ...] = ()
    """What other trainers call what it learns: stages of LLaMA-Factory, `rl` of Axolotl."""
    pipeline_tag: str = ""
    """What model hubs call it."""
    library: str = "transformers"
    """Which library reads its bundles without Luthier, as model hubs call it."""
    gives: str = ""
    """What an exported network of it gives, which is how exports and their proof know it: "classes", "labels", "number" or "vector" of a row, "tags" of its
    words, "gaps" (what is hidden), "text" (the next token), "sequence" (another text), "picture", "rebuilt" (a vector, with what it was to be) or "words" (a table); empty: it cannot be exported."""

    @property
    def spec_class(self) -> type[Component]:
        """The hyperparameters of what is learned.

        Raises:
            ExperimentError: such rows can be checked, not trained on.
        """
        if self.Spec is None:
            raise ExperimentError(f"rows for {self.name} can be checked (`luthier check`), and not be trained on yet", self.instead)
        return self.Spec

    instead: str = "only rows of text can be trained on so far"
    """The remedy where the rows cannot be trained on."""

    # rows

    def file_format(self, path: Path) -> str | None:
        """How a file or folder is read where a person insists on this family and its ending says something else: a name from `data.SOURCES`."""
        return None

    @abstractmethod
    def match(self, rows: Rows, path: str, asked: Data) -> Columns | None:
        """The columns that it would read of a table; None where it does not recognise it.

        Args:
            rows: of the training file.
            path: of it, for messages.
            asked: what the person named; `asked.task` is this family's name where they insist.

        Raises:
            DataError: why not, where the person insists or somebody should know.
        """

    def reject_reason(self, record: Record, columns: Columns) -> str:
        """Why a row cannot be used; empty where it can."""
        return reject_reason(record, columns)

    def row_view(self, record: Record, data: Data) -> RowView:
        """A row as splits and checks see it."""
        target = str(record.values.get(data.target)) if data.target else ""
        return RowView(record.text(data.input), target)

    def fit(self, parts: dict[str, list[Record]], columns: Columns, rejected: list[Rejected], path: str) -> tuple[str, ...]:
        """The classes that the rows have, where they have some; rows that cannot be learned from leave their parts."""
        return ()

    def clusters(self, records: Sequence[Record], data: Data) -> Sequence[int]:
        """For each row the number of its cluster of near-duplicates."""
        return clusters([self.row_view(record, data).text for record in records])

    def identity(self, record: Record, data: Data) -> str:
        """What copies of a row have in common."""
        return normalise(self.row_view(record, data).text)

    # starting point

    @abstractmethod
    def defaults(self, dataset: Dataset, base: Base | None, metric: str) -> list[Choice]:
        """The hyperparameters for these rows and this base, each with its reason.

        Args:
            dataset: the rows.
            base: that is trained; None where it is made from scratch or, in a family that never is, is the family's own.
            metric: that the person asked for, or "auto".
        """

    def fit_budget(self, choices: list[Choice], dataset: Dataset, seconds: float) -> list[Choice]:
        """What `defaults` gives of a network from scratch, smaller where so many seconds for everything would not carry it."""
        return choices

    def follow_set(
        self, spec: Component, epochs: float, paths: Sequence[str], dataset: Dataset, base: Base | None, seconds: float | None
    ) -> list[Choice]:
        """What follows for other fields from those that the person set, such as a learning rate from a network's size.

        Args:
            spec: the hyperparameters of what is learned, as set.
            epochs: passes over the rows.
            paths: the fields that were set.
            dataset: the rows.
            base: that is trained; None where it is made from scratch.
            seconds: for everything; None where there is no limit.
        """
        return []

    @abstractmethod
    def learning_rate(self, base: Base | None, adaptation: str) -> tuple[float, str]:
        """The learning rate to start from with an adaptation, and where it comes from."""

    def learning_rate_for(self, base: Base | None, adaptation: str, spec: Component) -> tuple[float, str]:
        """The same, where what is learned (its hyperparameters are the spec) decides it too."""
        return self.learning_rate(base, adaptation)

    @abstractmethod
    def batch_size(self, dataset: Dataset, epochs: float) -> Choice:
        """Rows a step, for so many epochs over these rows."""

    def metric(self, dataset: Dataset, asked: str) -> list[Choice]:
        """What decides, and what goes with it; asked is the metric that the person asked for, or "auto"."""
        return [Choice("training.metric", self.metrics[0] if asked == AUTO else asked, "what is learned is what is measured")]

    def depth_kept(self, base: Base) -> int:
        """Blocks of a base that stay frozen by default."""
        return 0

    def adaptations(self, base: Base | None) -> tuple[str, ...]:
        """Adaptations whose learning rates are known, for the search."""
        return ("full", "freeze", "gradual", "lora")

    def why_not(self, base: Base | None, adaptation: str) -> str:
        """Why its network cannot be adapted so, which is refused when a run is planned; empty where it can."""
        return ""

    def may_set_schedule(self, base: Base | None) -> bool:
        """Whether a search may hold the learning rate and let it fall at the end."""
        return True

    # model and loss

    @abstractmethod
    def load(self, spec: Component, model: Model, base: Base | None, seed: int) -> TrainableModel:
        """The network, in fp32.

        Args:
            spec: the hyperparameters of what is learned, with the classes filled in.
            model: dropout, and what else stands under `model` in the experiment.
            base: from the store, a bundle of this family included; None where it is made from scratch.
            seed: of what is new in it.
        """

    def start_head(
        self,
        model: TrainableModel,
        objective: Objective,
        fingerprint: str,
        train: Sequence[Example],
        validation: Sequence[Example],
        cache: Cache,
    ) -> bool:
        """Give a new head its first weights, before anything else is made of the model; whether it was done: by default they stay random.

        Args:
            model: as `load` gave it; changed in place.
            objective: as the run opened it.
            fingerprint: SHA-256 of the base's weights; empty where there is none.
            train: the training rows.
            validation: the validation rows.
            cache: where what took long is kept.
        """
        return False

    def fit_spec(self, spec: Component, dataset: Dataset) -> Component:
        """The hyperparameters with what only the training rows can tell: the classes, a number's mean and spread. It stands in the experiment from then on."""
        if dataset.labels and not dict(spec)["labels"]:
            return spec.model_copy(update={"labels": dataset.labels})
        return spec

    def read_base(self, base: Base) -> Base:
        """The base as this family's networks read it, and as its bundles carry it."""
        return base

    def load_processor(self, base: Base | None, spec: Component, dataset: Dataset | None = None) -> Processor:
        """What makes numbers of a row: the base's tokenizer. It has `save_pretrained`, and a bundle is a base.

        Args:
            base: from the store; None where all is made from scratch.
            spec: the hyperparameters of what is learned.
            dataset: the rows, where a tokenizer has to be made from the training rows: the same rows give the same one.
        """
        from luthier.models.pretrained import load_tokenizer

        assert base is not None
        return load_tokenizer(base)

    def outputs(self) -> Outputs | None:
        """What the outputs of the head on a base mean, where a linear model of what the untouched base says, and its average with the trained model, are candidates to ship; None where they are not."""
        return None

    # proofs

    def proofs(self) -> tuple[tuple[ProofFunction, ...], tuple[ProofFunction, ...]]:
        """Proofs of its own: those that only read examples, and those that ask the model."""
        return (), ()

    def serving_inputs(self, record: Record, objective: Objective) -> Inputs:
        """What prediction gives the model for a row: the same functions as in training, without the target."""
        return objective.prepare([record.select(objective.input)])[0].inputs

    # judging

    def baselines(self, train: Sequence[Example], validation: Sequence[Example], context: BaselineContext) -> list[Baseline]:
        """The trivial models that it has to beat, fitted."""
        return []

    def samples(self, model: TrainableModel, objective: Objective, validation: Sequence[Example]) -> list[JsonObject]:
        """What the model says at an evaluation of the same few rows each time, for samples.jsonl: `row`, `asked`, `said`; where that is more than numbers."""
        return []

    def fit_after_training(self, model: TrainableModel, objective: Objective, validation: Sequence[Example]) -> str:
        """Fit what prediction needs beside the weights, such as a threshold, before the test rows are opened; what was found, for a person.

        Args:
            model: at its best weights; what is fitted stays in its buffers, and so in the bundle.
            objective: as the run opened it.
            validation: the validation rows.
        """
        return ""

    def metrics_of_verdict(self, metrics: tuple[str, ...], scores: Scores) -> tuple[str, ...]:
        """The metrics in the order of the verdict: the first decides there.

        Args:
            metrics: the first chose the checkpoint.
            scores: of the trained model on the test rows.
        """
        return metrics

    def pictures(self, model: TrainableModel, objective: Objective, examples: Sequence[Example], scores: Scores) -> JsonObject:
        """Rows that the report shows as pictures: a `title`, an `about`, and `rows` of a `caption` and `images` (`core.pictures.as_data`); empty for none."""
        return {}

    def target_text(self, example: Example) -> str:
        """What was to be said of a row, for the report."""
        return str(example.target)

    def predicted_text(self, scores: Scores, position: int) -> str:
        """What was said of a row, for the report, where that is not one class; empty where it shows nothing."""
        return ""

    def findings(self, scores: Scores, spec: Component) -> list[Finding]:
        """What a person should know of its answers on the test rows, beside the verdict."""
        return []

    def details(self, scores: Scores, spec: Component) -> JsonObject:
        """What the report shows of its own, as data; of any family `tables`: each a `title`, a `head` and `rows`."""
        return {}

    def describe_errors(self, examples: Sequence[Example], scores: Scores) -> JsonObject:
        """What the report shows of what it got wrong on the test rows, as data: more `tables`."""
        return {}

    def describe_model(self, model: TrainableModel, objective: Objective) -> JsonObject:
        """What the report shows of the trained model itself, as data: more `tables`, and `figures`, each with its `kind`, `title` and `about` (see `delivery.figures.draw_figure`).

        Args:
            model: that ships, in eval mode.
            objective: as the run opened it.
        """
        return {}

    # use

    def write_files(self, folder: Path, model: TrainableModel, processor: Processor) -> list[str]:
        """Write into a bundle what other programs read of it, beside the weights; the names of these files, none by default.

        Args:
            folder: of the bundle; all that is in it is in its manifest.
            model: that ships.
            processor: what `load_processor` gave.
        """
        return []

    def optional_columns(self, columns: Sequence[str]) -> tuple[str, ...]:
        """Which of the columns that were trained on a row to predict may lack."""
        return ()

    def rows_to_predict(self, data: object, columns: Sequence[str]) -> tuple[list[Record], Path | None] | None:
        """Rows that a bundle is asked about, where they are no texts; None leaves the reading to others.

        Args:
            data: as given to `predict`.
            columns: that the model reads.
        """
        return None

    def example_row(self, objective: Objective) -> JsonObject:
        """A row that any bundle of it can be asked about, as a server shows it and tries it; an image is its file as base64.

        Args:
            objective: as the evaluation used it.
        """
        return dict.fromkeys(objective.input, "your text")

    @abstractmethod
    def predict(self, model: TrainableModel, objective: Objective, records: Sequence[Record], limit: int) -> list[JsonObject]:
        """What a bundle says of rows.

        Args:
            model: in eval mode.
            objective: as the evaluation used it; it has the columns and the bundle's tokenizer.
            records: the rows.
            limit: tokens that an answer may have.
        """

    def texts_read(self, record: Record, objective: Objective) -> list[list[str]]:
        """What a tokenizer is given of a row, where other programs read it: for each piece one text, or two that are read together; of an image its file.

        Args:
            record: the row.
            objective: knows the columns.
        """
        return [[record.text(objective.input)]]

    def usage(self, bundle: str) -> str:
        """What to type to use a bundle."""
        return f'luthier predict {bundle} "your text"'

    def without_luthier(self) -> str:
        """How transformers alone uses a bundle; empty where it cannot."""
        return ""

    def serve_elsewhere(self, bundle: str, dtype: str) -> str:
        """The command by which a server of other people's, made for many machines, serves a bundle; empty where none can.

        Args:
            bundle: its folder.
            dtype: that it was evaluated in, such as float32.
        """
        return ""
