"""A GGUF file holds the bundle: its network, its tokenizer, its template; and what it cannot hold is refused."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

import luthier
from luthier.core.errors import ModelError
from luthier.delivery.exports.gguf import FILE, MODELFILE, Gguf
from luthier.delivery.exports.gguf_architecture import describe_network, refuse_network, rope_divisors
from luthier.delivery.exports.gguf_file import GgufFile
from luthier.delivery.exports.gguf_modelfile import Layout, find_layout, go_template
from luthier.delivery.exports.gguf_read_back import ReadBack
from luthier.delivery.exports.gguf_tensors import compare_file, permute, round_tensor
from luthier.delivery.exports.gguf_tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, read_vocabulary, refuse_tokenizer
from luthier.models.base import Base
from luthier.models.pretrained import PLAIN
from tests.conftest import TEMPLATE
from tests.delivery.exports.gguf_bundles import as_bundle, config_of, make_bundle, other_bundle, rewritten

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
TURNS = [{"role": "user", "content": "what was phone 1?"}, {"role": "assistant", "content": "the phone was good"}]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bundles")
    return functools.cache(lambda family: make_bundle(folder / family, family))


def write(bundle: Base, folder: Path, precision: str = "float32") -> Path:
    assert not Gguf().refuse(bundle, precision)
    folder.mkdir(exist_ok=True)
    Gguf().write(bundle, folder, precision, lambda line: None)
    return folder / FILE


@pytest.mark.parametrize("family", FAMILIES)
def test_what_transformers_reads_back_from_the_file_says_what_the_bundle_says(bundles: Any, tmp_path: Path, family: str) -> None:
    bundle = bundles(family)
    file = write(bundle, tmp_path)
    assert compare_file(file, bundle.folder) == []
    back = ReadBack(file)
    tokenizer = AutoTokenizer.from_pretrained(bundle.folder)
    model = AutoModelForCausalLM.from_pretrained(bundle.folder, dtype=torch.float32).eval()
    text = "the film number 12 was  fine\n\nand über 3.14"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert list(back.encode([text]).tokens) == ids
    with torch.no_grad():
        ours = model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1).gather(1, torch.tensor(ids)[1:, None])[:, 0]
    assert np.abs(back.log_probabilities(ids) - ours.numpy()).max() < 1e-5
    assert back.render(TURNS) == tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert back.render(TURNS[:1]) == tokenizer.apply_chat_template(TURNS[:1], tokenize=False, add_generation_prompt=True)
    assert list(back.ends) == [tokenizer.eos_token_id]
    assert "was not asked" in back.about


def test_no_progress_bar_is_shown_while_a_file_is_read_back(bundles: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ReadBack(write(bundles("llama"), tmp_path))
    shown = capfd.readouterr()
    assert "%|" not in shown.err + shown.out


def test_the_metadata_are_those_of_the_configuration(bundles: Any, tmp_path: Path) -> None:
    bundle = bundles("llama")
    held, config = GgufFile(write(bundle, tmp_path)), config_of(bundle)
    assert held["general.architecture"] == "llama"
    for key, field in (("block_count", "num_hidden_layers"), ("embedding_length", "hidden_size"), ("feed_forward_length", "intermediate_size"),
                       ("attention.head_count", "num_attention_heads"), ("attention.head_count_kv", "num_key_value_heads"),
                       ("context_length", "max_position_embeddings"), ("vocab_size", "vocab_size")):  # fmt: skip
        assert held.of_network(key) == config[field], key
    assert held["tokenizer.ggml.model"] == "gpt2"
    assert held["tokenizer.ggml.pre"] == "gpt-2"
    assert (held["tokenizer.ggml.bos_token_id"], held["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert held["tokenizer.ggml.add_bos_token"] is False
    assert held["tokenizer.chat_template"] == TEMPLATE
    assert held["luthier.weights.sha256"] == bundle.fingerprint
    assert held.precision == "float32"


def test_the_same_bundle_gives_the_same_bytes(bundles: Any, tmp_path: Path) -> None:
    one, other = (write(bundles("qwen2"), tmp_path / name).read_bytes() for name in ("one", "other"))
    assert one == other


@pytest.mark.parametrize(("precision", "kind"), [("float16", "F16"), ("bfloat16", "BF16"), ("q8_0", "Q8_0")])
def test_matrices_are_rounded_once_and_norms_not_at_all(bundles: Any, tmp_path: Path, precision: str, kind: str) -> None:
    file = write(bundles("llama"), tmp_path, precision)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == kind
    assert kinds["blk.0.attn_norm.weight"] == kinds["output_norm.weight"] == "F32"
    assert kinds["blk.0.ffn_down.weight"] == ("F16" if kind == "Q8_0" else kind)  # rows of 48 numbers do not divide into blocks of 32
    assert GgufFile(file).precision == precision
    assert compare_file(file, bundles("llama").folder) == []


def test_a_number_that_sixteen_bits_cannot_hold_is_refused_by_name() -> None:
    with pytest.raises(ModelError, match=r"blk\.0\.attn_q\.weight holds 1e") as caught:
        round_tensor(np.array([[1e6]], dtype=np.float32), "F16", "blk.0.attn_q.weight")
    assert "bfloat16" in caught.value.remedy


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("not permuted", "rows lie in the order of transformers"),
        ("rounded twice", "model.layers.0"),
        ("untied", "tied to the embeddings in the bundle"),
        ("left out", "mlp.up_proj"),
        ("other weights", "down_proj"),
    ],
)
def test_weights_that_are_not_the_bundles_are_named(bundles: Any, tmp_path: Path, fault: str, said: str) -> None:
    bundle = bundles("llama")
    file = write(bundle, tmp_path, "q8_0" if fault == "rounded twice" else "float32")

    def harm(name: str, numbers: np.ndarray) -> np.ndarray | None:
        if fault == "not permuted" and ".attn_q." in name:
            heads = config_of(bundle)["num_attention_heads"]
            return numbers.reshape(heads, -1, 2, numbers.shape[1]).swapaxes(1, 2).reshape(numbers.shape)
        if fault == "rounded twice" and numbers.ndim == 2:
            step = np.abs(numbers).max(1, keepdims=True) / 7
            return (np.round(numbers / step) * step).astype(np.float32)
        if fault == "left out" and "ffn_up" in name:
            return None
        return numbers + np.float32(1e-3) if fault == "other weights" and "ffn_down" in name else numbers

    more = {"output.weight": np.zeros((len(GgufFile(file).tokens), 32), dtype=np.float32)} if fault == "untied" else {}
    found = compare_file(rewritten(file, tmp_path / "harmed.gguf", tensors=harm, more=more), bundle.folder)
    assert found
    assert any(said in each.name for each in found), [each.name for each in found]
    assert all(each.largest > each.allowed for each in found)
    healthy = rewritten(file, tmp_path / "healthy.gguf")
    assert compare_file(healthy, bundle.folder) == []


def test_permuted_rows_stand_pair_beside_pair() -> None:
    weight = np.arange(16.0)[:, None]  # two heads of eight
    assert permute(weight, 2)[:8, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


ROPES = {
    "linear": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 4.0},
    "llama3": {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32},
    "yarn": {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64},
}  # fmt: skip


def test_stretched_positions_are_divided_as_transformers_does(tmp_path: Path) -> None:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    plain = {"hidden_size": 64, "num_attention_heads": 2, "max_position_embeddings": 256}
    for kind, rope in ROPES.items():
        config = AutoConfig.for_model("llama", **plain, rope_parameters=dict(rope))
        turning = LlamaRotaryEmbedding(config).inv_freq.numpy()
        usual = 10_000.0 ** (-np.arange(0, 32, 2) / 32)
        held = json.loads(config.to_json_string()) | {"architectures": ["LlamaForCausalLM"]}
        facts = describe_network(held | {"num_hidden_layers": 1, "intermediate_size": 8, "rms_norm_eps": 1e-6, "vocab_size": 9})
        divided = rope_divisors(held)
        if kind == "llama3":
            assert divided is not None
            assert np.allclose(usual / divided, turning, rtol=1e-5)
            assert "rope.scaling.type" not in facts
        else:
            assert divided is None
            assert facts["rope.scaling.type"] == kind
            assert facts["rope.scaling.factor"] == 4.0
            if kind == "linear":
                assert np.allclose(usual / 4.0, turning, rtol=1e-5)
        assert refuse_network(held) == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "phi3", "architectures": ["Phi3ForCausalLM"]}, "'phi3' is none that Luthier writes"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "its head (LlamaForSequenceClassification) is ours"),
        ({"hidden_act": "relu"}, "'relu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ({"rope_parameters": {**ROPES["yarn"], "attention_factor": 2.0}}, "YaRN of its own"),
        ({"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 6}, "no more than 6"),
        ({"query_pre_attn_scalar": 99}, "scaled by 99"),
        ({"attn_logit_softcapping": 50.0}, "caps the scores"),
    ],
)
def test_a_network_that_llama_cpp_computes_otherwise_is_refused_with_the_reason(bundles: Any, change: dict[str, Any], said: str) -> None:
    assert said in refuse_network(config_of(bundles("llama")) | change)


def test_a_bundle_that_ships_a_probe_is_refused(bundles: Any, tmp_path: Path) -> None:
    import shutil

    folder = Path(shutil.copytree(bundles("llama").folder, tmp_path / "probe"))
    assert "linear probe" in Gguf().refuse(as_bundle(folder, "chat", ships="probe"), "float16")


def test_four_bits_need_llama_cpps_quantiser_and_the_message_says_where_it_is_had(
    bundles: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("luthier.delivery.exports.gguf.shutil.which", lambda program: None)
    monkeypatch.setattr("luthier.delivery.exports.gguf.installed_package", lambda: None)
    assert "pip install llama-cpp-py-sync, or put llama-quantize on the PATH" in Gguf().refuse(bundles("llama"), "q4_k_m")
    assert Gguf().refuse(bundles("llama"), "q8_0") == ""
    with pytest.raises(ModelError, match="q4_k_m is written by") as caught:
        luthier.export(bundles("llama").folder, to="gguf", dtype="q4_k_m", out=tmp_path / "out", parity=False)
    assert caught.value.remedy.startswith("formats that hold this chat model: gguf (--dtype float16), ")


# tokenizers


def byte_level(*steps: Any, vocab: dict[str, int] | None = None, **model: Any) -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = vocab or {letter: number for number, letter in enumerate([*letters, "th", "the"])}
    tokenizer = Tokenizer(models.BPE(vocab=names, merges=[("t", "h"), ("th", "e")] if vocab is None else [], **model))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps)) if steps else pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def single_bytes() -> PreTrainedTokenizerFast:
    """As a language model from scratch has on little text."""
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: number for number, letter in enumerate(pre_tokenizers.ByteLevel.alphabet())}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def split(pattern: str) -> Any:
    from tokenizers import Regex

    return pre_tokenizers.Split(Regex(pattern), behavior="isolated")


def test_the_way_words_are_cut_is_known_by_llama_cpps_name_for_it() -> None:
    from luthier.delivery.exports.gguf_tokenizer import _LLAMA3, _QWEN2

    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    known = {"gpt-2": byte_level(), "smollm": byte_level(digits, level), "qwen2": byte_level(split(_QWEN2), bytes_only),
             "llama-bpe": byte_level(split(_LLAMA3), bytes_only, ignore_merges=True), "smaug-bpe": byte_level(split(_LLAMA3), bytes_only)}  # fmt: skip
    for name, tokenizer in known.items():
        assert read_vocabulary(tokenizer, None).pre == name


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (byte_level(split(r"\w+"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)), r"cuts words by \w+"),
        (byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)), "puts a space before each text"),
        (single_bytes(), "its tokens are single bytes"),
        (byte_level(pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(add_prefix_space=False)), "Punctuation"),
        (PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))), "WordPiece"),
    ],
)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(tokenizer: Any, said: str) -> None:
    assert said in refuse_tokenizer(tokenizer)


def test_tokens_keep_their_numbers_and_kinds_and_missing_ones_are_filled_up() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["[shown]"])
    size = len(tokenizer)
    found = read_vocabulary(tokenizer, size + 3)
    assert found.tokens[size - 2 :] == ["<|end|>", "[shown]", f"[PAD{size}]", f"[PAD{size + 1}]", f"[PAD{size + 2}]"]
    assert found.kinds[size - 2 : size] == [CONTROL, USER_DEFINED]
    assert found.merges == ["t h", "th e"]
    assert len(read_vocabulary(tokenizer, 10).tokens) == 10


def test_pieces_are_joined_in_the_order_of_their_merges() -> None:
    names = ["<unk>", "<s>", "<0x41>", "▁", "a", "b", "ab", "▁ab", "[mark]"]
    model = models.BPE(
        vocab={name: number for number, name in enumerate(names)},
        merges=[("a", "b"), ("▁", "ab")],
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>")
    fast.add_tokens(["▁▁"])
    found = read_vocabulary(fast, None)
    assert (found.model, found.pre, found.space_before) == ("llama", "default", True)
    assert found.kinds == [UNKNOWN, CONTROL, BYTE, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, NORMAL, USER_DEFINED]
    assert found.tokens[-1] == "  "
    assert found.scores[6] == 0.0 > found.scores[7] == -1.0 > found.scores[4]
    tokenizer.normalizer = normalizers.Lowercase()
    assert "Lowercase" in refuse_tokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer))


def test_a_mark_that_begins_each_document_is_put_there_by_llama_cpp(bundles: Any, tmp_path: Path) -> None:
    """Of a network that continues texts the objective says what stands before each; a program that is given the text alone must put it there."""
    text = other_bundle(bundles("llama"), tmp_path / "text", "causal_lm")
    held = GgufFile(write(text, tmp_path / "out"))
    assert held["tokenizer.ggml.add_bos_token"] is True
    assert held["tokenizer.ggml.bos_token_id"] == held["tokenizer.ggml.eos_token_id"] == 2
    said = (tmp_path / "out" / MODELFILE).read_text()
    assert "{{ .Prompt }}" in said
    assert "PARAMETER stop" in said


# Ollama

SYSTEM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' + message['content'] + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def renderer(template: str) -> Any:
    from transformers.utils.chat_template_utils import render_jinja_template

    def render(messages: Any, answers: bool) -> str:
        return render_jinja_template(
            [[dict(each) for each in messages]], chat_template=template, add_generation_prompt=answers, bos_token="<bos>", eos_token="</s>"
        )[0][0]

    return render


def run_go(template: str, messages: list[dict[str, str]]) -> str:
    """What a template of Go writes, as far as ours go: a range over the turns with conditions on their roles."""
    (body,) = re.fullmatch(r"\{\{ range \$i, \$_ := \.Messages \}\}(.*)\{\{ end \}\}", template, re.S).groups()  # type: ignore[union-attr]
    said = ""
    for number, turn in enumerate(messages):
        shown, taken = [True], [False]
        for place, piece in enumerate(re.split(r"\{\{ (.*?) \}\}", body)):
            if place % 2 == 0:
                said += piece if all(shown) else ""
                continue
            role = re.search(r'eq \.Role "(\w+)"', piece)
            last = "and" in piece and number + 1 == len(messages) and turn["role"] != "assistant"
            if piece.startswith("if "):
                shown.append(last if "slice" in piece else turn["role"] == role[1])  # type: ignore[index]
                taken.append(shown[-1])
            elif piece.startswith("else if "):
                shown[-1] = not taken[-1] and turn["role"] == role[1]  # type: ignore[index]
                taken[-1] = taken[-1] or shown[-1]
            elif piece == "end":
                shown.pop(), taken.pop()
            elif all(shown):
                said += turn["content"] if piece == ".Content" else json.loads(piece)
    return said


@pytest.mark.parametrize(
    ("template", "begins", "system"),
    [(TEMPLATE, "", ""), (SYSTEM, "", "Be kind"), (GEMMA, "<bos>", None), (LLAMA3, "<bos>", ""), (PLAIN, "<bos>", "")],
)
def test_a_template_of_constant_text_becomes_one_of_go_that_writes_the_same(template: str, begins: str, system: str | None) -> None:
    render = renderer(template)
    layout = find_layout(render, begins)
    assert isinstance(layout, Layout), layout
    assert ("system" in layout.around) == (system is not None)
    assert layout.system == (system or "")
    for turns in ([*TURNS, TURNS[0]], TURNS[:1], [TURNS[0]] * 1):
        given = (
            [{"role": "system", "content": layout.system}, *turns] if layout.system else turns
        )  # Ollama puts the Modelfile's SYSTEM there
        assert begins + run_go(go_template(layout), given) == render(turns, True)


def test_a_template_that_does_more_is_not_taken_apart() -> None:
    trims = TEMPLATE.replace("message['content']", "message['content'] | trim")
    thinks = TEMPLATE.replace("message['content']", "message['content'].split('x')[-1]")
    for template in (trims, thinks, "{{ raise_exception('no') }}", "{{ messages[0]['content'] }}"):
        assert isinstance(find_layout(renderer(template), ""), str), template


def test_a_modelfile_carries_the_template_and_what_ends_an_answer(bundles: Any, tmp_path: Path) -> None:
    write(bundles("llama"), tmp_path)
    said = (tmp_path / MODELFILE).read_text()
    assert f"FROM ./{FILE}\n" in said
    assert '<|im_start|>assistant\n{{ end }}{{ end }}"""' in said
    assert 'PARAMETER stop "<|im_end|>"' in said


def test_a_template_that_ollama_cannot_hold_is_said_before_work_begins(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "trims", "llama", template=TEMPLATE.replace("message['content']", "message['content'] | trim"))
    (loss,) = Gguf().losses(bundle, "float16")
    assert "TEMPLATE for Ollama" in loss
    write(bundle, tmp_path / "out")
    assert "# No TEMPLATE" in (tmp_path / "out" / MODELFILE).read_text()
