"""Who is answered: every route says who may ask it, and requests from elsewhere are refused before any route sees them."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from luthier.app.server.access import OPEN, GuardedRoute, check_routes
from luthier.app.server.application import make_routes
from luthier.app.server.token_file import keep_token
from luthier.core.errors import RunError
from luthier.serving.service import Service
from tests.app.server.conftest import Client

ROUTES = [
    (next(iter(route.methods or ())), route.path.replace("{name}", "x"), route.access)
    for route in make_routes(Service(), "t" * 20).routes
    if isinstance(route, GuardedRoute)
]
LOCKED = [(method, path) for method, path, access in ROUTES if access == "token"]
FOREIGN = [
    "evil.example", "localhost.evil.example:{port}", "127.0.0.1.nip.io:{port}", "x.localhost:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1:{port}/../b", "a@127.0.0.1:{port}",
]  # fmt: skip


def test_only_pages_and_health_are_open() -> None:
    assert {path for _, path, access in ROUTES if access == "open"} == {
        "/",
        "/page.js",
        "/page.css",
        "/docs",
        "/openapi.json",
        "/health",
        "/ready",
    }


def test_a_route_that_does_not_say_who_may_ask_it_does_not_start_the_app() -> None:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    with pytest.raises(ValueError, match="does not say who may ask it"):
        check_routes([*app.routes, *FastAPI().routes])
    app.router.route_class = GuardedRoute
    with pytest.raises(ValueError, match="/secret does not say who may ask it"):

        @app.get("/secret")
        async def secret() -> None:
            """Forgotten."""

    @app.get("/known", openapi_extra=OPEN)
    async def find_known() -> None:
        """Said."""

    check_routes(app.routes)


@pytest.mark.parametrize(("method", "path"), LOCKED)
def test_a_locked_route_needs_the_token(classifier: Client, method: str, path: str) -> None:
    token = classifier.token
    for given in (None, "", token, f"Basic {token}", "Bearer", "Bearer ", f"Bearer {token[:-1]}", f"Bearer {token}x", f"Bearer {'t' * 32}"):
        status, said, headers = classifier(method, path, {} if method == "POST" else None, {"Authorization": given})  # type: ignore[dict-item]
        assert (status, said["error"]["code"], headers["www-authenticate"]) == (401, "invalid_api_key", "Bearer"), given
        assert token not in str(said)
    for elsewhere in (f"{path}?token={token}", f"{path}?api_key={token}"):
        assert (
            classifier(
                method, elsewhere, {} if method == "POST" else None, {"Authorization": None, "Cookie": f"token={token}", "X-Api-Key": token}
            )[0]
            == 401
        )  # type: ignore[dict-item]


@pytest.mark.parametrize(("method", "path", "access"), ROUTES)
def test_a_request_for_another_host_or_from_another_page_is_refused_with_the_token_too(
    classifier: Client, method: str, path: str, access: str
) -> None:
    body = {} if method == "POST" else None
    for host in FOREIGN:
        assert classifier(method, path, body, {"Host": host.format(port=classifier.port)})[0] == 403, host
    for origin in ("null", "http://127.0.0.1:1", "http://localhost.evil", f"http://evil.example:{classifier.port}", "file://"):
        status, _, headers = classifier(method, path, body, {"Origin": origin})
        assert status == 403, origin
        assert not any(name.startswith("access-control") for name in headers)
    for site in ("cross-site", "same-site"):
        assert classifier(method, path, body, {"Sec-Fetch-Site": site})[0] == 403


def test_pages_of_the_server_itself_may_ask(classifier: Client) -> None:
    for host in ("127.0.0.1", "localhost"):
        given = {"Host": f"{host}:{classifier.port}", "Origin": f"http://{host}:{classifier.port}", "Sec-Fetch-Site": "same-origin"}
        assert classifier("GET", "/info", None, given)[0] == 200


@pytest.mark.parametrize(
    "target",
    [
        "http://evil.example/info",
        "//evil.example/info",
        "/info/../../etc/passwd",
        "/%2e%2e/info",
        "/..%2finfo",
        "/info%00",
        "/info/",
        "*",
        "/v1/models/..%2f..%2fetc",
        "/page.js/../listen.py",
    ],
)
def test_other_targets_reach_nothing(classifier: Client, target: str) -> None:
    said = classifier.raw(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{classifier.port}\r\nConnection: close\r\n\r\n".encode())
    assert re.match(rb"HTTP/1.1 (400|401|404) ", said), said
    assert b"passwd" not in said and b"import" not in said


def test_every_answer_carries_what_keeps_a_page_safe(classifier: Client) -> None:
    for path in ("/", "/docs", "/info", "/nothing"):
        headers = classifier("GET", path)[2]
        assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["referrer-policy"], headers["cache-control"]) == (
            "nosniff",
            "no-referrer",
            "no-store",
        )
        assert "server" not in headers


def test_no_token_and_no_text_is_in_the_log(classifier: Client, log: list[str]) -> None:
    classifier("POST", "/classify", {"input": "canary-text"})
    classifier("POST", "/classify", {"canary-field": 1})
    classifier("GET", f"/canary-path?token={classifier.token}", None, {"X-Canary": "canary-header", "Authorization": "Bearer canary-wrong"})
    assert len([line for line in log if "POST /classify" in line]) >= 2
    assert not [line for line in log if classifier.token in line]
    assert not [line for line in log if "canary" in line]
    assert "canary" not in classifier("GET", "/metrics")[1].decode()


def test_the_token_is_kept_for_its_owner_alone_and_stays_the_same_on_a_port(home: Path) -> None:
    token, file = keep_token(4711, None, fresh=False)
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(file.parent.stat().st_mode)) == (token, 0o600, 0o700)
    assert len(token) >= 32
    assert keep_token(4711, None, fresh=False)[0] == token
    assert keep_token(4711, None, fresh=True)[0] != token
    assert keep_token(4711, "a-token-of-my-own-00", fresh=False)[0] == "a-token-of-my-own-00"
    for wrong in ("short", "has spaces in it, and a comma", "x" * 300, "naïve-token-of-mine-1"):
        with pytest.raises(RunError, match="token"):
            keep_token(4711, wrong, fresh=False)


def test_a_token_file_that_others_can_read_or_that_is_a_link_is_replaced(home: Path, tmp_path: Path) -> None:
    token, file = keep_token(4712, None, fresh=False)
    file.chmod(0o644)
    again, file = keep_token(4712, None, fresh=False)
    assert again != token
    file.unlink()
    (tmp_path / "mine").write_text("y" * 40)
    file.symlink_to(tmp_path / "mine")
    found, file = keep_token(4712, None, fresh=False)
    assert found != "y" * 40 and not file.is_symlink()
    assert (tmp_path / "mine").read_text() == "y" * 40


def test_tokens_are_compared_in_constant_time(classifier: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    import hmac

    real = hmac.compare_digest
    monkeypatch.setattr(
        "luthier.app.server.access.hmac.compare_digest", lambda one, two: seen.append((len(one), len(two))) or real(one, two)
    )
    for token in ("", "x", classifier.token, "x" * 200):
        classifier("GET", "/info", None, {"Authorization": f"Bearer {token}"})
    assert seen == [(32, 32)] * 4
