"""Forked programs end, speak and are stopped as `python` would have it: else tests that use them would claim nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import processes

CODES = {
    "import sys; print(sys.argv, input(), __name__); sys.exit(3)": 3,
    "import sys; sys.exit('a reason')": 1,
    "1 / 0": 1,
    "import os; os.kill(os.getpid(), 9)": -9,
    "import atexit, threading, time; atexit.register(print, 'last'); threading.Thread(target=lambda: (time.sleep(0.1), print('first'))).start()": 0,
}


@pytest.mark.parametrize("code", CODES)
def test_a_program_ends_and_says_what_a_real_process_does(code: str, tmp_path: Path) -> None:
    real = subprocess.run(
        [sys.executable, "-c", code, "a word"], input="given\n", capture_output=True, text=True, check=False, cwd=tmp_path
    )
    forked = processes.run("-c", code, "a word", input="given\n", cwd=tmp_path)
    assert forked.returncode == real.returncode == CODES[code]
    assert forked.stdout == real.stdout
    assert forked.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_a_program_is_begun_anew_each_time_in_its_folder_and_environment(tmp_path: Path) -> None:
    code = "import os, sys, random; print(os.getcwd(), os.environ.get('WORD'), getattr(sys, 'mark', 0), random.random()); sys.mark = 1; os.environ['WORD'] = 'two'"
    said = [processes.run("-c", code, cwd=tmp_path, env={**os.environ, "WORD": "one"}).stdout.split() for _ in range(2)]
    assert said[0][:3] == said[1][:3] == [str(tmp_path), "one", "0"]
    assert said[0][3] != said[1][3]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 7), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_signal_reaches_a_program_and_ends_no_other(sent: signal.Signals, code: int) -> None:
    waits = "import sys, time\nprint('ready', flush=True)\ntry: time.sleep(60)\nexcept KeyboardInterrupt: sys.exit(7)"
    with processes.begin("-c", waits, stdout=subprocess.PIPE) as one, processes.begin("-c", waits, stdout=subprocess.PIPE) as other:
        for process in (one, other):
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        one.send_signal(sent)
        assert one.wait(30) == code
        assert other.poll() is None
        other.kill()
    assert other.returncode == -signal.SIGKILL


def test_where_the_start_matters_a_real_process_is_begun() -> None:
    code = "import sys; print('torch' in sys.modules)"
    assert processes.run("-c", code, env={**os.environ, "HF_HOME": "elsewhere"}).stdout == "False\n"
    assert processes.run("-c", code).stdout == f"{processes.FORKS}\n"
