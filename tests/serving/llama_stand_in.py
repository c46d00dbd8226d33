"""A program that speaks as llama-server does, for machines without it: it repeats the prompt, token by token, and holds back parts of characters.

    python llama_stand_in.py -m FILE --port N -np N …     # FILE: JSON of {"seconds": between tokens, "end": token, "dies_at": token, "refuses": field}

A token below 256 is one byte; one above stands for the two bytes `ab`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar


def bytes_of(token: int) -> bytes:
    """The bytes of a token."""
    return bytes([token]) if token < 256 else b"ab"


def is_unfinished(content: bytes) -> bool:
    """Whether the last bytes may become a character, as llama.cpp judges: by the last lead byte, whatever stands before it."""
    for behind, byte in enumerate(reversed(content[-3:]), 1):
        if 0xC0 <= byte < 0xF8:
            return behind < (2 if byte < 0xE0 else 3 if byte < 0xF0 else 4)
        if not 0x80 <= byte < 0xC0:
            return False
    return False


class Handler(BaseHTTPRequestHandler):
    """Answers /health and /completion."""

    protocol_version = "HTTP/1.1"
    file: ClassVar[dict[str, Any]] = {}
    running = 0

    def do_GET(self) -> None:
        self._whole(200, {"status": "ok", "running": Handler.running, "key": os.environ["LLAMA_API_KEY"]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {os.environ['LLAMA_API_KEY']}":
            self._whole(401, {"error": {"message": "Invalid API Key"}})
            return
        if self.file.get("refuses") in body:
            self._whole(400, {"error": {"message": "Unknown parser type: epsilon"}})
            return
        if not body["stream"]:
            Handler.running += 1
            tokens = [*body["prompt"], self.file["end"]][: body["n_predict"]]
            for _ in tokens:
                time.sleep(self.file.get("seconds", 0))
            Handler.running -= 1
            self._whole(200, {"stop": True, "tokens": tokens, "tokens_predicted": len(tokens), "timings": {"cache_n": 2}}
                        | {"stop_type": "eos" if tokens[-1] == self.file["end"] else "limit"})  # fmt: skip
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        Handler.running += 1
        try:
            self._write(body)
        except OSError:
            self.close_connection = True  # whoever asked is gone
        finally:
            Handler.running -= 1

    def _write(self, body: dict[str, Any]) -> None:
        held, said, stop = b"", 0, "limit"
        for token in [*body["prompt"], self.file["end"]][: body["n_predict"]]:
            time.sleep(self.file.get("seconds", 0))
            if token == self.file.get("dies_at"):
                print("error: out of memory", flush=True)
                os._exit(9)
            said += 1
            held += b"" if token == self.file["end"] else bytes_of(token)
            if is_unfinished(held):
                continue
            try:
                content = held.decode()
            except UnicodeDecodeError:
                if "chat_parser" not in body and "refuses" not in self.file:  # as version 10434 does
                    self._send({"error": {"message": "The model produced output that does not match the expected Content-only format"}})
                    break
                content = held.decode(errors="replace")
            told = {"id": token, "logprob": -0.5, "top_logprobs": [{"id": token, "logprob": -0.5}, {"id": 1, "logprob": -2.0}][: body["n_probs"]]}  # fmt: skip
            self._send(
                {"content": content, "tokens": [token], "stop": False, "tokens_predicted": said}
                | ({"completion_probabilities": [told]} if body["n_probs"] else {})
            )
            held = b""
            if token == self.file["end"]:
                stop = "eos"
        self._send({"stop": True, "stop_type": stop, "tokens_predicted": said, "timings": {"cache_n": 2}})
        self.wfile.write(b"0\r\n\r\n")

    def _send(self, event: dict[str, Any]) -> None:
        content = b"data: " + json.dumps(event).encode() + b"\n\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
        self.wfile.flush()

    def _whole(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


if __name__ == "__main__":
    if "--help" in sys.argv:
        print("--no-slots --offline")
    else:
        options = dict(zip(sys.argv[1:], sys.argv[2:], strict=False))
        Handler.file = json.loads(Path(options["-m"]).read_text())
        if Handler.file.get("damaged"):
            print("main: loading model\nerror: invalid magic characters")
            raise SystemExit(1)
        ThreadingHTTPServer(("127.0.0.1", int(options["--port"])), Handler).serve_forever()
