"""The Transformer plugin: parity with torch.nn.Transformer, counts, masks, and decoding against searches by hand."""

from __future__ import annotations

import copy
import fnmatch
import itertools
import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
import zoo_transformer
from models import build, closed_form, on_meta, params
from torch import Tensor, nn
from zoo_transformer import BYTES, adapter, decode
from zoo_transformer.model import Decoder, DecoderLayer, Encoder, EncoderLayer, Past, Transformer, positions
from zoo_transformer.weights import convert_torch

from zoo import ModelSpec, Recipe, Size, ZooError, published
from zoo.metrics.macs import count
from zoo.spec import resolve

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_transformer.zoo_models()}
LIKE_TORCH = {"attention_bias": True, "final_norm": True}
START, END = 0, 1


def pair(
    name: str,
    size: int | str | None = None,
    batch_size: int = 1,
    device: str = "cpu",
    seed: int = 0,
    **options: object,
) -> tuple[Tensor, Tensor]:
    """Make source and target ids as the spec says."""
    spec = SPECS[name]
    generator = torch.Generator(device).manual_seed(seed) if device == "cpu" else None
    make = resolve(spec.input.make)
    (source, target), _ = make(
        spec.size(size), batch_size, torch.float32, torch.device(device), generator, **spec.input_params(options)
    )
    return source, target


def nano(seed: int = 0, **options: object) -> nn.Module:
    """Build a small one for inference, in float64, from a seed."""
    torch.manual_seed(seed)
    return build("transformer_nano", **options).double()


def counted(name: str, size: int | str | None = None, **options: object) -> int:
    """Count the MACs of one pair on the meta device, and see that nothing that matters is left out."""
    result = count(on_meta(name, size, **options), pair(name, size, device="meta"))
    assert [op for op in result.uncounted if op.material] == []
    return result.macs


# -- parity with torch.nn.Transformer ------------------------------------------------------------------------


