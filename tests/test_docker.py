"""The image of the server: what it copies is there, what it starts is a command of ours. Its steps are run by `.ci/image`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest
import typer
import yaml

ROOT = Path(__file__).parent.parent
FILE = ROOT / "docker" / "Dockerfile"


def instructions() -> list[tuple[str, str]]:
    """The lines of the Dockerfile as instruction and rest."""
    lines = [line for line in FILE.read_text().replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    return [(line.partition(" ")[0], line.partition(" ")[2]) for line in lines]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def test_everything_that_is_copied_is_in_the_repository_and_all_that_the_wheel_needs_is_copied() -> None:
    copied = [word for rest in of("COPY") for word in shlex.split(rest)[:-1]]
    assert all((ROOT / word).exists() for word in copied)
    project = (ROOT / "pyproject.toml").read_text()
    assert 'readme = "README.md"' in project and 'license-files = ["LICENSE"]' in project and 'packages = ["src/luthier"]' in project
    assert {"pyproject.toml", "README.md", "LICENSE", "src", "requirements.lock"} <= set(copied)


def test_nothing_runs_as_root_and_no_address_or_secret_is_in_the_image() -> None:
    assert of("USER") == ["luthier"]
    assert [name for name, _ in instructions()].index("USER") < [name for name, _ in instructions()].index("ENTRYPOINT")
    text = FILE.read_text() + (ROOT / "docker" / "install").read_text() + (ROOT / "docker" / "compose.yaml").read_text()
    assert "https://" not in text
    assert all("TOKEN" not in rest for name in ("ENV", "ARG") for rest in of(name))


def test_what_it_starts_is_a_command_of_ours() -> None:
    from luthier.app.cli import app

    words = json.loads(of("ENTRYPOINT")[0]) + json.loads(of("CMD")[0])
    assert words[0] == "luthier"
    command = typer.main.get_command(app)
    assert isinstance(command, click.Group) or hasattr(command, "commands")
    serve = getattr(command, "commands").get(words[1])  # noqa: B009
    if serve is None:
        pytest.skip("this build has no server")
    parsed = serve.make_context("serve", words[2:]).params
    assert (parsed["host"], parsed["port"], parsed["bundle"]) == ("0.0.0.0", 8000, "production")


def test_the_compose_file_lets_in_this_machine_alone_and_insists_on_a_token() -> None:
    said = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    (service,) = said["services"].values()
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert ":?" in service["environment"]["LUTHIER_TOKEN"]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["volumes"][0].endswith(":/project:ro")
    assert of("WORKDIR")[-1] == "/project" and of("VOLUME") == [service["volumes"][1].partition(":")[2]]
    assert (ROOT / service["build"]["dockerfile"]).samefile(FILE)
    assert service["command"] == ["${LUTHIER_MODEL:-production}"]


@pytest.mark.parametrize("status, code", [(200, 0), (503, 1)])
def test_the_health_check_says_what_the_server_says(status: int, code: int) -> None:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, format: str, *given: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    done = subprocess.run([sys.executable, ROOT / "docker" / "healthy"], env={"LUTHIER_PORT": str(server.server_port)}, check=False)
    server.shutdown()
    server.server_close()
    assert done.returncode == code


def test_the_health_check_fails_where_nobody_listens() -> None:
    done = subprocess.run([sys.executable, ROOT / "docker" / "healthy"], env={"LUTHIER_PORT": "1"}, check=False, capture_output=True)
    assert done.returncode == 1 and b"Traceback" not in done.stderr
