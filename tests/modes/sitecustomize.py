"""PROCESSOR=bf16 or fp32 answers in place of the processor whether it multiplies in bf16, in every process of the tests.

Python imports this file when it begins and the folder is on PYTHONPATH (`make test-modes`). So what is left to the machine is decided as on another
one; products in bf16 are slower without instructions for them, and right.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

WHERE = "luthier.training.devices"


class Answers(MetaPathFinder):
    """Lets torch say what was asked for, once the file that asks it is imported."""

    def __init__(self, bf16: bool) -> None:
        self.bf16 = bf16

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The file's own, with a word after it."""
        if name != WHERE:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        loader: Any = spec.loader
        own = loader.exec_module

        def exec_module(module: Any) -> None:
            own(module)
            module.torch.cpu._is_amx_tile_supported = module.torch.cpu._is_avx512_bf16_supported = lambda: self.bf16

        loader.exec_module = exec_module
        return spec


if os.environ.get("PROCESSOR"):
    sys.meta_path.insert(0, Answers({"bf16": True, "fp32": False}[os.environ["PROCESSOR"]]))
