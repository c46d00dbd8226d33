"""Where the rows come from, what is read from them, and how they are split: as a value."""

from __future__ import annotations

from pydantic import Field, field_validator

from luthier.core.component import Component

TEXT_FIELDS = ("encoding", "sheet", "group", "time", "target", "normal")
"""Fields whose values stay texts when they are typed: a sheet or column may be called 2024, a class yes."""


class Data(Component):
    """The data of an experiment."""

    path: str = Field(
        description="The file of rows (csv, tsv, json, jsonl, also as .gz or in a .zip; parquet, arrow, xlsx; images as .npz) or a folder; with `validation` and `test` given, the training rows."
    )
    validation: str | None = Field(default=None, description="A file of validation rows, where the split is given.")
    test: str | None = Field(default=None, description="A file of test rows, where the split is given.")
    format: str | None = Field(
        default=None,
        description="csv, tsv, json, jsonl, parquet, arrow, xlsx, npz (images as arrays), saved (a folder of the datasets library), images or texts (a folder of such files), passages (a text file or a folder of them, few documents cut into passages); taken from the ending when unset.",
    )
    encoding: str = Field(default="utf-8", description="How the bytes are read.")
    sheet: str | None = Field(
        default=None, description="The sheet of a workbook, by its name or its number from 1; the first that holds rows when unset."
    )
    header: bool | None = Field(default=None, description="Whether line 1 names the columns; looked for when unset.")
    task: str | None = Field(default=None, description="What the rows are for: a family's name; inferred when unset.")
    input: tuple[str, ...] = Field(default=(), description="The column or columns that are read; inferred when empty.")
    target: str | None = Field(default=None, description="The column to be learned; inferred when unset.")
    normal: str | None = Field(
        default=None,
        description="The class of the rows to be learned from, where a family learns what is normal; rows of other classes are kept for validation and test. Found by its name (normal, healthy, good, …) when unset; empty learns from all rows.",
    )
    most_rows: int = Field(
        default=1_000_000,
        ge=0,
        description="Rows of a file that are used, evenly by chance, where it holds more, so that memory suffices for any file; 0 uses all.",
    )
    group: str | None = Field(
        default=None,
        description="A column (a person, a document) whose rows must stay in one part, so that the test rows come from others.",
    )
    time: str | None = Field(
        default=None, description="A column of dates or numbers: the newest rows are tested, those before them validate, the oldest train."
    )
    allow_leakage: bool = Field(default=False, description="Go on although given test rows are also training or validation rows.")
    validation_share: float = Field(default=0.1, gt=0, lt=0.5, description="Share of the rows that choose the checkpoint.")
    test_share: float = Field(default=0.2, gt=0, lt=0.5, description="Share of the rows that are sealed until the verdict.")
    folds: int = Field(
        default=0,
        ge=0,
        le=20,
        description="Cross-validation before the run, on all rows that are not sealed: so many models more say how much the validation score owes to chance; 0 leaves it out.",
    )
    split_seed: int = Field(
        default=0,
        ge=0,
        description="Decides which row is where; kept apart from `seed`, so that runs with other seeds meet the same test rows.",
    )
    fingerprint: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of the training, validation and test file; filled in, and checked on resume."
    )

    @field_validator("folds")
    @classmethod
    def _folds(cls, value: int) -> int:
        if value == 1:
            raise ValueError("one fold leaves nothing to train on: give 2 or more, or 0")
        return value
