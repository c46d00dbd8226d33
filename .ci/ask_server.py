"""Start `luthier serve` on a run, ask it for one label, and end it, as a person does: python ask_server.py LUTHIER RUN."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

PORT, TOKEN, PATIENCE = 18_643, "asked-in-the-checks", 120.0
command = [sys.argv[1], "serve", sys.argv[2], "--port", str(PORT), "--name", "asked", "--quiet"]
server = subprocess.Popen(command, env={**os.environ, "LUTHIER_TOKEN": TOKEN})
body = json.dumps({"model": "asked", "input": ["works out of the box"]}).encode()
request = urllib.request.Request(
    f"http://127.0.0.1:{PORT}/classify", body, {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
)
try:
    end = time.monotonic() + PATIENCE
    while True:
        if server.poll() is not None:
            sys.exit(server.returncode)  # it has said why
        try:
            with urllib.request.urlopen(request) as answer:
                assert json.load(answer)["data"][0]["label"]
            break
        except (urllib.error.URLError, ConnectionError) as problem:  # it is not there yet; an answer that is an error is raised at the end
            if time.monotonic() > end:
                raise SystemExit(f"the server gave no label: {problem}") from None
            time.sleep(0.2)
finally:
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        server.wait(30)
assert server.returncode == 0, server.returncode
