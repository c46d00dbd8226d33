"""Where a server listens: a socket at an address, how people write the address, and which Host headers mean it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from luthier.core.errors import RunError

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that no other machine reaches."""
EVERYWHERE = ("0.0.0.0", "::", "")
"""Addresses that mean all of this machine's."""


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address; nobody can connect to it yet.

    Raises:
        RunError: it is taken, not allowed, or none of this machine.
    """
    opened = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        opened = socket.socket(family, kind, protocol)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind(address)
    except OSError as problem:
        if opened is not None:
            opened.close()
        if problem.errno == errno.EADDRINUSE:
            raise RunError(
                f"port {port} of {host} is taken by another program", "give another one, or --port 0 for one that is free"
            ) from None
        raise RunError(f"{host}:{port} cannot be listened on: {problem.strerror or problem}", "check --host and --port") from None
    opened.set_inheritable(False)
    return opened


def url(host: str, port: int) -> str:
    """How this machine reaches a server that listens on a host."""
    return f"http://{_name('::1' if host == '::' else '127.0.0.1' if host in EVERYWHERE else host)}:{port}"


def allowed_hosts(host: str, port: int, more: Sequence[str]) -> set[str]:
    """Values of the Host header that are answered, exactly: the address itself, on this machine also its other names, and what the person allows."""
    names = {_name(host)} if host not in EVERYWHERE else set[str]()
    if host in LOOPBACK or host in EVERYWHERE:
        names |= {"127.0.0.1", "localhost", "[::1]"}
    hosts = {f"{each}:{port}" for each in names}
    if port == 80:
        hosts |= names
    return hosts | {each if ":" in each else f"{each}:{port}" for each in more}


def _name(host: str) -> str:
    """A host as it stands before a port."""
    return f"[{host}]" if ":" in host else host
