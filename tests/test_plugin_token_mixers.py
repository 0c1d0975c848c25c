"""The token mixers: each against a loop over its formula, exact MACs, and which token sees which."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import pytest
import torch
import torch.nn.functional as F
import zoo_token_mixers
from models import params
from torch import Tensor, nn
from zoo_token_mixers.attention import RestrictedAttention, inside

from zoo import LayerSpec, ZooError
from zoo.metrics.counts import Count
from zoo.metrics.macs import count
from zoo.spec import resolve

SPECS: dict[str, LayerSpec] = {spec.name: spec for spec in zoo_token_mixers.zoo_layers()}
GRID = [name for name, spec in SPECS.items() if spec.grid]
WINDOWED = {
    name: option for name, spec in SPECS.items() for option in ("window", "kernel_size") if option in spec.knobs
}
H, W, C = 4, 5, 8  # a small grid, or a sequence of its 20 tokens

Size = int | tuple[int, int]


def make(name: str, size: Size | None = None, width: int = C, **options: object) -> nn.Module:
    """Build a layer for inference, as the host does."""
    spec = SPECS[name]
    size = size or ((H, W) if spec.grid else H * W)
    return resolve(str(spec.build))(size, width, **spec.with_options(options)).eval()


def on_meta(name: str, size: Size, width: int, batch_size: int = 1, **options: object) -> Count:
    """Count a layer on the meta device."""
    n = size if isinstance(size, int) else math.prod(size)
    with torch.device("meta"):
        return count(make(name, size, width, **options), (torch.empty(batch_size, n, width),))


def tokens(batch_size: int = 2, n: int = H * W, width: int = C) -> Tensor:
    """Return random tokens (B, N, C) in double precision."""
    return torch.randn(batch_size, n, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


# -- formulas, token by token --------------------------------------------------------------------------------


def seen_by(i: int, name: str, window: int) -> list[tuple[int, tuple[int, ...]]]:
    """Return the tokens that token i sees, each with its offset from i: along the sequence, or (rows, columns)."""
    half, found = window // 2, []
    for j in range(H * W):
        if name in GRID:
            offset: tuple[int, ...] = (j // W - i // W, j % W - i % W)
        else:
            offset = (j - i,)
        if all(abs(o) <= half for o in offset):
            found.append((j, offset))
    return found


def attention_by_hand(layer: nn.Module, x: Tensor, seen: Callable[[int], Iterable[int]]) -> Tensor:
    """Attend one query and one head at a time: softmax(q k^T / sqrt(d_h)) v over the tokens that i sees."""
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    mixed, depth = torch.zeros_like(x), C // layer.heads
    for b in range(len(x)):
        for i in range(x.shape[1]):
            js = list(seen(i))
            for head in (slice(h * depth, (h + 1) * depth) for h in range(layer.heads)):
                scores = torch.stack([q[b, i, head] @ k[b, j, head] for j in js]) / math.sqrt(depth)
                mixed[b, i, head] = sum(a * v[b, j, head] for a, j in zip(scores.softmax(0), js, strict=True))
    return layer.out(mixed)


def convolution_by_hand(conv: nn.Module, x: Tensor, name: str, k: int, dilation: int = 1) -> Tensor:
    """Sum W_j x_(i + j) over the taps that lie inside, one output token at a time."""
    weight = conv.weight  # (C, C / groups, k) or (C, C / groups, k, k)
    out = torch.zeros_like(x)
    for i in range(x.shape[1]):
        for j, offset in seen_by(i, name, 2 * dilation * (k // 2) + 1):
            if any(o % dilation for o in offset):
                continue
            tap = weight[(..., *(o // dilation + k // 2 for o in offset))]  # (C, C / groups)
            out[:, i] += x[:, j] * tap[:, 0] if conv.groups > 1 else x[:, j] @ tap.T
    return out + conv.bias


def recurrence_by_hand(name: str, layer: nn.RNNBase, x: Tensor) -> Tensor:
    """Read one token after the other."""
    h = c = torch.zeros_like(x[:, 0])
    hidden = []
    for token in x.unbind(dim=1):
        from_input = token @ layer.weight_ih_l0.T + layer.bias_ih_l0
        from_hidden = h @ layer.weight_hh_l0.T + layer.bias_hh_l0
        if name == "rnn":
            h = torch.tanh(from_input + from_hidden)
        elif name == "lstm":
            i, f, g, o = (from_input + from_hidden).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            (r, z, new), (r_h, z_h, new_h) = from_input.chunk(3, dim=-1), from_hidden.chunk(3, dim=-1)
            z = (z + z_h).sigmoid()
            h = z * h + (1 - z) * torch.tanh(new + (r + r_h).sigmoid() * new_h)
        hidden.append(h)
    return torch.stack(hidden, dim=1)


def close(found: Tensor, expected: Tensor) -> None:
    """Hold two results to the rounding of double precision."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("heads", [1, 2, 8])
