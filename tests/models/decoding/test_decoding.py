import itertools
import platform

import pytest
import torch

from luthier.core.errors import ModelError
from luthier.models.decoding import compiled_step
from luthier.models.decoding.choice import choose_decoder
from luthier.models.decoding.compiled_step import CompiledDecoder
from luthier.models.decoding.continuous_batching import ContinuousBatch
from luthier.models.decoding.int8 import GROUP, lay_in_panels, quantise_groups
from luthier.models.decoding.network import NotKnown, read_network
from luthier.models.decoding.pages import PAGE, PagePool
from luthier.models.decoding.precision import compare_decoders
from luthier.models.decoding.request import GenerationRequest
from luthier.models.decoding.sampling import choose, choose_id
from luthier.models.decoding.step import Span, make_cache
from luthier.models.decoding.torch_step import TorchDecoder
from luthier.models.kernels import shared_library
from luthier.models.precision import round_weights_to
from luthier.models.pretrained import load_generator

FAMILIES = ("llama", "qwen2", "qwen3", "mistral", "gemma3_text", "smollm3")
needs_compiler = pytest.mark.skipif(not shared_library.can_compile(), reason="there is no C++ compiler")


@pytest.fixture(scope="session")
def networks(bases):
    """The networks of small decoders by family, and themselves."""
    made = {}

    def get(family):
        if family not in made:
            model = load_generator(bases(family), 0.0).eval()
            made[family] = (model, read_network(model.network))
        return made[family]

    return get


