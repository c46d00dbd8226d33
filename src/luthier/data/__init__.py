"""From a file to records, splits, conversations and the rows of each step."""

from luthier.core.table import Table

SOURCES = Table(
    "source",
    csv="luthier.data.sources.separated:read_commas",
    tsv="luthier.data.sources.separated:read_tabs",
    json="luthier.data.sources.objects:read_array",
    jsonl="luthier.data.sources.objects:read_lines",
    conll="luthier.data.sources.conll:read_conll",
    parquet="luthier.data.sources.columns:read_parquet",
    arrow="luthier.data.sources.columns:read_arrow",
    xlsx="luthier.data.sources.workbooks:read_workbook",
    saved="luthier.data.sources.columns:read_saved",
    images="luthier.data.sources.images:read_images",
    npz="luthier.data.sources.npz:read_npz",
    texts="luthier.data.sources.texts:read_texts",
    passages="luthier.data.sources.passages:read_passages",
)