@pytest.fixture
def without_fast_path() -> Iterator[None]:
    """Keep torch's encoder off its fused operator, which turns padded batches into nested tensors and warns of it."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def theirs_and_ours(dtype: torch.dtype, prefix: str = "transformer.") -> tuple[nn.Transformer, Transformer]:
    """Return torch's module with random weights, biases included, and ours with the same through a file's layout."""
    torch.manual_seed(0)
    theirs = nn.Transformer(48, 4, 2, 3, 80, batch_first=True).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.2)
    options = {"width": 48, "encoder_depth": 2, "decoder_depth": 3, "ff_width": 80, "inner_dropout": 0.1}
    ours = build("transformer_nano", **options, **LIKE_TORCH)
    assert isinstance(ours, Transformer)
    file = {f"{prefix}{name}": tensor for name, tensor in theirs.state_dict().items()}
    file["embedding.weight"] = ours.embedding.weight.detach()
    ours.load_state_dict(convert_torch(file, ours))
    return theirs.to(dtype), ours.to(dtype)


def embedded(ids: Tensor, weight: Tensor) -> Tensor:
    """Embed ids as the paper says, number by number."""
    d = weight.shape[1]
    sinusoids = [
        [(math.sin, math.cos)[c % 2](p / 10_000 ** (2 * (c // 2) / d)) for c in range(d)] for p in range(ids.shape[1])
    ]
    return weight[ids] * math.sqrt(d) + torch.tensor(sinusoids, dtype=weight.dtype)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("size", ["1+1tok", "7+5tok", "13+29tok", "64+3tok"])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.usefixtures("without_fast_path")
def test_logits_are_those_of_torch(dtype, limit, size, padded):
    theirs, ours = theirs_and_ours(dtype)
    source, target = pair("transformer_nano", size, batch_size=3)
    n, k = source.shape[1], target.shape[1]
    lengths = torch.tensor([n, max(1, n // 2), max(1, n - 1)])
    padding = torch.arange(n) >= lengths[:, None] if padded else None
    weight = ours.embedding.weight
    with torch.no_grad():
        hidden = theirs(
            embedded(source, weight),
            embedded(target, weight),
            tgt_mask=torch.triu(torch.ones(k, k, dtype=torch.bool), 1),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        expected = hidden @ weight.T
        logits = ours(source, target, padding)
    assert (logits - expected).abs().max() / expected.abs().max() < limit


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_files_of_torch_are_recognised_by_their_names(prefix):
    theirs, _ = theirs_and_ours(torch.float32, prefix)
    (layout,) = SPECS["transformer_base"].weights
    names = [prefix + name for name in theirs.state_dict()]
    assert [name for name in names if fnmatch.fnmatchcase(name, layout.key)]
    assert resolve(str(layout.convert)) is convert_torch


def test_what_a_file_of_torch_lacks_or_has_too_much_stays_visible():
    file = dict(nn.Transformer(64, 4, 2, 2, 256, batch_first=True).state_dict())
    file["head.weight"] = torch.zeros(3)
    plain, like_torch = build("transformer_nano"), build("transformer_nano", **LIKE_TORCH)
    names = set(convert_torch(file, like_torch))
    assert set(like_torch.state_dict()) - names == {"embedding.weight"}
    assert names - set(like_torch.state_dict()) == {"head.weight"}
    unexpected = names - set(plain.state_dict())
    assert {name.rpartition(".")[2] for name in unexpected if "layers" in name} == {"bias"}
    assert {name for name in unexpected if "layers" not in name} == {
        "head.weight",
        *(f"{stack}.norm.{kind}" for stack in ("encoder", "decoder") for kind in ("weight", "bias")),
    }


# -- counts --------------------------------------------------------------------------------------------------


def core(name: str, **options: object) -> int:
    """Count the parameters without the embedding."""
    model = on_meta(name, **options)
    return params(model) - params(model.get_submodule("embedding"))


def test_parameters_of_base_are_exact():
    d, ff = 512, 2048
    norm, feed_forward, attention = 2 * d, 2 * d * ff + ff + d, 4 * d**2
    layers = 6 * (attention + feed_forward + 2 * norm) + 6 * (2 * attention + feed_forward + 3 * norm)
    assert core("transformer_base") == layers == 44_101_632
    biases = 6 * 4 * d + 6 * 8 * d
    assert core("transformer_base", attention_bias=True) == layers + biases == 44_138_496
    assert core("transformer_base", **LIKE_TORCH) == layers + biases + 2 * norm == 44_140_544
    assert params(on_meta("transformer_base", attention_bias=True)) == 44_138_496 + 37_000 * d == 63_082_496


def test_parameters_of_big_are_exact():
    assert core("transformer_big", **LIKE_TORCH) == 176_361_472
    assert params(on_meta("transformer_big", attention_bias=True)) == 214_245_376


@pytest.mark.parametrize(("name", "size"), [("transformer_base", 512), ("transformer_big", 1024)])
def test_core_has_as_many_parameters_as_torchs(name, size):
    with torch.device("meta"):
        theirs = nn.Transformer(size, size // 64, 6, 6, 4 * size, batch_first=True)
    assert core(name, **LIKE_TORCH) == params(theirs)


@pytest.mark.parametrize(
    ("options", "millions"),
    [
        ({}, 65),
        ({"encoder_depth": 2, "decoder_depth": 2}, 36),
        ({"encoder_depth": 4, "decoder_depth": 4}, 50),
        ({"encoder_depth": 8, "decoder_depth": 8}, 80),
        ({"width": 256}, 28),
        ({"width": 1024}, 168),
        ({"ff_width": 1024}, 53),
        ({"ff_width": 4096}, 90),
    ],
)
def test_ablations_of_the_paper_are_options(options, millions):
    # Table 3 (C), with d_k = d_v = d / 8. Each is some 2 M more than 37,000 tokens give, the vocabulary it prints
    assert params(on_meta("transformer_base", **options)) == pytest.approx(millions * 1e6, rel=0.07)


@pytest.mark.parametrize(("name", "millions"), [("transformer_base", 65), ("transformer_big", 213)])
def test_parameters_are_nearly_those_the_paper_prints(name, millions):
    assert params(on_meta(name)) == pytest.approx(millions * 1e6, rel=0.04)
    (printed,) = [p for p in published.of(*SPECS[name].published) if p.metric == "params"]
    assert (printed.value, printed.unit) == (str(millions), "M")


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        # counted apart from this code, off torch.nn.Transformer, without the output projection
        ("transformer_base", 25, 1.113),
        ("transformer_base", 100, 4.588),
        ("transformer_base", 512, 27.380),
        ("transformer_big", 100, 17.985),
    ],
)
@pytest.mark.parametrize("options", [{}, LIKE_TORCH])
def test_macs_of_the_core_are_those_of_torch(name, size, expected, options):
    scores = size * SPECS[name].knobs["width"] * 37_000
    assert round((counted(name, size, **options) - scores) / 1e9, 3) == expected
    assert round((closed_form(name, size, **options) - scores) / 1e9, 3) == expected


def test_macs_follow_the_formula_of_the_paper():
    n, k, d, ff, layers, vocabulary = 12, 40, 512, 2048, 6, 37_000
    encoder = 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * ff
    causal = 4 * k * d**2 + 2 * k**2 * d
    cross = 2 * k * d**2 + 2 * n * d**2 + 2 * n * k * d
    expected = layers * (encoder + causal + cross + 2 * k * d * ff) + k * d * vocabulary
    assert closed_form("transformer_base", "12+40tok") == expected


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("size", [None, 1, "12+40tok", "65+3tok"])
def test_macs_by_hand_are_those_counted(name, size):
    assert counted(name, size) == closed_form(name, size)


def test_macs_by_hand_hold_for_every_option():
    options = {
        "vocab_size": 300,
        "width": 48,
        "heads": 8,
        "encoder_depth": 1,
        "decoder_depth": 3,
        "ff_width": 80,
        "dropout": 0.2,
        "inner_dropout": 0.1,
        "attention_bias": True,
        "final_norm": True,
    }
    assert set(options) == set(SPECS["transformer_nano"].knobs)
    assert counted("transformer_nano", "9+21tok", **options) == closed_form("transformer_nano", "9+21tok", **options)
    usual = on_meta("transformer_nano")
    for option, value in options.items():
        other = on_meta("transformer_nano", **{option: value})
        assert repr(other) != repr(usual) or traits(other) != traits(usual), option


def traits(model: nn.Module) -> list[object]:
    """Return what the printed form of a model leaves out."""
    return [vars(part).get(trait) for part in model.modules() for trait in ("heads", "dropout")]


def test_a_number_is_the_length_of_both_source_and_target():
    assert closed_form("transformer_nano", 20) == closed_form("transformer_nano", "20+20tok")
    assert [ids.shape for ids in pair("transformer_nano", 20)] == [(1, 20), (1, 20)]
    tokens = resolve(SPECS["transformer_base"].input.tokens)
    assert (tokens(20), tokens((12, 40))) == (40, 52)


# -- layers --------------------------------------------------------------------------------------------------


def test_positions_alternate_sine_and_cosine():
    table = positions(3, 4)  # rates 1 and 10000^(-2/4) = 0.01
    assert table[0].tolist() == [0, 1, 0, 1]
    expected = [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)]
    torch.testing.assert_close(table[2], torch.tensor(expected, dtype=torch.float64))


def test_positions_may_start_anywhere():
    torch.testing.assert_close(positions(5, 8, start=100_000), positions(100_005, 8)[-5:], rtol=0, atol=0)


def test_weights_start_as_documented():
    torch.manual_seed(0)
    model = build("transformer_nano", width=128, ff_width=256, attention_bias=True)
    square = math.sqrt(6 / (128 + 128))  # Glorot: each of a packed projection is a 128 x 128 matrix
    for name in ("encoder.layers.0.attention.qkv", "decoder.layers.0.cross.key_value", "decoder.layers.1.cross.out"):
        layer = model.get_submodule(name)
        assert 0.98 * square < layer.weight.abs().max() <= square
        assert layer.bias.count_nonzero() == 0
    assert model.get_submodule("embedding").weight.std().item() == pytest.approx(128**-0.5, rel=0.02)
    oblong = math.sqrt(6 / (128 + 256))
    assert 0.98 * oblong < model.get_submodule("encoder.layers.0.feed_forward.expand").weight.abs().max() <= oblong


def test_the_past_is_kept_in_memory_set_aside_once():
    past, keys = Past(capacity=5), torch.randn(2, 3, 5, 4)
    places = set()
    for t in range(5):
        seen, values = past.append(keys[:, :, t : t + 1], -keys[:, :, t : t + 1])
        places.add(seen.data_ptr())
    assert len(places) == 1
    assert torch.equal(seen, keys)
    assert torch.equal(values, -keys)
    past.reorder(torch.tensor([1, 1]))
    assert past.kept is not None
    assert torch.equal(past.kept[0], keys[[1, 1]])


# -- behaviour -----------------------------------------------------------------------------------------------


def test_a_target_token_sees_none_behind_it():
    model, (source, target) = nano(), pair("transformer_nano", "9+11tok")
    other = target.clone()
    other[0, 6] = (target[0, 6] + 1) % BYTES
    with torch.no_grad():
        before, after = model(source, target), model(source, other)
    torch.testing.assert_close(after[:, :6], before[:, :6], rtol=0, atol=1e-12)
    assert ((after - before)[:, 6:].abs().amax(dim=-1) > 1e-6).all()


def test_every_source_token_reaches_every_logit():
    model, (source, target) = nano(), pair("transformer_nano", "9+4tok")
    with torch.no_grad():
        before = model(source, target)
        for i in range(9):
            other = source.clone()
            other[0, i] = (source[0, i] + 1) % BYTES
            assert ((model(other, target) - before).abs().amax(dim=-1) > 1e-9).all()


def test_one_matrix_embeds_source_and_target_and_gives_the_logits():
    model, (source, target) = nano(), pair("transformer_nano", "3+3tok")
    assert [n for n, p in model.named_parameters() if BYTES in p.shape] == [
        "embedding.weight",
        *(f"{s}coder.layers.{i}.feed_forward.{p}" for s in ("en", "de") for i in (0, 1) for p in FF_OF_WIDTH_256),
    ]
    assert isinstance(model, Transformer)
    with torch.no_grad():
        hidden = model.decoder(model.embed(target), model.encode(source))
        torch.testing.assert_close(model(source, target), hidden @ model.embedding.weight.T)


FF_OF_WIDTH_256 = ("expand.weight", "expand.bias", "contract.weight")


def test_padded_batch_equals_single_pairs():
    model = nano()
    lengths = [(5, 4), (9, 7), (2, 9)]
    pairs = [pair("transformer_nano", f"{n}+{k}tok", seed=n) for n, k in lengths]
    source, target = torch.zeros(3, 9, dtype=torch.long), torch.zeros(3, 9, dtype=torch.long)
    for row, (s, t) in enumerate(pairs):
        source[row, : s.shape[1]], target[row, : t.shape[1]] = s[0], t[0]
    padding = torch.arange(9) >= torch.tensor([n for n, _ in lengths])[:, None]
    with torch.no_grad():
        logits = model(source, target, padding)
        for row, (s, t) in enumerate(pairs):
            torch.testing.assert_close(logits[row, : t.shape[1]], model(s, t)[0], rtol=1e-9, atol=1e-9)


def test_what_stands_under_padding_does_not_matter():
    model, (source, target) = nano(), pair("transformer_nano", "6+5tok", batch_size=2)
    padding = torch.tensor([[False] * 4 + [True] * 2, [True] + [False] * 5])  # on either side
    other = source.masked_fill(padding, 7)
    with torch.no_grad():
        assert torch.equal(model(source, target, padding), model(other, target, padding))
        nothing = torch.zeros_like(padding)
        torch.testing.assert_close(model(source, target, nothing), model(source, target))


@pytest.mark.parametrize("option", ["dropout", "inner_dropout"])
def test_dropout_drops_only_in_training(option):
    model = nano(**{"dropout": 0.0, "inner_dropout": 0.0, option: 0.5})
    source, target = pair("transformer_nano", "8+8tok")
    with torch.no_grad():
        first = model(source, target)
        assert torch.equal(model(source, target), first)
        model.train()
        assert not torch.allclose(model(source, target), first)


def test_training_mode_changes_nothing_without_dropout():
    model, (source, target) = nano(dropout=0.0), pair("transformer_nano", "8+8tok")
    with torch.no_grad():
        torch.testing.assert_close(model.train()(source, target), model.eval()(source, target))


def test_inner_dropout_drops_attention_weights_and_hidden_units():
    model = nano(dropout=0.0, inner_dropout=0.5).train()
    x, memory = torch.randn(1, 6, 64).double(), torch.randn(1, 6, 64).double()
    layer = model.get_submodule("decoder.layers.0")
    for part, inputs in (("attention", (x,)), ("cross", (x, memory)), ("feed_forward", (x,))):
        sublayer = layer.get_submodule(part)
        assert not torch.allclose(sublayer(*inputs), sublayer(*inputs))


@pytest.mark.parametrize("name", SPECS)
def test_forward_and_backward_on_meta(name):
    model = on_meta(name)
    model(*pair(name, "6+5tok", batch_size=2, device="meta")).sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("options", [{}, LIKE_TORCH])
def test_gradients_reach_every_parameter(options):
    model, (source, target) = nano(**options), pair("transformer_nano", "6+5tok", batch_size=2)
    model(source, target).square().sum().backward()
    # adding one number to all scores of a query changes nothing: the bias of the keys gets no gradient but rounding
    idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == set()


def test_bfloat16_autocast_is_close_and_finite():
    model, (source, target) = nano().float(), pair("transformer_nano", batch_size=2)
    padding = torch.zeros_like(source, dtype=torch.bool)
    padding[1, 40:] = True
    with torch.no_grad():
        expected = model(source, target, padding)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = model(source, target, padding)
            tokens = decode.greedy(model, source, START, END, 4, padding)
    assert logits.isfinite().all()
    assert (logits.float() - expected).abs().max() < 0.05 * expected.abs().max()
    assert tokens.shape == (2, 4)


def test_a_model_goes_through_a_state_dict():
    model, other = nano(seed=0), nano(seed=1)
    source, target = pair("transformer_nano", "6+5tok")
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(other(source, target), model(source, target))


def test_a_width_that_does_not_divide_into_heads_is_refused():
    with pytest.raises(ZooError, match="width 64 cannot have 5 heads"):
        build("transformer_nano", heads=5)
    with pytest.raises(ZooError, match="width 63 cannot have 3 heads: expected an even multiple"):
        build("transformer_nano", width=63, heads=3)


@pytest.mark.parametrize("vocab_size", [37_000, 100])
def test_random_ids_come_from_the_whole_vocabulary_whatever_its_size(vocab_size):
    source, target = pair("transformer_base", batch_size=64, vocab_size=vocab_size)
    largest = max(source.max(), target.max())
    assert 0.9 * vocab_size < largest < vocab_size


@pytest.mark.parametrize("name", [name for name, spec in SPECS.items() if spec.published])
def test_published_numbers_are_there(name):
    numbers = published.of(*SPECS[name].published)
    assert {"BLEU", "params", "N layers"} <= {p.metric for p in numbers}
    assert {p.variant for p in numbers} == {name.removeprefix("transformer_"), "encoder/decoder"}


# -- decoding ------------------------------------------------------------------------------------------------


LONGEST = 5  # tokens of a text that the small model learns to turn round


def tiny() -> Transformer:
    """Build one of five tokens: start, end and three letters."""
    torch.manual_seed(0)
    shape = (16, 2, 32, False, 0.0, 0.0)  # width, heads, FFN, bias, dropouts
    encoder = Encoder([EncoderLayer(*shape)], nn.Identity())
    decoder = Decoder([DecoderLayer(*shape), DecoderLayer(*shape)], nn.Identity())
    return Transformer(nn.Embedding(5, 16), encoder, decoder, 0.0)


def texts(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Make n texts of 1 to ``LONGEST`` letters: padded sources, their padding, and the texts turned round."""
    generator = torch.Generator().manual_seed(seed)
    letters = torch.randint(2, 5, (n, LONGEST), generator=generator)
    lengths = torch.randint(1, LONGEST + 1, (n, 1), generator=generator)
    padding = torch.arange(LONGEST) >= lengths
    backwards = letters.gather(1, (lengths - 1 - torch.arange(LONGEST)).clamp(min=0)).masked_fill(padding, END)
    return letters.masked_fill(padding, START), padding, F.pad(backwards, (0, 1), value=END)


