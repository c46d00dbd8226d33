"""Read a form of JSON with a tokenizer of bytes, as the server's JSON mode does with that of a model."""

import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luthier.core.errors import LuthierError
from luthier.models.decoding.grammar import JsonVocabulary

vocabulary = {token: number for number, token in enumerate(["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
try:
    known = JsonVocabulary(PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>"), len(vocabulary), [0])
except LuthierError as problem:
    print(problem, file=sys.stderr)
    sys.exit(problem.exit_code)
known.compile({"type": "object", "properties": {"label": {"enum": ["good", "bad"]}}, "required": ["label"]})