def test_self_attention_is_its_formula(heads):
    layer, x = make("self_attention", heads=heads).double(), tokens()
    close(layer(x), attention_by_hand(layer, x, lambda i: range(H * W)))


@pytest.mark.parametrize("name", ["restricted_attention", "restricted_attention_2d"])
@pytest.mark.parametrize(("heads", "window"), [(2, 1), (2, 3), (4, 5), (1, 7), (2, 41)])
def test_restricted_attention_is_its_formula_on_a_clipped_window(name, heads, window):
    layer, x = make(name, heads=heads, window=window).double(), tokens(batch_size=1)
    close(layer(x), attention_by_hand(layer, x, lambda i: [j for j, _ in seen_by(i, name, window)]))


@pytest.mark.parametrize("name", ["restricted_attention", "restricted_attention_2d"])
def test_a_window_over_everything_is_self_attention_with_the_same_weights(name):
    everything, x = make("self_attention").double(), tokens()
    layer = make(name, window=2 * H * W - 1).double()
    layer.load_state_dict(everything.state_dict())
    close(layer(x), everything(x))


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_recurrence_is_its_formula(name):
    layer, x = make(name).double(), tokens()
    close(layer(x), recurrence_by_hand(name, layer.layer, x))


@pytest.mark.parametrize("name", ["conv1d", "depthwise_conv", "conv2d", "depthwise_conv2d"])
@pytest.mark.parametrize("k", [1, 3, 5])
def test_convolution_is_its_formula(name, k):
    layer, x = make(name, kernel_size=k).double(), tokens()
    conv = layer.layer if name in GRID else layer.layers[0]
    close(layer(x), convolution_by_hand(conv, x, name, k))


@pytest.mark.parametrize(("k", "dilation"), [(3, 1), (3, 2), (3, 4), (5, 3)])
def test_dilated_convolution_is_its_formula(k, dilation):
    layer, x = make("dilated_conv", kernel_size=k, dilation=dilation).double(), tokens()
    close(layer(x), convolution_by_hand(layer.layers[0], x, "dilated_conv", k, dilation))


def test_separable_convolution_is_a_depthwise_one_and_a_linear_layer():
    layer, x = make("separable_conv", kernel_size=5).double(), tokens()
    depthwise, pointwise = layer.layers
    middle = convolution_by_hand(depthwise, x, "separable_conv", 5)
    close(layer(x), middle @ pointwise.weight[:, :, 0].T + pointwise.bias)


# -- counts --------------------------------------------------------------------------------------------------

OPTIONS = [
    *((name, {}) for name in SPECS),
    ("self_attention", {"heads": 1}),
    ("restricted_attention", {"window": 1}),
    ("restricted_attention", {"window": 11, "heads": 2}),
    ("restricted_attention_2d", {"window": 5, "heads": 2}),
    *((name, {"kernel_size": 5}) for name, option in WINDOWED.items() if option == "kernel_size"),
    ("dilated_conv", {"kernel_size": 7, "dilation": 3}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_macs_counted_are_those_declared(name, options):
    spec = SPECS[name]
    sizes: tuple[Size, ...] = ((3, 3), (4, 6), (1, 5)) if spec.grid else (1, 9, 24)
    for size in sizes:
        for width in (8, 24):
            found = on_meta(name, size, width, **options)
            assert found.macs == spec.cost.macs(spec.values(size, width, spec.with_options(options)))
            assert found.flops_fft == 0
            assert [op for op in found.uncounted if op.material] == []


@pytest.mark.parametrize("name", SPECS)
def test_macs_counted_on_a_cpu_are_those_counted_on_meta(name):
    x = tokens(batch_size=1).float()
    assert count(make(name), (x,)).macs == on_meta(name, (H, W) if name in GRID else H * W, C).macs


@pytest.mark.parametrize("name", SPECS)
def test_macs_of_a_batch_are_those_of_its_samples(name):
    size = (H, W) if name in GRID else H * W
    assert on_meta(name, size, C, batch_size=3).macs == 3 * on_meta(name, size, C).macs


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        # n = 196 tokens of d = 64, the patches of a 224px image
        ("self_attention", {}, 4 * 196 * 64**2 + 2 * 196**2 * 64),
        ("restricted_attention", {"window": 7}, 4 * 196 * 64**2 + 2 * 196 * 7 * 64),
        ("restricted_attention_2d", {"window": 7}, 4 * 196 * 64**2 + 2 * 196 * 49 * 64),
        ("rnn", {}, 2 * 196 * 64**2),
        ("lstm", {}, 8 * 196 * 64**2),
        ("gru", {}, 6 * 196 * 64**2),
        ("conv1d", {"kernel_size": 3}, 3 * 196 * 64**2),
        ("dilated_conv", {"kernel_size": 3, "dilation": 9}, 3 * 196 * 64**2),
        ("depthwise_conv", {"kernel_size": 3}, 3 * 196 * 64),
        ("separable_conv", {"kernel_size": 3}, 3 * 196 * 64 + 196 * 64**2),
        ("conv2d", {"kernel_size": 3}, 9 * 196 * 64**2),
        ("depthwise_conv2d", {"kernel_size": 3}, 9 * 196 * 64),
    ],
)
def test_golden_macs(name, options, expected):
    assert on_meta(name, (14, 14) if name in GRID else 196, 64, **options).macs == expected