def train(model: Transformer, steps: range) -> None:
    """Teach a model to turn texts round."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for step in steps:
        source, padding, target = texts(64, seed=step)
        logits = model(source, F.pad(target[:, :-1], (1, 0), value=START), padding)
        loss = F.cross_entropy(logits.flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def models() -> tuple[Transformer, Transformer]:
    """Return a model that has learnt a little, so that searches of it differ, and the same when it has learnt well."""
    model = tiny()
    train(model, range(25))
    half = copy.deepcopy(model)
    train(model, range(25, 150))
    return half.eval().double(), model.eval().double()


@pytest.fixture
def half(models: tuple[Transformer, Transformer]) -> Transformer:
    """A model that is unsure of every token."""
    return models[0]


@torch.no_grad()
def greedy_by_hand(model: Transformer, source: Tensor, max_length: int) -> list[int]:
    """Decode one source (1, n), computing all tokens anew for each."""
    tokens = [START]
    while len(tokens) <= max_length and tokens[-1] != END:
        tokens.append(int(model(source, torch.tensor([tokens]))[0, -1].argmax()))
    return (tokens[1:] + [END] * max_length)[:max_length]


@torch.no_grad()
def search_by_hand(model: Transformer, source: Tensor, max_length: int, alpha: float) -> tuple[list[int], float]:
    """Look at every text up to ``max_length`` tokens for one source (1, n), and return the best and its score."""
    others = [t for t in range(model.embedding.num_embeddings) if t != END]
    every = [(*body, END) for n in range(max_length) for body in itertools.product(others, repeat=n)]
    every += itertools.product(others, repeat=max_length)  # cut off
    scored = []
    for n in range(1, max_length + 1):
        of_length = torch.tensor([t for t in every if len(t) == n])
        inputs = torch.cat([torch.full((len(of_length), 1), START), of_length[:, :-1]], dim=1)
        new = model(source.expand(len(of_length), -1), inputs).log_softmax(-1)
        total = new.gather(2, of_length[:, :, None]).sum(dim=(1, 2)) / ((5 + n) / 6) ** alpha
        scored += zip(total.tolist(), of_length.tolist(), strict=True)
    score, best = max(scored)
    return (best + [END] * max_length)[:max_length], score


def test_it_learns_to_turn_texts_round(models):
    source, padding, expected = texts(200, seed=1_000)
    for decoded in (
        decode.greedy(models[1], source, START, END, LONGEST + 1, padding),
        decode.beam_search(models[1], source, START, END, LONGEST + 1, source_padding=padding)[0],
    ):
        assert (decoded == expected).all(dim=1).float().mean() > 0.6


def test_cached_decoding_gives_the_logits_of_the_whole(half):
    source, padding, _ = texts(4, seed=0)
    target = torch.randint(5, (4, 12))
    with torch.no_grad():
        whole = half(source, target, padding)
        decoder = decode.Incremental(half, source, 12, padding)
        steps = torch.stack([decoder.step(target[:, t]) for t in range(12)], dim=1)
    torch.testing.assert_close(steps, whole, rtol=1e-10, atol=1e-10)


def test_beams_of_one_source_share_its_memory(half):
    source, padding, _ = texts(2, seed=0)
    target = torch.randint(5, (6, 5))  # three beams a source
    rows = torch.tensor([2, 0, 0, 4, 5, 3])
    with torch.no_grad():
        decoder = decode.Incremental(half, source, 6, padding)
        for t in range(5):
            decoder.step(target[:, t])
        decoder.reorder(rows)
        after = decoder.step(target[:, 0])
        whole = half(
            source.repeat_interleave(3, 0),
            torch.cat([target[rows], target[:, :1]], dim=1),
            padding.repeat_interleave(3, 0),
        )
    assert {keys.shape[0] for keys, _ in decoder.memory} == {2}
    torch.testing.assert_close(after, whole[:, -1], rtol=1e-10, atol=1e-10)


def test_greedy_decoding_is_that_without_a_cache_token_for_token(models):
    source, padding, _ = texts(12, seed=0)
    for model in models:
        tokens = decode.greedy(model, source, START, END, 9, padding)
        assert len({tuple(text) for text in tokens.tolist()}) > 6  # they differ
        for row, hidden in enumerate(padding):
            assert tokens[row].tolist() == greedy_by_hand(model, source[row : row + 1, ~hidden], 9)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 4.0])
def test_a_beam_of_one_is_greedy(models, alpha):
    source, padding, _ = texts(100, seed=1)
    for model in models:
        greedy = decode.greedy(model, source, START, END, 8, padding)
        tokens, _ = decode.beam_search(model, source, START, END, 8, 1, alpha, padding)
        assert torch.equal(tokens, greedy)


@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_the_best_of_all_texts(half, alpha):
    source, padding, _ = texts(6, seed=2)
    # four tokens go on and one ends: 4^4 = 256 texts of length 4 are the most that ever go on
    tokens, scores = decode.beam_search(half, source, START, END, 4, 400, alpha, padding)
    greedy = decode.greedy(half, source, START, END, 4, padding)
    assert not torch.equal(tokens, greedy)
    for row, hidden in enumerate(padding):
        best, score = search_by_hand(half, source[row : row + 1, ~hidden], 4, alpha)
        assert tokens[row].tolist() == best
        assert scores[row].item() == pytest.approx(score, rel=1e-5)


@pytest.mark.parametrize("alpha", [0.6, 4.0])
def test_beam_search_of_a_padded_batch_is_that_of_single_sources(half, alpha):
    source, padding, _ = texts(10, seed=3)
    tokens, scores = decode.beam_search(half, source, START, END, 7, 3, alpha, padding)
    for row, hidden in enumerate(padding):
        alone, score = decode.beam_search(half, source[row : row + 1, ~hidden], START, END, 7, 3, alpha)
        assert torch.equal(alone[0], tokens[row])
        torch.testing.assert_close(score[0], scores[row])


def test_a_score_is_the_log_probability_over_the_length_penalty(half):
    source, padding, _ = texts(5, seed=4)
    tokens, scores = decode.beam_search(half, source, START, END, 8, beams=4, alpha=0.6, source_padding=padding)
    with torch.no_grad():
        new = half(source, F.pad(tokens[:, :-1], (1, 0), value=START), padding).log_softmax(-1)
    for row, text in enumerate(tokens.tolist()):
        length = (text.index(END) if END in text else 7) + 1
        total = sum(new[row, i, text[i]].item() for i in range(length))
        assert scores[row].item() == pytest.approx(total / ((5 + length) / 6) ** 0.6, rel=1e-5)
    assert decode.length_penalty(1, 0.6) == 1  # (5 + 1) / 6


def test_a_stronger_length_penalty_never_shortens_the_best_text(half):
    source, padding, _ = texts(6, seed=5)
    lengths = []
    for alpha in (0.0, 1.0, 5.0):
        tokens, _ = decode.beam_search(half, source, START, END, 4, 400, alpha, padding)
        lengths.append((tokens != END).sum(dim=1))
    assert (lengths[0] <= lengths[1]).all()
    assert (lengths[1] <= lengths[2]).all()
    assert not torch.equal(lengths[0], lengths[2])


def test_a_search_stops_when_nothing_that_goes_on_can_win(models):
    steps = []
    hook = models[1].decoder.norm.register_forward_hook(lambda *_: steps.append(1))
    tokens, _ = decode.beam_search(models[1], torch.tensor([[3, 2]]), START, END, 50, beams=400)
    hook.remove()
    assert tokens[0, :3].tolist() == [2, 3, END]
    assert len(steps) == 3


def test_unlikely_texts_that_end_early_do_not_end_the_search():
    search = decode.Search(torch.tensor([[5]]), start=0, end=1, max_length=8, beams=2, alpha=0.6)
    going_on, ending = torch.tensor([-20.0, -9.0, 0.0, -12.0]), torch.tensor([-20.0, 0.0, -9.0, -12.0])
    for logits in [going_on] * 4 + [ending]:
        assert not search.done.any()
        search.advance(logits.expand(2, -1))
    assert search.done.all()
    tokens, scores = search.result()
    assert tokens[0].tolist() == [2, 2, 2, 2, 1, 1, 1, 1]
    assert float(scores) > -0.01


def test_decoding_in_training_mode_is_refused():
    with pytest.raises(ZooError, match=r"call model\.eval\(\) before decoding"):
        decode.greedy(tiny(), torch.tensor([[2, 3]]), START, END, 3)


def test_decoding_of_nothing_is_refused():
    source, model = torch.tensor([[2, 3]]), tiny().eval()
    with pytest.raises(ZooError, match="max_length is 0"):
        decode.greedy(model, source, START, END, 0)
    with pytest.raises(ZooError, match="beams=0"):
        decode.beam_search(model, source, START, END, 3, beams=0)
    with pytest.raises(ZooError, match=r"alpha=-1\.0"):
        decode.beam_search(model, source, START, END, 3, alpha=-1.0)


# -- translation ---------------------------------------------------------------------------------------------

SENTENCES = [("ab", "xyz"), ("c", "z")]


def translation(vocabulary: int = BYTES, **recipe: float) -> adapter.Translation:
    """Return the adapter of a model."""
    return adapter.Translation(Recipe("short", **recipe), {"vocab_size": vocabulary})


def test_the_target_is_read_one_token_late_and_padding_comes_last():
    inputs, after = translation().collate(SENTENCES, Size((4, 4), "tok"), training=True)
    assert inputs["source"].tolist() == [[97, 98], [99, 0]]
    assert inputs["target"].tolist() == [[1, 120, 121, 122], [1, 122, 0, 0]]
    assert after.tolist() == [[120, 121, 122, 2], [122, 2, 0, 0]]


@pytest.mark.parametrize(
    ("size", "vocabulary", "said"),
    [
        ((1, 4), BYTES, "a source has 2 tokens, and the size allows 1; give a larger size"),
        ((4, 3), BYTES, "a target has 4 tokens, and the size allows 3; give a larger size"),
        ((4, 4), 122, "a target has the token 122, of a vocabulary of 122"),
    ],
)
def test_sentences_that_do_not_fit_are_refused(size, vocabulary, said):
    with pytest.raises(ZooError, match=said):
        translation(vocabulary).collate(SENTENCES, Size(size, "tok"), training=True)


def test_labels_are_smoothed_in_training_only_and_padding_counts_for_nothing():
    model, judge = tiny(), translation(label_smoothing=0.1)
    logits = torch.randn(2, 4, BYTES, generator=torch.Generator().manual_seed(0))
    model.forward = lambda *_: logits  # type: ignore[method-assign]
    inputs, after = judge.collate(SENTENCES, Size((4, 4), "tok"), training=True)
    surprise = -logits.log_softmax(-1)
    real = after != 0
    right = surprise.gather(-1, after[..., None])[..., 0][real].mean()
    plain = judge.loss(model.eval(), inputs, after)["cross_entropy"]
    smoothed = judge.loss(model.train(), inputs, after)["cross_entropy"]
    torch.testing.assert_close(plain, right)
    torch.testing.assert_close(smoothed, 0.9 * right + 0.1 * surprise[real].mean())


def test_an_id_that_is_no_byte_is_a_character_that_no_reference_has(monkeypatch):
    found = torch.tensor([[97, 3357, 98, 2], [99, 2, 0, 0]])
    monkeypatch.setattr(adapter, "beam_search", lambda *_, **__: (found, None))
    inputs, _ = translation(37_000).collate(SENTENCES, Size((4, 4), "tok"), training=False)
    assert translation(37_000).predict(tiny(), inputs) == ["a\ufffdb", "c"]
