"""Types the shell lines and Python blocks of the pages about shipping, in order, on the runs that .ci/examples.py has made.

    python .ci/ship_it.py FOLDER [PAGE …]

In FOLDER lie the store and `runs/<family>`; the lines are typed in `FOLDER/project`. RUN is the run that the line is about. Trainings are made smaller. What needs
a program or a service that is not here is left out, and said.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

from examples import ROOT, SMALLER, environment, output_of

PAGES = ("export", "serve", "gguf", "registry", "elsewhere")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
PROGRAMS = ("luthier", "python", "pip", "cd", "export", "llama-server", "docker", "vllm", "hf")
"""A block that begins with one of these, or with a prompt, is typed; others show what is printed."""
LEFT_OUT = {
    r"\b(docker|ollama|llama-server|vllm)\s": "a program that is not here",
    r"^(pip install|hf auth)|^luthier push (?!.*--dry-run)": "the hub, or a package that is published",
    r"127\.0\.0\.1:(8080|11434)": "another server",
    r"\bclient\.chat": "the package openai, and a server that goes on running",
    **{
        rf"\b{name}\b.* import ": f"the package {name}"
        for name in ("sentence_transformers", "gensim")
        if not importlib.util.find_spec(name)
    },
}
RUNS = {"sentence-transformers": "embedding", "word2vec": "word2vec", "gguf": "chat"}
"""What an export is of, where it is not of the classifier."""
CLASSIFIER = "trained/run"
COPIES = ("intents", "intents-2", "intents-3", "a", "b")
"""Names that the pages have for runs of the classification example."""


def commands(page: str) -> Iterator[tuple[str, list[str]]]:
    """Language ("" for the shell) and lines of each block that is typed."""
    for language, block in BLOCK.findall((ROOT / "docs" / f"{page}.md").read_text()):
        lines = block.splitlines()
        if language == "python":
            yield language, lines
        elif any(line.startswith("$ ") for line in lines):
            yield "", [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        elif lines and lines[0].split(maxsplit=1)[0] in PROGRAMS:
            yield "", [line for line in lines if line]


def why_left_out(text: str) -> str:
    """What a line needs that is not here; empty where it can be typed."""
    return next((reason for pattern, reason in LEFT_OUT.items() if re.search(pattern, text)), "")


class Project:
    """A folder with what the pages take for granted, and a shell in it."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.folder = work / "project"
        (work / "bin").mkdir(parents=True, exist_ok=True)
        for name, more in (("luthier", " -m luthier"), ("python", "")):
            program = work / "bin" / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}"{more} "$@"\n')
            program.chmod(0o755)
        self.variables = {
            **environment(work),
            "PATH": f"{work / 'bin'}:{os.environ['PATH']}",
            "LUTHIER_TOKEN": "a-token-for-this-check",
            "LUTHIER_ENDPOINT_TOKEN": "a-token-for-this-check",
        }

    def make(self) -> None:
        """Make the runs, rows, adapter, checkpoint and settings of another trainer that the pages name."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.work / "runs", self.folder / "runs", copy_function=os.link)
        shutil.copy(ROOT / "examples" / "feedback" / "feedback.csv", self.folder / "rows.csv")
        self.type(f"luthier run rows.csv --out runs/{CLASSIFIER} --set training.ships=trained")
        for name in COPIES:
            shutil.copytree(self.folder / "runs" / "classification", self.folder / "runs" / name, copy_function=os.link)
        self.type("luthier promote runs/intents-2 production --force")  # so that there is something to roll back to
        base = self.work / "store" / "models" / "minilm-l6"
        shutil.copytree(base, self.folder / "outputs" / "checkpoint-500")
        self.type_python(
            f"""
            from peft import LoraConfig, get_peft_model
            from transformers import AutoModel
            get_peft_model(AutoModel.from_pretrained({str(base)!r}), LoraConfig(r=4, target_modules=["query", "value"])).save_pretrained("path/to/adapter")
            """
        )
        turns = [{"instruction": f"What is {number} and one?", "input": "", "output": f"It is {number + 1}."} for number in range(60)]
        (self.folder / "sums.json").write_text(json.dumps(turns))
        (self.folder / "dataset_info.json").write_text(json.dumps({"sums": {"file_name": "sums.json"}}))
        (self.folder / "qwen3_lora_sft.yaml").write_text(
            "stage: sft\ndo_train: true\nfinetuning_type: lora\nlora_rank: 8\nlora_target: all\ndataset: sums\ndataset_dir: .\n"
            "learning_rate: 1.0e-4\nnum_train_epochs: 3.0\ncutoff_len: 2048\ntemplate: qwen3\ntrust_remote_code: true\n"
        )

    def type(self, line: str) -> str:
        """What a line of the shell prints; a training is made smaller."""
        if line.startswith("luthier run "):
            line = f"{line.split('  #')[0]} {shlex.join(SMALLER)}"
        began = time.monotonic()
        output = output_of(["bash", "-euo", "pipefail", "-c", line], line, self.folder, self.variables)
        print(f"ship it: {line.split('  #')[0][:110]} ({time.monotonic() - began:.0f} s)", flush=True)
        return output

    def type_python(self, code: str) -> None:
        """Run a block of Python."""
        (self.folder / "block.py").write_text("import luthier\n" + textwrap.dedent(code))
        self.type("python block.py")

    @contextlib.contextmanager
    def serving(self, run: str) -> Iterator[list[str]]:
        """The lines that a server has printed until it was ready; it ends by SIGTERM, with 0.

        Raises:
            SystemExit: it did not, or never was ready.
        """
        command = [self.work / "bin" / "luthier", "serve", run, "--port", "0"]
        server = subprocess.Popen(command, cwd=self.folder, env=self.variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert server.stdout is not None
        lines = []
        try:
            for line in server.stdout:
                lines.append(line.rstrip("\n"))
                if line.startswith("ready"):
                    break
            else:
                raise SystemExit(f"luthier serve {run} was never ready\n" + "\n".join(lines))
            yield lines
            server.send_signal(signal.SIGTERM)
            if server.wait(60):
                raise SystemExit(f"SIGTERM ended luthier serve {run} with {server.returncode}")
        finally:
            server.kill()
            server.wait()


def try_line(project: Project, line: str, run: str) -> None:
    """Type a line; one that serves, or asks our server, is typed with that server."""
    line = re.sub(r"\bRUN\b", run, line)
    if line.startswith("luthier serve "):
        with project.serving(run) as printed:
            proposed = "\n".join(printed).partition("try it: ")[2].split("\n")[0]
            if '"label"' not in project.type(proposed):
                raise SystemExit(f"the line that luthier serve prints gives no label: {proposed}")
    elif "http://127.0.0.1:8000" in line:
        with project.serving(run) as printed:
            address = re.search(r"http://127\.0\.0\.1:\d+", "\n".join(printed))
            assert address is not None
            project.type(line.replace("http://127.0.0.1:8000", address.group()))
    else:
        project.type(line)


def main() -> int:
    """Type them all; the first fault ends it."""
    project = Project(Path(sys.argv[1]).resolve())
    project.make()
    for page in sys.argv[2:] or PAGES:
        for language, lines in commands(page):
            block = "\n".join(lines)
            for folder in project.folder.glob("exported*"):
                shutil.rmtree(folder)
            kind = re.search(r"--to (\S+)", block)
            run = RUNS.get(kind.group(1) if kind else page, CLASSIFIER)
            for part in [block] if language else lines:
                if reason := why_left_out(part):
                    print(f"ship it: left out, for it needs {reason}: {part.splitlines()[0]}", flush=True)
                elif language:
                    project.type_python(part)
                else:
                    try_line(project, part, f"runs/{run}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