def test_restricted_attention_is_cheaper_than_attention_from_n_over_r():
    for n in (8, 64, 4096):
        assert on_meta("restricted_attention", n, C, window=7).macs < on_meta("self_attention", n, C).macs
    # as many products where the window is as long as the sequence
    assert on_meta("restricted_attention", 7, C, window=7).macs == on_meta("self_attention", 7, C).macs


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("self_attention", 4 * C**2 + 4 * C),
        ("restricted_attention", 4 * C**2 + 4 * C),
        ("restricted_attention_2d", 4 * C**2 + 4 * C),
        ("rnn", 2 * C**2 + 2 * C),
        ("lstm", 8 * C**2 + 8 * C),
        ("gru", 6 * C**2 + 6 * C),
        ("conv1d", 3 * C**2 + C),
        ("dilated_conv", 3 * C**2 + C),
        ("depthwise_conv", 3 * C + C),
        ("separable_conv", 3 * C + C + C**2 + C),
        ("conv2d", 9 * C**2 + C),
        ("depthwise_conv2d", 9 * C + C),
    ],
)
def test_parameters_do_not_depend_on_the_number_of_tokens(name, expected):
    assert params(make(name)) == expected
    assert params(make(name, (7, 9) if name in GRID else 63)) == expected


# -- who sees whom -------------------------------------------------------------------------------------------


