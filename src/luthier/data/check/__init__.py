"""Checks of the rows: each a function from a sheet to findings, with the rows behind them."""

from luthier.core.table import Table

CHECKS = Table(
    "check",
    lengths="luthier.data.check.lengths:check",
    duplicates="luthier.data.check.duplicates:check",
    conflicts="luthier.data.check.conflicts:check",
    leakage="luthier.data.check.leakage:check",
    shares="luthier.data.check.shares:check",
    groups="luthier.data.check.groups:check",
    balance="luthier.data.check.balance:check",
    numbers="luthier.data.check.numbers:check",
    spellings="luthier.data.check.spellings:check",
    language="luthier.data.check.language:check",
    characters="luthier.data.check.characters:check",
    personal="luthier.data.check.personal:check",
    shortcuts="luthier.data.check.shortcuts:check",
    images="luthier.data.check.images:check",
    conversations="luthier.data.check.conversations:check",
    outliers="luthier.data.check.outliers:check",
    labels="luthier.data.check.labels:check",
    flattery="luthier.data.check.split_bias:check",
)
"""In the order in which they are told; the last three need a model's view of the rows."""
OF_IMAGES = ("duplicates", "conflicts", "leakage", "shares", "balance", "numbers", "spellings", "shortcuts", "images")
"""Those that say something of images too."""
