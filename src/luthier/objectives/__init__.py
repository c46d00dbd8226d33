"""What is learned: one objective a file, each with the same parts in the same order."""

from luthier.core.table import Table

OBJECTIVES = Table(
    "objective",
    classification="luthier.objectives.classification:Classification",
    chat="luthier.objectives.chat:Chat",
)
