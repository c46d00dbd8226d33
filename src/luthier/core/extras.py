"""The packages that only some uses need: where one is missing, the answer is the command that installs it."""

from __future__ import annotations

import importlib.util

from luthier.core.errors import LuthierError

EXTRAS = {
    "pyarrow": ("pyarrow", "parquet"),
    "python_calamine": ("python-calamine", "excel"),
    "PIL": ("Pillow", "images"),
    "pypdf": ("pypdf", "documents"),
    "docx": ("python-docx", "documents"),
    "ray": ("Ray", "ray"),
    "fastapi": ("FastAPI", "serve"),
    "starlette": ("Starlette", "serve"),
    "uvicorn": ("uvicorn", "serve"),
    "h11": ("h11", "serve"),
    "llguidance": ("llguidance", "json"),
    "onnx": ("onnx", "export"),
    "onnxruntime": ("onnxruntime", "export"),
    "onnx_ir": ("onnx-ir", "export"),
}
"""Module → its package, and the extra of ours that brings it."""


def require_extra(module: str, use: str, error: type[LuthierError], otherwise: str = "") -> None:
    """Check that a package which only some uses need is installed, without importing it.

    Args:
        module: as it is imported.
        use: what it is needed for: "rows.xlsx: reading Excel workbooks".
        error: what is raised where it is missing.
        otherwise: what can be done without it.

    Raises:
        LuthierError: of the kind given; it is missing.
    """
    package, extra = EXTRAS[module]
    if importlib.util.find_spec(module) is None:
        raise error(f"{use} needs {package}", f"pip install 'luthier[{extra}]'" + (f", or {otherwise}" if otherwise else ""))