def some_tokens(count, seed=0):
    return torch.randint(5, 300, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def read(decoder, tokens, cuts, pages=(5, 2, 7, 1)):
    """The logits of a text that goes through a decoder in pieces."""
    starts = (0, *cuts, len(tokens))
    spans = [Span(tokens[start:end], start, pages, end - start) for start, end in itertools.pairwise(starts)]
    return torch.cat([decoder.step([span]) for span in spans])


@pytest.mark.parametrize("family", FAMILIES)
def test_both_steps_give_the_logits_of_transformers_however_a_text_is_cut(family, networks, request):
    model, network = networks(family)
    tokens = some_tokens(40)
    with model.for_generation() as own:
        wanted = own(input_ids=torch.tensor([tokens])).logits[0]
    decoders = [TorchDecoder(network, make_cache(network, 8, 64))]
    if shared_library.can_compile():
        request.getfixturevalue("compiling")
        decoders.append(CompiledDecoder(network, make_cache(network, 8, 64)))
    for decoder in decoders:
        for cuts in ((), (11, 12, 33)):
            assert torch.allclose(read(decoder, tokens, cuts), wanted, atol=5e-6)


@needs_compiler
@pytest.mark.parametrize("family", ("llama", "gemma3_text"))
@pytest.mark.parametrize("precision", ("fp32", "int8"))
def test_a_text_has_the_same_bits_alone_beside_others_cut_and_on_two_threads(family, precision, networks, compiling):
    _, network = networks(family)
    tokens = some_tokens(40)
    decoder = CompiledDecoder(network, make_cache(network, 32, 64), precision, 1)
    wanted = read(decoder, tokens, ())
    assert torch.equal(read(decoder, tokens, range(1, 40)), wanted)
    assert torch.equal(read(CompiledDecoder(network, make_cache(network, 8, 64), precision, 2), tokens, (7,)), wanted)
    others = [Span(some_tokens(count, count), 0, (10 + 2 * count, 11 + 2 * count), 1) for count in range(1, 10)]
    together = decoder.step([*others[:4], Span(tokens, 0, (5, 2, 7), 40), *others[4:]])
    assert torch.equal(together[4:44], wanted)


@needs_compiler
@pytest.mark.skipif(platform.machine() != "x86_64", reason="registers of other widths are an option of x86-64 alone")
@pytest.mark.parametrize(
    "registers", (("-march=x86-64",), ("-march=native", "-mno-avx512f")), ids=("four numbers", "eight numbers at most")
)
def test_code_for_narrower_registers_gives_the_same_logits_and_the_same_bits_alone_and_beside_others(
    registers, networks, monkeypatch, tmp_path
):
    monkeypatch.setenv("LUTHIER_KERNELS", str(tmp_path))
    monkeypatch.setattr(shared_library, "FLAGS", tuple(flag for flag in shared_library.FLAGS if not flag.startswith("-march")) + registers)
    model, network = networks("llama")
    tokens = some_tokens(40)
    with model.for_generation() as own:
        wanted = own(input_ids=torch.tensor([tokens])).logits[0]
    for precision in ("fp32", "int8"):
        decoder = CompiledDecoder(network, make_cache(network, 32, 64), precision, 1)
        whole = read(decoder, tokens, ())
        assert precision == "int8" or torch.allclose(whole, wanted, atol=5e-6)
        assert torch.equal(read(decoder, tokens, range(1, 40)), whole)
        beside = decoder.step([Span(some_tokens(7, 1), 0, (10, 11), 1), Span(tokens, 0, (5, 2, 7), 40)])
        assert torch.equal(beside[1:], whole)


def test_torchs_step_gives_one_row_the_same_logits_beside_seven_others(networks):
    _, network = networks("llama")
    decoder = TorchDecoder(network, make_cache(network, 16, 64))
    alone = decoder.step([Span([9], 0, [0])])
    beside = decoder.step([Span([20 + number], 0, [number]) for number in range(1, 8)] + [Span([9], 0, [0])])
    assert torch.allclose(
        alone[0], beside[-1], atol=5e-7
    )  # bits are promised by the compiled step only: MKL's are equal on Intel's processors, not on AMD's


@needs_compiler
def test_int8_is_near_to_fp32_and_the_record_says_how_near(networks, compiling):
    _, network = networks("llama")
    cache = make_cache(network, 8, 64)
    exact, reduced = CompiledDecoder(network, cache), CompiledDecoder(network, cache, "int8")
    texts = [some_tokens(40, seed) for seed in range(3)]
    told = compare_decoders(exact, reduced, texts)
    assert told.tokens == 117 and 0 < told.mean < 0.02 and told.largest < 0.2 and told.equal_greedy > 0.9
    assert abs(told.perplexity / told.reduced_perplexity - 1) < 0.01
    same = compare_decoders(exact, exact, texts)
    assert (same.largest, same.equal_greedy) == (0.0, 1.0)


@pytest.mark.parametrize("inputs", (48, GROUP, GROUP + 7))
def test_rounded_weights_are_at_most_half_a_scale_away(inputs):
    weight = torch.randn(70, inputs, generator=torch.Generator().manual_seed(1))
    weight[3] = 0
    numbers, scale = quantise_groups(weight)
    wide = scale.repeat_interleave(GROUP, 1)[:, :inputs]
    assert ((numbers * wide - weight).abs() <= wide * 0.5001).all()
    laid = lay_in_panels(numbers)
    assert laid.shape == (2, inputs, 64) and torch.equal(laid[1, :, 5], numbers[69]) and not laid[1, :, 6:].any()


@needs_compiler
def test_it_is_measured_and_said_what_computes(networks, compiling, monkeypatch):
    _, network = networks("llama")
    chosen = choose_decoder(network, make_cache(network, 4, 64), "auto")
    assert "fp32" in chosen.why and "ms" in chosen.why
    reduced = choose_decoder(network, make_cache(network, 4, 64), "int8")
    assert reduced.drafter is None and reduced.parity is not None and reduced.parity.tokens == 4 * 63 and str(reduced.parity) in reduced.why
    given = choose_decoder(network, make_cache(network, 4, 64), "int8", [some_tokens(100), some_tokens(20)]).parity
    assert given is not None and given.tokens == 63 + 19 and 0 < given.largest < 0.2


def without_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    return "there is no C++ compiler"


def with_a_place_that_is_a_file(monkeypatch, tmp_path):
    (tmp_path / "kernels").write_text("")
    monkeypatch.setenv("LUTHIER_KERNELS", str(tmp_path / "kernels"))
    return "kernels"


def with_a_relative_place(monkeypatch, tmp_path):
    monkeypatch.setenv("LUTHIER_KERNELS", "kernels")
    return "relative folder"


def with_code_that_does_not_compile(monkeypatch, tmp_path):
    (tmp_path / "broken.cpp").write_text("this is no C++")
    monkeypatch.setattr(compiled_step, "SOURCE", tmp_path / "broken.cpp")
    return "could not be compiled"


def with_a_damaged_library(monkeypatch, tmp_path):
    (tmp_path / "kept").mkdir()
    monkeypatch.setenv("LUTHIER_KERNELS", str(tmp_path / "kept"))
    compiled_step.library_file().write_bytes(b"no library")
    return "it is compiled again"


@needs_compiler
@pytest.mark.parametrize(
    "harm",
    (without_compiler, with_a_place_that_is_a_file, with_a_relative_place, with_code_that_does_not_compile, with_a_damaged_library),
    ids=lambda harm: harm.__name__,
)
def test_where_compiled_code_cannot_be_had_torchs_operations_write_and_the_reason_is_said(harm, networks, monkeypatch, tmp_path):
    _, network = networks("llama")
    monkeypatch.setenv("LUTHIER_KERNELS", str(tmp_path / "new"))
    reason = harm(monkeypatch, tmp_path)
    chosen = choose_decoder(network, make_cache(network, 4, 64), "auto")
    assert isinstance(chosen.decoder, TorchDecoder) and chosen.drafter is None and "no compiled code" in chosen.why
    assert reason in chosen.why or reason == "it is compiled again"
    assert torch.isfinite(chosen.decoder.step([Span([5, 6], 0, [0])])).all()
    with pytest.raises(ModelError, match="int8 needs compiled code") as caught:
        choose_decoder(network, make_cache(network, 4, 64), "int8")
    assert reason in str(caught.value)


def test_code_of_another_processor_that_shares_the_home_is_not_loaded(monkeypatch, tmp_path):
    monkeypatch.setenv("LUTHIER_KERNELS", str(tmp_path))
    here = ["processor\t: 0", "model name\t: One", "flags\t\t: sse avx", "processor\t: 1", "model name\t: One", "flags\t\t: sse avx"]
    names = set()
    for change in ((), ("sse avx", "sse avx avx512f"), ("One", "Other"), ("processor\t: 1", "processor\t: 2")):
        lines = [line.replace(*change) if change else line for line in here]
        monkeypatch.setattr(shared_library, "_processor_lines", lambda lines=lines: lines)
        names.add(compiled_step.library_file().name)
    assert len(names) == 3  # the number of a processor is none of its properties


def test_a_text_that_is_longer_than_the_context_is_refused_before_anything_is_written(networks, request):
    _, network = networks("llama")
    decoders = [TorchDecoder(network, make_cache(network, 4, 40))]
    if shared_library.can_compile():
        request.getfixturevalue("compiling")
        decoders.append(CompiledDecoder(network, make_cache(network, 4, 40)))
    for decoder in decoders:
        for span in (Span([5] * 41, 0, [0, 1, 2]), Span([5], 40, [0, 1, 2]), Span([5] * 17, 0, [0])):
            with pytest.raises(ModelError, match="does not fit into a context of 40"):
                decoder.step([span])
        assert not decoder.cache.keys.any()
        assert len(decoder.step([Span([5] * 40, 0, [0, 1, 2])])) == 1
    if shared_library.can_compile():
        rows = [some_tokens(63)]  # four pages hold it, and the context does not
        parity = choose_decoder(network, make_cache(network, 4, 40), "int8", rows).parity
        assert parity is not None and parity.tokens == 39


def test_a_network_that_the_step_does_not_know_is_refused_with_the_reason(bases):
    with pytest.raises(NotKnown, match="Phi3ForCausalLM"):
        read_network(load_generator(bases("phi3"), 0.0).network)
    moving = load_generator(bases("llama"), 0.0).network
    moving.model.rotary_emb.rope_type = "dynamic"
    with pytest.raises(NotKnown, match="dynamic"):
        read_network(moving)
    adapted = load_generator(bases("llama"), 0.0).network
    adapted.model.layers[1].mlp.down_proj = torch.nn.Sequential(adapted.model.layers[1].mlp.down_proj)
    with pytest.raises(NotKnown, match="Sequential"):
        read_network(adapted)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_tied_weights_stay_one_tensor_and_a_network_keeps_its_own(dtype, bases):
    network = round_weights_to(load_generator(bases("gemma3_text"), 0.0), dtype).network
    assert network.lm_head.weight is network.model.embed_tokens.weight, "choose another base: this one is not tied"
    known = read_network(network)
    assert known.embedding.dtype == torch.float32 and known.head.weight is known.embedding
    assert torch.equal(known.embedding.to(dtype), network.lm_head.weight)
    assert all(parameter.dtype == dtype for parameter in network.parameters())


def test_pages_are_found_by_how_a_text_begins_and_by_nothing_else():
    pool = PagePool(6)
    tokens = list(range(40))
    pages = pool.take(pool.find(tokens), 3)
    assert pages is not None and len(pages) == 3
    pool.remember(pages, 0, tokens[:PAGE])
    pool.remember(pages, 1, tokens[PAGE : 2 * PAGE])
    assert pool.find(tokens) == pages[:2]
    assert pool.find(tokens[: 2 * PAGE]) == pages[:1]  # at least one token is left to compute
    assert pool.find([1, *tokens[1:]]) == [] and pool.find([*tokens[:PAGE], 0, *tokens[PAGE + 1 :]]) == pages[:1]
    pool.release(pages)
    assert (pool.free, pool.kept) == (6, 2)
    held = pool.take(pages[:1], 4)
    assert held is not None and held[0] == pages[0]
    assert pool.take([], 2) is None and pool.take(pages[1:2], 1) is None
    taken = pool.take([], 1)
    assert taken == [pages[1]] and pool.find(tokens) == pages[:1]  # its place was needed: what it held is forgotten


def test_a_beginning_that_two_texts_computed_at_the_same_time_is_known_once():
    pool = PagePool(8)
    tokens = list(range(50))
    first, second = pool.take([], 4), pool.take([], 4)
    assert first is not None and second is not None
    for index in range(3):
        for pages in (first, second):
            pool.remember(pages, index, tokens[index * PAGE : (index + 1) * PAGE])
    assert pool.find(tokens) == first[:3]
    pool.release(second)
    assert pool.kept == 0 and pool.free == 4


def test_what_is_drawn_follows_the_seed_and_the_position_alone_and_the_probabilities():
    logits = torch.tensor([1.0, 3.0, 2.0, 0.0, -1.0])
    ask = lambda **more: GenerationRequest((1,), 1, **more)  # noqa: E731
    assert choose_id(logits, ask(), 5) == choose_id(logits, ask(temperature=1.0, top_k=1, seed=8), 5) == 1
    for options in ({}, {"top_k": 3}, {"top_p": 0.8}, {"top_k": 4, "top_p": 0.9, "temperature": 0.5}):
        request = ask(**({"temperature": 1.0, "seed": 3} | options))
        drawn = torch.tensor([choose_id(logits, request, place) for place in range(1500)])
        shares = (logits / request.temperature).softmax(0)
        order = shares.argsort(descending=True)
        if request.top_k:
            shares[order[request.top_k :]] = 0
            shares /= shares.sum()
        shares[order[1:][shares[order].cumsum(0)[:-1] >= request.top_p]] = 0
        shares /= shares.sum()
        assert torch.allclose(drawn.bincount(minlength=5) / 1500, shares, atol=0.05)
        assert not (drawn.bincount(minlength=5) > 0)[shares == 0].any()
        assert choose_id(logits, request, 77) == choose_id(logits, request, 77)
    token = choose(logits, ask(temperature=9.0, logprobs=2), 1)
    exact = logits.log_softmax(0)
    assert token.logprob == pytest.approx(float(exact[token.id]), abs=1e-6)
    assert [number for number, _ in token.top] == [1, 2] and token.top[0][1] == pytest.approx(float(exact[1]), abs=1e-6)
    with pytest.raises(ModelError, match="not finite"):
        choose(torch.tensor([0.0, float("nan")]), ask(), 1)


def test_a_long_prompt_goes_in_by_pieces_while_others_are_written(networks):
    _, network = networks("llama")
    batch = ContinuousBatch(TorchDecoder(network, make_cache(network, 32, 256)), PagePool(32), 2)
    first = batch.join(GenerationRequest(tuple(some_tokens(5)), 30))
    batch.step()
    long = batch.join(GenerationRequest(tuple(some_tokens(150, 1)), 3))
    assert first is not None and long is not None and batch.join(GenerationRequest((1,), 1)) is None
    counts = []
    while long.made == 0:
        before = long.computed
        assert batch.step()[0].text is first  # the other gets its token in every step
        counts.append(long.computed - before)
    assert counts == [64, 64, 22]


def write(batch, requests, leave_after=0):
    """The tokens of some requests that are in a batch together; the first leaves after so many steps."""
    texts = [batch.join(request) for request in requests]
    made = {id(text): [] for text in texts}
    steps = 0
    while batch.texts:
        steps += 1
        if steps == leave_after:
            batch.leave(texts[0])
        for outcome in batch.step():
            assert outcome.error is None
            made[id(outcome.text)].extend(outcome.tokens)
    return [made[id(text)] for text in texts], steps


@needs_compiler
@pytest.mark.parametrize("family", ("llama", "mistral"))
def test_drafted_tokens_are_those_that_the_decoder_writes_itself_in_fewer_steps(family, networks, compiling):
    _, network = networks(family)
    cache = make_cache(network, 64, 64)
    exact, drafter = CompiledDecoder(network, cache), CompiledDecoder(network, cache, "int8")
    stops = frozenset(range(5, 40))
    asked = [
        [GenerationRequest(tuple(some_tokens(20, seed)), 25, temperature, seed=seed, stop=stop, logprobs=2)]
        for seed in range(4)
        for temperature, stop in ((0.0, frozenset()), (0.0, stops), (1.0, frozenset()))
    ]
    plain = [write(ContinuousBatch(exact, PagePool(64), 4), requests) for requests in asked]
    drafted = [write(ContinuousBatch(exact, PagePool(64), 4, drafter), requests) for requests in asked]
    assert [made for made, _ in drafted] == [made for made, _ in plain]
    assert sum(steps for _, steps in drafted) < 0.6 * sum(steps for _, steps in plain)
    wrong = CompiledDecoder(read_network(networks("llama")[0].network), make_cache(network, 64, 64))  # guesses without having read anything
    assert write(ContinuousBatch(exact, PagePool(64), 4, wrong), asked[0])[0] == plain[0][0]


@needs_compiler
def test_compiled_answers_are_the_same_alone_in_a_batch_of_eight_after_a_neighbour_left_and_behind_a_shared_beginning(networks, compiling):
    model, network = networks("llama")
    decoder = CompiledDecoder(network, make_cache(network, 128, 96))
    prompts = [some_tokens(20) + some_tokens(count * 3, count) for count in range(8)]
    requests = [GenerationRequest(tuple(prompt), 30) for prompt in prompts]
    alone = [write(ContinuousBatch(decoder, PagePool(128), 8), [request])[0][0] for request in requests]
    pool = PagePool(128)
    together, _ = write(ContinuousBatch(decoder, pool, 8), requests)
    again, _ = write(ContinuousBatch(decoder, pool, 8), requests, leave_after=5)  # what all begin with is known now
    assert together == alone and again[1:] == alone[1:] and len(again[0]) < 30
    assert pool.free == 128
    with model.for_generation() as own:
        for prompt, tokens in zip(prompts, alone):
            ids = torch.tensor([prompt])
            wanted = own.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False, eos_token_id=-1, pad_token_id=0
            )
            assert [token.id for token in tokens] == wanted[0, len(prompt) :].tolist()
