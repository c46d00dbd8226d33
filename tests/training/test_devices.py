"""What is left to the machine is decided once."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from luthier.core.errors import ExperimentError, ModelError
from luthier.models.kernels import compiled, shared_library
from luthier.training import devices
from luthier.training.devices import decide_device_fields
from tests.conftest import SELDOM
from tests.training.test_steps import experiment


@pytest.mark.parametrize(("tiles", "vectors", "dtype"), [(True, True, "bfloat16"), (False, True, "bfloat16"), (False, False, "float32")])
def test_bf16_is_chosen_where_the_processor_multiplies_it_and_what_is_asked_for_stays(
    monkeypatch: pytest.MonkeyPatch, tiles: bool, vectors: bool, dtype: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    left = decide_device_fields(experiment("classification", "bert", training__dtype="auto", training__micro_batch_tokens=0))
    assert (left.training.dtype, left.training.micro_batch_tokens) == (dtype, devices.AT_ONCE)
    asked = decide_device_fields(experiment("classification", "bert", training__dtype="float32", training__micro_batch_tokens=70))
    assert (asked.training.dtype, asked.training.micro_batch_tokens) == ("float32", 70)
    assert decide_device_fields(left) == left


@pytest.mark.parametrize(("width", "at_once"), [(128, devices.AT_ONCE_NARROW), (160, devices.AT_ONCE)])
def test_more_tokens_go_through_a_narrow_network_from_scratch_at_once(monkeypatch: pytest.MonkeyPatch, width: int, at_once: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = experiment("translation", "", training__micro_batch_tokens=0, training__dtype="float32", objective__width=width)
    assert decide_device_fields(asked).training.micro_batch_tokens == at_once


@pytest.mark.parametrize("task", ["masked_lm", "causal_lm"])
@pytest.mark.parametrize(("depth", "at_once"), [(2, devices.AT_ONCE_NARROW), (3, devices.AT_ONCE)])
def test_a_width_that_follows_the_depth_counts_as_one_that_is_set(
    monkeypatch: pytest.MonkeyPatch, task: str, depth: int, at_once: int
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = experiment(task, "", training__micro_batch_tokens=0, training__dtype="float32", objective__depth=depth, objective__width=0)
    assert decide_device_fields(asked).training.micro_batch_tokens == at_once


@pytest.mark.parametrize(
    ("family", "tiles", "there", "dtype", "kernels"),
    [
        ("llama", True, True, "auto", "compiled"),
        ("bert", True, True, "auto", "compiled"),
        ("llama", True, False, "auto", "plain"),
        ("llama", False, True, "auto", "plain"),
        ("llama", True, True, "float32", "plain"),
        ("mpnet", True, True, "auto", "plain"),
    ],
)
def test_compiled_kernels_are_chosen_on_tiles_where_they_can_be_had_and_know_the_base(
    bases, monkeypatch: pytest.MonkeyPatch, family: str, tiles: bool, there: bool, dtype: str, kernels: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(compiled, "load", load_or_fail(there))
    asked = experiment("classification", "bert", training__dtype=dtype, training__micro_batch_tokens=0)
    found = decide_device_fields(asked, bases(family))
    assert found.training.kernels == kernels
    at_once = devices.AT_ONCE_COMPILED if kernels == "compiled" else devices.AT_ONCE_NARROW  # as narrow as these bases are
    assert found.training.micro_batch_tokens == at_once
    assert decide_device_fields(found, bases(family)) == found
    assert decide_device_fields(asked.replace("training.kernels", "plain"), bases(family)).training.kernels == "plain"


def load_or_fail(there: bool) -> Callable[[], None]:
    """Stands in for loading compiled code that is there, or cannot be had."""

    def load() -> None:
        if not there:
            raise ModelError("there is no C++ compiler", "install g++")

    return load


def test_compiled_kernels_are_refused_where_they_cannot_be_used(bases) -> None:
    with pytest.raises(ExperimentError, match="bfloat16 on a processor"):
        decide_device_fields(experiment("classification", "bert", training__dtype="float32", training__kernels="compiled"), bases("llama"))


@pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler")
@pytest.mark.parametrize(
    ("model", "dtype", "compiler", "wanted"),
    [
        ("cbow", "float32", "", "compiled"),
        ("cbow", "float32", "no-such-compiler", "plain"),
        ("cbow", "bfloat16", "", "plain"),
        ("skip_gram", "float32", "", "plain"),
    ],
)
@pytest.mark.usefixtures("compiling")
def test_compiled_code_of_an_objectives_own_is_chosen_where_it_can_be_had(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model: str, dtype: str, compiler: str, wanted: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if compiler:
        monkeypatch.setenv("LUTHIER_KERNELS", str(tmp_path / "none"))
        monkeypatch.setenv("CXX", compiler)
    asked = experiment("word2vec", "", objective__model=model, training__dtype=dtype)
    found = decide_device_fields(asked)
    assert found.training.kernels == wanted
    assert decide_device_fields(found) == found
    assert decide_device_fields(asked.replace("training.kernels", "plain")).training.kernels == "plain"
    if dtype == "bfloat16":
        with pytest.raises(ExperimentError, match=r"for float32 on a processor here, .* bfloat16 on cpu"):
            decide_device_fields(asked.replace("training.kernels", "compiled"))


@pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler")
@pytest.mark.parametrize(
    ("vectors", "tiles", "base", "compiler", "wanted"),
    [
        (True, False, False, "", "compiled"),
        (True, False, False, "no-such-compiler", "plain"),
        (False, False, False, "", "plain"),
        (True, True, False, "", "compiled"),
        (True, False, True, "", "plain"),
    ],
)
@pytest.mark.usefixtures("compiling")
def test_a_decoder_from_scratch_computes_by_compiled_code_on_vectors_of_bf16(
    bases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, vectors: bool, tiles: bool, base: bool, compiler: str, wanted: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    if tiles:  # this processor may have none, and then no code for them
        monkeypatch.setattr(compiled, "load", load_or_fail(True))
    if compiler:
        monkeypatch.setenv("LUTHIER_KERNELS", str(tmp_path / "none"))
        monkeypatch.setenv("CXX", compiler)
    asked = experiment("causal_lm", "", training__dtype="auto")
    found = decide_device_fields(asked, bases("llama") if base else None)
    assert found.training.kernels == wanted
    assert decide_device_fields(asked.replace("training.kernels", "plain")).training.kernels == "plain"


PAGES = """
import resource, torch
from luthier.training.devices import configure_torch
configure_torch()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(2_000_000) for _ in range(8)]
    del blocks
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_blocks_that_were_freed_are_had_again_without_new_pages() -> None:
    """64 MB are 15,625 pages; a process that was not settled asks for them twice."""
    _, *later = map(int, subprocess.run([sys.executable, "-c", SELDOM + PAGES], capture_output=True, text=True, check=True).stdout.split())
    assert sum(later) < 12_000


HEAP = """
import resource, sys
from luthier.training import devices
if sys.argv[1:]:
    resource.setrlimit(resource.RLIMIT_DATA, (64 << 30, resource.RLIM_INFINITY))
def held():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
start, end = devices._heap()
before = held()
devices.configure_torch()
devices.configure_torch()
start, now = devices._heap()
flags = open("/proc/self/smaps").read().partition("[heap]")[2].partition("VmFlags:")[2].split("\\n")[0].split()
print(now - end, held() - before, "hg" in flags)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@pytest.mark.parametrize("rationed", [False, True])
def test_the_heap_is_given_addresses_for_large_pages_and_no_memory_unless_addresses_are_rationed(rationed: bool) -> None:
    asked = [sys.executable, "-c", SELDOM + HEAP, *(["rationed"] if rationed else [])]
    grown, taken, large = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    assert int(taken) < 40 << 20
    if rationed:
        assert int(grown) < 16 << 20
        assert large == "False"
    else:
        assert int(grown) > min(devices.HEAP, devices.available_memory() // 2) * 0.8
        assert large == "True" or not Path("/sys/kernel/mm/transparent_hugepage").exists()
