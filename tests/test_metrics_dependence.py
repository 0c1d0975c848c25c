"""How information travels: chains of operators, and layers until every token has heard of every other."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from zoo import create_layer
from zoo.metrics.dependence import layers_to_reach, levels, reach, sequential_operations


class Lambda(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def written_in_parts(x: Tensor) -> Tensor:
    """Fill a tensor row by row, no row waiting for another."""
    out = torch.empty_like(x)
    for i in range(x.shape[1]):
        out[:, i] = x[:, i] * 2
    return out


def running_sum(x: Tensor) -> Tensor:
    """Add up row by row, each row after the one before."""
    total, rows = torch.zeros_like(x[:, 0]), []
    for i in range(x.shape[1]):
        total = total + x[:, i]
        rows.append(total)
    return torch.stack(rows, 1)


def added_in_place(x: Tensor) -> Tensor:
    """Add to one tensor again and again."""
    total = torch.zeros_like(x)
    for _ in range(5):
        total += x
    return total


@pytest.mark.parametrize(
    ("function", "steps"),
    [
        (lambda x: x.transpose(1, 2).reshape(1, -1)[:, 3:].view(-1), 1),  # the reshape copies, the others look
        (lambda x: (x + 1) * (x - 1), 2),  # sum and difference at once, then the product
        (lambda x: x.sin().cos().exp(), 3),
        (written_in_parts, 2),  # a product, and a copy into the whole
        (running_sum, 1 + 6 + 1),  # the zeros, six sums, the stack
        (added_in_place, 1 + 5),
        (torch.fft.fft, 1),
    ],
)
def test_the_longest_chain_of_operators(function: Callable[[Tensor], Tensor], steps: int) -> None:
    assert sequential_operations(Lambda(function), (torch.randn(1, 6, 4, device="meta"),), {}) == steps


@pytest.mark.parametrize("name", ["self_attention", "restricted_attention", "conv1d", "favor", "fourier", "token_mlp"])
def test_what_mixes_at_once_has_a_chain_that_does_not_grow(name: str) -> None:
    assert len({chain_of(name, n) for n in (32, 64, 128)}) == 1


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_a_recurrence_has_a_chain_that_grows_by_the_same_for_each_token(name: str) -> None:
    found = [chain_of(name, n) for n in (8, 16, 32)]
    assert (found[1] - found[0]) / 8 == (found[2] - found[1]) / 16 >= 2


def chain_of(name: str, n: int) -> int:
    """Return the chain of a layer of n tokens."""
    with torch.device("meta"):
        module = create_layer(name, n, 8).eval()
    return sequential_operations(module, (torch.randn(1, n, 8, device="meta"),), {})


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("self_attention", lambda n: 1),
        ("fourier", lambda n: 1),
        ("token_mlp", lambda n: 1),
        ("favor", lambda n: 1),
        ("lstm", lambda n: 1),
        ("conv1d", lambda n: n - 1),  # one to each side, a layer
        ("restricted_attention", lambda n: math.ceil((n - 1) / 3)),
        ("conv2d", lambda n: math.isqrt(n) - 1),
        ("sasa", lambda n: math.ceil((math.isqrt(n) - 1) / 3)),
    ],
)
def test_layers_until_every_token_has_heard_of_every_other(name: str, layers: Callable[[int], int]) -> None:
    torch.manual_seed(0)
    for n in (16, 36):
        module = create_layer(name, n, 16).eval().double()
        assert layers_to_reach(lambda _, module=module: module, torch.randn(1, n, 16).double()) == layers(n)


def test_the_jacobian_tells_who_depends_on_whom() -> None:
    found = reach(create_layer("conv1d", 6, 4).eval(), torch.randn(1, 6, 4))
    distance = (torch.arange(6)[:, None] - torch.arange(6)).abs()
    assert torch.equal(found, distance <= 1)
    assert torch.equal(reach(create_layer("rnn", 6, 4).eval(), torch.randn(1, 6, 4)), (distance >= 0).tril())


def test_news_that_never_arrives_is_no_number() -> None:
    windows = [create_layer("shifted_windows", (8, 8), 8, window=4, shift=shift).eval() for shift in (False, True)]
    x = torch.randn(1, 64, 8)
    assert layers_to_reach(lambda level: windows[0], x) is None
    assert layers_to_reach(lambda level: windows[level % 2], x) == 3


def test_a_stack_builds_each_of_its_layers_once() -> None:
    made = []

    def build(width: int) -> nn.Module:
        made.append(width)
        return nn.Linear(width, width)

    level = levels(build, lambda depth: {"width": 2 + depth % 2})
    assert level(0) is level(2)
    assert level(1) is level(3)
    assert made == [2, 3]


@pytest.mark.slow
def test_both_are_metrics_of_a_layer_and_one_of_a_model(tmp_path) -> None:
    from zoo import runner

    suite = tmp_path / "paths.yaml"
    suite.write_text(
        "schema: 1\ngroups:\n"
        "  - models: [dilated_conv]\n    axes: {size: [16, 81], width: [8]}\n"
        "    metrics: [sequential_operations, path_length]\n"
        "  - models: [shifted_windows]\n    axes: {size: [196], width: [8]}\n    metrics: [path_length]\n"
        "  - models: [vit_nano]\n    metrics: [sequential_operations, path_length]\n"
    )
    found = {(r.case.model, r.case.size): r.metrics for r in runner.run(str(suite), out=tmp_path).records}
    layers = [found["dilated_conv", size]["path_length"].detail["layers"] for size in ("16tok", "81tok")]
    assert layers[0] < layers[1] <= 3 * math.ceil(math.log(81, 3))
    assert found["dilated_conv", "16tok"]["path_length"].value == layers[0]  # a convolution is one operator
    assert found["shifted_windows", "196tok"]["path_length"].detail["layers"] == 2
    assert found["vit_nano", "32px"]["sequential_operations"].value > 20
    assert "path from token to token is that of a layer" in found["vit_nano", "32px"]["path_length"].reason
