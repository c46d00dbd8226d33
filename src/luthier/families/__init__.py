"""What is special about one kind of model and data: one family a file, its parts always in the same order, and one line here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from luthier.core.table import Table
from luthier.families.family import Family

FAMILIES: Table = Table(
    "family",
    classification="luthier.families.text_classification:FAMILY",
    chat="luthier.families.chat:FAMILY",
    causal_lm="luthier.families.causal_lm:FAMILY",
    image_classification="luthier.families.image_classification:FAMILY",
    image_regression="luthier.families.image_regression:FAMILY",
    masked_lm="luthier.families.masked_lm:FAMILY",
    glove="luthier.families.glove:FAMILY",
    word2vec="luthier.families.word2vec:FAMILY",
    preference="luthier.families.preference:FAMILY",
    unpaired_preference="luthier.families.unpaired_preference:FAMILY",
    regression="luthier.families.regression:FAMILY",
    autoencoder="luthier.families.autoencoder:FAMILY",
    feature_autoencoder="luthier.families.feature_autoencoder:FAMILY",
    text_autoencoder="luthier.families.text_autoencoder:FAMILY",
    multi_label="luthier.families.multi_label:FAMILY",
    embedding="luthier.families.embedding:FAMILY",
    token_labels="luthier.families.token_labels:FAMILY",
    translation="luthier.families.translation:FAMILY",
)
"""Name → family; packages add theirs by an entry point in the group `luthier.family`."""


def family_of(task: str | None) -> Family:
    """The family of this name.

    Raises:
        ExperimentError: there is none; the message gives the nearest.
    """
    family: Family = FAMILIES[task or ""]
    return family


class Objectives(Table):
    """Name of a family → the hyperparameters of what it learns: they stand under `objective` in an experiment."""

    def __init__(self) -> None:
        super().__init__("objective")

    def _all(self) -> dict[str, str]:
        return FAMILIES.entries()

    def __iter__(self) -> Iterator[str]:
        return (name for name in FAMILIES if FAMILIES[name].Spec is not None)

    def __contains__(self, name: str) -> bool:
        return name in FAMILIES and FAMILIES[name].Spec is not None

    def __getitem__(self, name: str) -> Any:
        """The class of the hyperparameters.

        Raises:
            ExperimentError: there is no such family, or its rows cannot be trained on.
        """
        return family_of(name).spec_class


OBJECTIVES = Objectives()
