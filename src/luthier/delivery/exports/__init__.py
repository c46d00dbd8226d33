"""The formats that a bundle can be exported to: one file a format, and one line here."""

from __future__ import annotations

from luthier.core.table import Table

EXPORTERS: Table = Table(
    "exporter",
    safetensors="luthier.delivery.exports.transformers_folder:TransformersFolder",
    onnx="luthier.delivery.exports.onnx_folder:OnnxFolder",
    int8="luthier.delivery.exports.onnx_folder:Int8Folder",
    word2vec="luthier.delivery.exports.word2vec_files:Word2vecFiles",
    gguf="luthier.delivery.exports.gguf:Gguf",
    **{"sentence-transformers": "luthier.delivery.exports.transformers_folder:SentenceTransformersFolder"},
)
"""Name → class of the exporter, as after `--to`; packages add theirs by an entry point in the group `luthier.exporter`."""
