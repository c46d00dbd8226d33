"""Follow the grammar of one JSON value, with a tokenizer of single bytes."""

import sys

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luthier.core.errors import LuthierError
from luthier.models.decoding.grammar import JsonVocabulary

ids = {sign: index for index, sign in enumerate(["<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
own = Tokenizer(models.BPE(ids, []))
own.pre_tokenizer, own.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
own.add_special_tokens(["<end>"])
try:
    vocabulary = JsonVocabulary(PreTrainedTokenizerFast(tokenizer_object=own, eos_token="<end>"), len(ids), [0])
except LuthierError as problem:
    print(problem, file=sys.stderr)
    sys.exit(problem.exit_code)
assert ids["7"] in vocabulary.compile({"enum": [7]}).begin().allowed_tokens().tolist()
