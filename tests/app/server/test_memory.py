"""What a server keeps of the requests that it has answered: nothing."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.pilot.serve import check_bundle, load_model
from luthier.serving.service import ServedModel, Service
from tests.conftest import SELDOM
from tests.families.cases import CASES, base_of

ASK = (
    SELDOM
    + """
import ctypes, json, sys
from luthier.pilot.serve import check_bundle, load_model

class Memory(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

library = ctypes.CDLL(None)
if not hasattr(library, "mallinfo2"):
    raise SystemExit(print("null"))  # another C library than glibc
library.mallinfo2.restype = Memory
model = load_model(check_bundle(sys.argv[1], lambda line: None))

def ask(number):
    texts = ["good " * (3 + number % 40)] * (1 + number // 40)
    model.queue.submit(model.read([{"text": text} for text in texts]), 1).future.result()

def used():
    found = library.mallinfo2()
    return (found.uordblks + found.hblkhd) / 2**20

for number in range(100):
    ask(number)
before = used()
for number in range(100, 400):
    ask(number)
print(json.dumps(used() - before))
model.close()
"""
)


def test_a_model_in_bf16_keeps_no_code_for_lengths_that_it_has_once_seen(tmp_path: Path) -> None:
    """Without bounds on what oneDNN and torch keep, 300 shapes of attention take 170 MiB."""
    case = CASES["classification"]
    changes = ["training.steps=2", "training.checkpoint_seconds=0", "training.dtype=bfloat16", "objective.head=new"]
    run = luthier.run(
        case.write(tmp_path), base=base_of(case, tmp_path), out=tmp_path / "run", set=[*changes, *case.changes], force=True
    ).folder
    done = subprocess.run([sys.executable, "-c", ASK, str(run)], check=True, capture_output=True, text=True)
    grown = json.loads(done.stdout.splitlines()[-1])
    assert grown is None or grown < 40


@pytest.mark.parametrize("family", ("classification", "chat"))
def test_a_model_that_was_replaced_gives_its_memory_back_before_the_next_one_comes(bundles: Any, family: str) -> None:
    service, networks = Service(), list[weakref.ref[Any]]()

    def load() -> ServedModel:
        made = load_model(check_bundle(bundles(family), lambda line: None))
        networks.append(weakref.ref(made.model))
        return made

    gc.collect()
    gc.disable()  # it comes when it likes, and a process that serves makes too little rubbish for it
    try:
        service.load(load)
        for _ in range(3):
            service.swap(load)
        assert [network() is not None for network in networks] == [False, False, False, True]
    finally:
        gc.enable()
        service.drain(1)