def influence(layer: nn.Module, n: int = H * W, width: int = C) -> Tensor:
    """Return which output token depends on which input token (out, in), by gradients of random sums."""
    x = tokens(batch_size=1, n=n, width=width).requires_grad_()
    out = layer.double()(x)
    weights = torch.randn(out.shape[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rows = [torch.autograd.grad((out[0, i] * weights).sum(), x, retain_graph=True)[0] for i in range(n)]
    return torch.stack([row[0].abs().amax(dim=-1) > 0 for row in rows])


def test_in_self_attention_every_token_sees_every_token():
    assert influence(make("self_attention")).all()


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_in_a_recurrence_every_token_sees_those_up_to_itself_and_none_after(name):
    assert SPECS[name].causal
    assert torch.equal(influence(make(name)), torch.ones(H * W, H * W).tril().bool())


@pytest.mark.parametrize("name", [name for name in WINDOWED if name != "dilated_conv"])
@pytest.mark.parametrize("window", [1, 3, 5])
def test_in_a_window_every_token_sees_its_neighbours_and_no_others(name, window):
    expected = torch.zeros(H * W, H * W, dtype=torch.bool)
    for i in range(H * W):
        expected[i, [j for j, _ in seen_by(i, name, window)]] = True
    assert torch.equal(influence(make(name, **{WINDOWED[name]: window})), expected)


def test_taps_of_a_dilated_convolution_lie_apart():
    apart = torch.arange(H * W)[:, None] - torch.arange(H * W)
    seen = influence(make("dilated_conv", kernel_size=5, dilation=3))
    assert torch.equal(seen, (apart.abs() <= 6) & (apart % 3 == 0))


def test_dilated_convolutions_reach_27_tokens_in_three_layers():
    n = 27  # k^3 tokens: the path is log_k n
    stack = nn.Sequential(*(make("dilated_conv", n, kernel_size=3, dilation=3**layer) for layer in range(3)))
    assert influence(stack, n)[n // 2].all()


@pytest.mark.parametrize("name", ["depthwise_conv", "depthwise_conv2d"])
def test_depthwise_convolutions_mix_no_channels(name):
    x = tokens(batch_size=1).requires_grad_()
    (gradient,) = torch.autograd.grad(make(name).double()(x)[..., 3].sum(), x)
    assert gradient[..., 3].abs().min() > 0
    assert gradient[..., torch.arange(C) != 3].abs().max() == 0


def test_only_recurrences_are_causal():
    assert {name for name, spec in SPECS.items() if spec.causal} == {"rnn", "lstm", "gru"}


# -- behaviour -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPECS)
def test_a_batch_is_its_samples(name):
    layer, x = make(name).double(), tokens(batch_size=3)
    with torch.no_grad():
        close(layer(x), torch.cat([layer(sample) for sample in x.split(1)]))


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_dtype_and_shape_are_kept(name, dtype):
    with torch.no_grad():
        out = make(name).to(dtype)(tokens().to(dtype))
    assert out.dtype == dtype
    assert out.shape == (2, H * W, C)
    assert out.isfinite().all()


@pytest.mark.parametrize("name", SPECS)
def test_autocast_is_near_full_precision(name):
    layer, x = make(name), tokens().float()
    with torch.no_grad():
        expected = layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = layer(x)
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_gradients_reach_every_parameter(name, device):
    with torch.device(device):
        layer = make(name).train()
    layer(tokens().float().to(device)).square().sum().backward()
    assert [n for n, p in layer.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["restricted_attention", "restricted_attention_2d"])
def test_gradients_of_restricted_attention_are_right(name):
    size = (2, 3) if name in GRID else 6
    layer = make(name, size, 4, heads=2, window=3).double()
    assert torch.autograd.gradcheck(layer, tokens(1, 6, 4).requires_grad_())


@pytest.mark.parametrize("name", SPECS)
def test_a_call_leaves_no_state(name):
    layer, x = make(name), tokens().float()
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(layer(x), layer(x))
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


@pytest.mark.parametrize("name", SPECS)
def test_weights_go_out_and_in(name):
    one, other, x = make(name), make(name), tokens().float()
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        assert torch.equal(one(x), other(x))


def test_windows_of_a_sequence_are_views():
    layer, x = RestrictedAttention(C, 2, (1, 20), (1, 7)), torch.randn(20, 3, C)
    (window,) = layer.windows(x)
    assert window.shape == (20 * 3 * 2, C // 2, 7)
    assert window.untyped_storage().nbytes() == (20 + 6) * 3 * C * 4  # the padded sequence, once


def test_the_places_of_a_window_that_lie_inside():
    assert inside((1, 4), (1, 3)).int().tolist() == [[0, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0]]
    corner = F.pad(torch.ones(2, 2), (1, 0, 1, 0)).bool()  # of the top left token: nothing above, nothing to its left
    assert torch.equal(inside((3, 3), (3, 3))[0], corner.flatten())


# -- what is refused, and what is said -----------------------------------------------------------------------


@pytest.mark.parametrize("name", WINDOWED)
@pytest.mark.parametrize("value", [0, 2, -3])
def test_a_window_without_a_middle_is_refused(name, value):
    with pytest.raises(ZooError, match=rf"the {WINDOWED[name]} of {name} is {value!r}; expected an odd whole number"):
        make(name, **{WINDOWED[name]: value})


@pytest.mark.parametrize("name", WINDOWED)
@pytest.mark.parametrize("value", [3.0, True, "3"])
def test_a_window_of_another_type_is_refused(name, value):
    with pytest.raises(ZooError, match=f"does not fit the option {WINDOWED[name]} of layer {name}"):
        make(name, **{WINDOWED[name]: value})


@pytest.mark.parametrize("value", [0, -1])
def test_a_dilation_that_is_no_distance_is_refused(value):
    with pytest.raises(ZooError, match=r"the dilation of dilated_conv is .*; expected a whole number >= 1"):
        make("dilated_conv", dilation=value)


@pytest.mark.parametrize("name", SPECS)
def test_every_layer_says_where_it_is_from(name):
    spec = SPECS[name]
    assert spec.paper.startswith("https://")
    assert spec.licence == "Apache-2.0"
    assert spec.notes
    assert spec.sequential == ("O(n)" if spec.causal else "O(1)")
    assert spec.path_length.startswith("O(")
