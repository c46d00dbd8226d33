"""Ask a worker of Ray's one question, as a search does."""

import sys
from pathlib import Path

from luthier.core.errors import LuthierError
from luthier.studies.backends import backend_of

try:
    backend = backend_of("ray")("builtins:dict", 1, 1, Path())
except LuthierError as problem:
    print(problem, file=sys.stderr)
    sys.exit(problem.exit_code)
answer = backend.ask({"trial": 1}, 120)
backend.close()
assert answer == {"trial": 1}, answer
