"""Bytes that are no good request: slow ones, large ones, wrong ones. S05 to S07, S21, S22."""

from __future__ import annotations

import contextlib
import re
import socket
import time

import pytest

import luthier
from luthier.app.server.addresses import allowed_hosts, bind
from luthier.core.errors import RunError
from tests.app.server.conftest import SHORT, Client, read_all, until


def head(client: Client, first: str = "POST /classify HTTP/1.1", *more: str) -> bytes:
    lines = (first, f"Host: 127.0.0.1:{client.port}", f"Authorization: Bearer {client.token}", "Content-Type: application/json", *more)
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def status(said: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d+) ", said)
    return int(found[1]) if found else 0


def alive(client: Client) -> bool:
    return client("GET", "/health")[0] == 200


def test_headers_that_come_byte_by_byte_are_cut_off(classifier: Client) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", classifier.port), 5) as opened, contextlib.suppress(ConnectionError):
        for byte in head(classifier):
            opened.sendall(bytes([byte]))
            time.sleep(0.05)
            if time.monotonic() - began > SHORT.header_seconds + 1:
                break
        assert status(read_all(opened)) in (408, 0)
    assert time.monotonic() - began < SHORT.header_seconds + 3
    assert alive(classifier)


def test_a_socket_that_says_nothing_is_cut_off(classifier: Client) -> None:
    began = time.monotonic()
    said = classifier.raw(b"")
    assert status(said) in (408, 0)
    assert time.monotonic() - began < SHORT.header_seconds + 2


def test_a_body_that_comes_byte_by_byte_is_cut_off(classifier: Client) -> None:
    with socket.create_connection(("127.0.0.1", classifier.port), 5) as opened:
        opened.sendall(head(classifier, "POST /classify HTTP/1.1", "Content-Length: 100"))
        for _ in range(4):
            opened.sendall(b"{")
            time.sleep(0.05)
        assert status(read_all(opened)) == 408
    assert alive(classifier)


def test_idle_sockets_by_the_hundred_keep_nobody_out(classifier: Client) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(3 * SHORT.connections):
            held.enter_context(socket.create_connection(("127.0.0.1", classifier.port), 5))
        began = time.monotonic()
        assert alive(classifier)
        assert classifier.post("/classify", {"input": "the phone was great"})
        assert time.monotonic() - began < 5
        assert len(classifier.running.server.server_state.connections) <= SHORT.connections + 1


@pytest.mark.parametrize("extra", [1, 1 << 30])
def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(classifier: Client, extra: int) -> None:
    said = classifier.raw(head(classifier, "POST /classify HTTP/1.1", f"Content-Length: {SHORT.body_bytes + extra}"))
    assert status(said) == 413
    assert b"body_too_large" in said


def test_a_body_of_exactly_the_limit_is_read(classifier: Client) -> None:
    content = b'{"input": "good"' + b" " * (SHORT.body_bytes - 17) + b"}"
    assert len(content) == SHORT.body_bytes
    assert classifier("POST", "/classify", raw=content)[0] == 200
    assert classifier("POST", "/classify", raw=content + b" ")[0] == 413


def test_chunks_without_end_are_refused_and_not_kept(classifier: Client) -> None:
    before = classifier.metric("luthier_resident_bytes")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    sent = 0
    with socket.create_connection(("127.0.0.1", classifier.port), 10) as opened:
        opened.sendall(head(classifier, "POST /classify HTTP/1.1", "Transfer-Encoding: chunked"))
        with contextlib.suppress(ConnectionError):
            for _ in range(1000):
                opened.sendall(chunk)
                sent += len(chunk)
        said = read_all(opened)
    assert status(said) in (413, 0)  # 0: the answer was lost with the connection, which was closed on what was still sent
    assert sent < 40 << 20
    assert classifier.metric("luthier_resident_bytes") - before < 40 << 20
    assert alive(classifier)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["Content-Length: 5", "Content-Length: 6"], 400),
        (["Content-Length: -1"], 400),
        (["Content-Length: 1e3"], 400),
        (["Transfer-Encoding: chunked", "Content-Length: 5"], 400),
        (["Transfer-Encoding: identity"], (400, 501)),
        (["Transfer-Encoding: gzip, chunked"], (400, 501)),
        (["X-Long: " + "x" * 65536], 431),
        ([f"X-{number}: 1" for number in range(1000)], 431),
        (["Bad Header: x"], 400),
        (["X: a\x00b"], 400),
        (["Host: evil.example"], 400),
    ],
)
def test_headers_that_are_wrong_or_too_long_are_refused(classifier: Client, lines: list[str], expected: int | tuple[int, ...]) -> None:
    said = classifier.raw(head(classifier, "POST /classify HTTP/1.1", *lines) + b"hello")
    assert status(said) in (expected if isinstance(expected, tuple) else (expected,)), said[:200]
    assert alive(classifier)


