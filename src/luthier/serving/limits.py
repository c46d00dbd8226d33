"""Every limit of the server, in one place: `/info` tells them all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a client may ask for, and how long it may take to ask.

    Args:
        body_bytes: of a request's body.
        header_bytes: of the request line and all headers together.
        headers: in a request.
        url_bytes: of the path with its query.
        json_depth: lists and objects within each other.
        rows: in one prediction request.
        characters: of one text.
        prompts: in one completion request.
        max_tokens: that an answer may have.
        default_tokens: that it may have where the request names no number.
        stops: stop strings.
        stop_characters: of one stop string.
        waiting: prediction requests that wait while another is at work; more are answered 429.
        generating: answers that wait for a slot of the engine; more are answered 429.
        batch_rows: of requests that waited together, that go through the model at once.
        linger_seconds: that a batch waits at most for requests that are likely to come.
        connections: that are open at once; a further one closes the one that has been idle longest.
        header_seconds: until the headers of a request are there.
        body_seconds: until its body is there.
        write_seconds: that a client may take nothing of what is sent to it.
        idle_seconds: that a connection stays open between two requests.
        grace_seconds: that running requests have to finish after SIGTERM.
    """

    body_bytes: int = 4 << 20
    header_bytes: int = 16 << 10
    headers: int = 64
    url_bytes: int = 4 << 10
    json_depth: int = 16
    rows: int = 256
    characters: int = 200_000
    prompts: int = 16
    max_tokens: int = 4096
    default_tokens: int = 256
    stops: int = 8
    stop_characters: int = 200
    waiting: int = 64
    generating: int = 64
    batch_rows: int = 64
    linger_seconds: float = 0.02
    connections: int = 256
    header_seconds: float = 10.0
    body_seconds: float = 20.0
    write_seconds: float = 20.0
    idle_seconds: float = 60.0
    grace_seconds: float = 20.0
