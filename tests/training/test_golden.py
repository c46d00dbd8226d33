"""Fifty steps whose bits are known: what drifts from one change to the next without anybody noticing shows here."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from luthier.training.devices import environment
from tests.training.test_steps import weights_after, work_for

KNOWN = Path(__file__).parent / "golden.json"
CHANGES: dict[str, Any] = {"training__steps": 50, "model__dropout": 0.1, "training__micro_batch_tokens": 60}


def processor() -> str:
    """What decides which kernels are taken: torch's minor version, the instruction sets, and which processor it is."""
    file = Path("/proc/cpuinfo")
    facts = dict(re.findall(r"^(cpu family|model|stepping)\s*:\s*(\S+)", file.read_text(), re.MULTILINE)) if file.exists() else {}
    torch_minor = ".".join(torch.__version__.split(".")[:2])
    units = environment()["bfloat16"]
    return f"torch {torch_minor}, {environment()['processor']}, bf16 {units}, {' '.join(f'{name} {value}' for name, value in sorted(facts.items()))}"


@pytest.mark.parametrize("task", ["classification", "chat"])
def test_fifty_steps_end_with_the_bits_that_they_ended_with_before(bases: Any, records: Any, chats: Any, task: str) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = weights_after(work_for(bases, records if task == "classification" else chats, task, **CHANGES), 50)
    finally:
        torch.set_num_threads(threads)
    digest = hashlib.sha256()
    for name, tensor in sorted(found.items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    known = json.loads(KNOWN.read_text()).get(processor(), {}).get(task)
    if known is None:
        pytest.skip(f'not known here yet; golden.json would say "{processor()}": {{"{task}": "{digest.hexdigest()}"}}')
    assert digest.hexdigest() == known, f"{task}: {digest.hexdigest()}"
