"""From a file to records, splits, conversations and the rows of each step."""

from luthier.core.table import Table

SOURCES = Table(
    "source",
    csv="luthier.data.sources.separated:read_commas",
    tsv="luthier.data.sources.separated:read_tabs",
    json="luthier.data.sources.objects:read_array",
    jsonl="luthier.data.sources.objects:read_lines",
)
