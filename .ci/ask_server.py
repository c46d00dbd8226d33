"""Serve a run and ask it once, as whoever has the extra `serve` alone does: `python .ci/ask_server.py RUN`."""

import json
import sys
import urllib.request

import luthier
from luthier.core.errors import LuthierError

try:
    running = luthier.serve(sys.argv[1], port=0, say=lambda line: None, wait=False)
except LuthierError as problem:
    print(problem, file=sys.stderr)
    sys.exit(problem.exit_code)
body = json.dumps({"rows": ["works out of the box"]}).encode()
headers = {"Authorization": f"Bearer {running.token}", "Content-Type": "application/json"}
with urllib.request.urlopen(urllib.request.Request(f"{running.address}/predict", body, headers), timeout=120) as answer:
    said = answer.read().decode()
running.close(0)
assert '"label"' in said, said
