"""Read a form of JSON with a bundle's tokenizer, as the server's JSON mode does: `python .ci/ask_json.py RUN`."""

import sys
from pathlib import Path

from transformers import AutoTokenizer

from luthier.core.errors import LuthierError
from luthier.models.decoding.grammar import JsonVocabulary

tokenizer = AutoTokenizer.from_pretrained(Path(sys.argv[1]) / "bundle")
try:
    vocabulary = JsonVocabulary(tokenizer, len(tokenizer), [tokenizer.sep_token_id])
except LuthierError as problem:
    print(problem, file=sys.stderr)
    sys.exit(problem.exit_code)
vocabulary.compile({"type": "object", "properties": {"label": {"enum": ["good", "bad"]}}, "required": ["label"]})