def test_a_url_that_is_too_long_is_refused(classifier: Client) -> None:
    assert status(classifier.raw(head(classifier, f"GET /health?{'x' * 5000} HTTP/1.1"))) == 414
    assert status(classifier.raw(head(classifier, f"GET /{'x' * 100_000} HTTP/1.1"))) in (414, 431)


@pytest.mark.parametrize(
    "content",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\r\n\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 1000,
        b"SSH-2.0-x\r\n",
    ],
)
def test_what_is_no_http_is_refused(classifier: Client, content: bytes) -> None:
    assert status(classifier.raw(content)) in (400, 403, 408, 0)
    assert alive(classifier)


@pytest.mark.parametrize("method", ["OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "PROPFIND", "CONNECT", "GET"])
def test_other_methods_are_405_whoever_asks(classifier: Client, method: str) -> None:
    found, said, headers = classifier(method, "/classify")
    assert (found, headers["allow"]) == (405, "POST")
    assert said["error"]["type"] == "invalid_request_error"
    assert classifier("HEAD", "/info")[0] == 405


def test_http_1_0_is_answered_with_a_host_and_refused_without(classifier: Client) -> None:
    assert status(classifier.raw(head(classifier, "GET /info HTTP/1.0"))) == 200
    assert status(classifier.raw(f"GET /info HTTP/1.0\r\nAuthorization: Bearer {classifier.token}\r\n\r\n".encode())) == 403


def test_pipelined_requests_are_answered_in_order_each_with_its_own_check(classifier: Client) -> None:
    locked = f"GET /info HTTP/1.1\r\nHost: 127.0.0.1:{classifier.port}\r\n\r\n".encode()
    said = classifier.raw(
        head(classifier, "GET /health HTTP/1.1")
        + head(classifier, "GET /nothing HTTP/1.1")
        + head(classifier, "GET /info HTTP/1.1")
        + locked,
        2.0,
    )
    assert re.findall(rb"HTTP/1\.1 (\d+) ", said) == [b"200", b"404", b"200", b"401"]


def test_a_body_behind_a_refusal_is_not_taken_for_a_request(classifier: Client) -> None:
    smuggled = head(classifier, "GET /info HTTP/1.1")
    wrong = f"POST /classify HTTP/1.1\r\nHost: 127.0.0.1:{classifier.port}\r\nContent-Length: {len(smuggled)}\r\n\r\n".encode()
    said = classifier.raw(wrong + smuggled)
    assert re.findall(rb"HTTP/1\.1 (\d+) ", said) == [b"401"]


def test_an_upgrade_to_websocket_is_not_followed(classifier: Client) -> None:
    said = classifier.raw(
        head(
            classifier,
            "GET /info HTTP/1.1",
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Key: x",
            "Sec-WebSocket-Version: 13",
        ),
        2.0,
    )
    assert status(said) == 200


def test_two_servers_do_not_share_a_port(classifier: Client) -> None:
    with pytest.raises(RunError, match="is taken by another program"):
        bind("127.0.0.1", classifier.port)
    with pytest.raises(RunError, match="cannot be listened on"):
        bind("203.0.113.7", 0)


def test_an_address_of_ipv6_alone(bundles: object, home: object) -> None:
    with contextlib.closing(bind("::1", 0)) as opened:
        assert opened.getsockname()[0] == "::1"
    assert "[::1]:8000" in allowed_hosts("::1", 8000, ())


def test_hosts_that_are_answered() -> None:
    assert allowed_hosts("127.0.0.1", 8000, ()) == {"127.0.0.1:8000", "localhost:8000", "[::1]:8000"}
    assert allowed_hosts("0.0.0.0", 80, ["models.example"]) == {
        "127.0.0.1:80",
        "localhost:80",
        "[::1]:80",
        "127.0.0.1",
        "localhost",
        "[::1]",
        "models.example:80",
    }
    assert "10.0.0.7:9" in allowed_hosts("10.0.0.7", 9, ())


def test_it_listens_on_the_loopback_alone_by_default(classifier: Client) -> None:
    assert classifier.running.address == f"http://127.0.0.1:{classifier.port}"
    listening = {server.sockets[0].getsockname()[0] for server in classifier.running.server.servers}
    assert listening == {"127.0.0.1"}
    assert luthier.serve.__kwdefaults__["host"] == "127.0.0.1"


def test_nothing_is_left_open(classifier: Client) -> None:
    assert until(lambda: len(classifier.running.server.server_state.connections) == 0, SHORT.idle_seconds + 2)
