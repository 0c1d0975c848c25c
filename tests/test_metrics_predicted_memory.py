"""Predicted peaks add up by hand, and agree with what torch's profiler sees of the real thing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from models import Lambda
from profiled import peak_of_allocations
from torch import Tensor, nn

from zoo.errors import ZooError
from zoo.metrics import memory
from zoo.metrics.predicted_memory import Prediction, predict_peak, predict_training_peak

F32 = 4
Make = Callable[[torch.device], tuple[tuple[Any, ...], dict[str, Any]]]


def images(*shape: int) -> Make:
    """Return what makes one float32 input."""
    return lambda device: ((torch.zeros(shape, device=device),), {})


# -- inference, by hand --------------------------------------------------------------------------------------


def test_a_chain_of_linear_layers_holds_two_neighbours() -> None:
    widths = [8, 64, 32, 128, 16]
    chain = lambda: nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths)))  # noqa: E731
    found = predict_peak(chain, images(10, 8))
    weights = F32 * sum(a * b + b for a, b in pairwise(widths))
    inputs = F32 * 10 * 8
    # Most is held while the third layer turns 32 columns into 128: nothing but weights and input beside these two.
    assert found == Prediction(weights + inputs + F32 * 10 * (32 + 128), weights, inputs)
    assert found.activations == F32 * 10 * (32 + 128)


def test_on_another_device_a_model_takes_that_ones_branch_and_the_cpus_scratch_is_left_out() -> None:
    cuda = torch.device("cuda")  # which is not there, and need not be
    # A CPU copies a transposed input for a softmax.
    softmax = lambda: Lambda(lambda x: x.t().softmax(-1))  # noqa: E731
    assert predict_peak(softmax, images(10, 8), device=cuda) == Prediction(F32 * (80 + 80), 0, F32 * 80)
    assert predict_peak(softmax, images(10, 8)) == Prediction(F32 * (80 + 160), 0, F32 * 80)
    branch = lambda: Lambda(lambda x: x + 1 if x.is_cuda else x.repeat(3, 1))  # noqa: E731
    assert [predict_peak(branch, images(10, 8), device=d).activations for d in (cuda, torch.device("cpu"))] == [
        F32 * 80,
        F32 * 240,
    ]


def test_an_input_that_stays_in_use_counts_once() -> None:
    found = predict_peak(lambda: Lambda(lambda x: x + x.view(-1).view(10, 8)), images(10, 8))
    assert found == Prediction(F32 * (80 + 80), 0, F32 * 80)


def test_an_operation_in_place_takes_nothing() -> None:
    found = predict_peak(lambda: Lambda(lambda x: x.relu_().t()[0]), images(10, 8))
    assert found.peak == found.inputs == F32 * 80


def test_scores_of_attention_as_two_products_are_held() -> None:
    found = predict_peak(lambda: Lambda(lambda x: (x @ x.mT).softmax(-1) @ x), images(1, 100, 8))
    # The scores and their softmax are alive at once, then the softmax and the mixture, which is smaller.
    assert found.peak == F32 * (100 * 8 + 2 * 100 * 100)


def test_tied_weights_and_tensors_that_are_not_registered_count_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
            self.b.weight = self.a.weight
            self.c = nn.Parameter(self.a.weight.detach().T)
            self.tables = [torch.zeros(8)]

        def forward(self, x: Tensor) -> Tensor:
            x = self.b(self.a(x))
            return (x @ self.c).add_(self.tables[0])

    found = predict_peak(Tied, images(10, 8))
    assert found.weights == F32 * 64
    assert found.peak == F32 * (64 + 8 + 80 + 2 * 80)


def test_a_module_that_is_converted_while_built() -> None:
    found = predict_peak(lambda: nn.Linear(8, 8).to(torch.float64).to(torch.float32), images(10, 8))
    assert found.peak == F32 * (72 + 80 + 80)


def test_a_large_prediction_takes_no_memory() -> None:
    build = lambda: nn.Linear(1 << 20, 1 << 20, bias=False)  # noqa: E731
    assert predict_peak(build, images(1, 1 << 20)).weights == F32 << 40  # four terabytes
    assert predict_training_peak(build, images(1, 1 << 20), "sgd").gradients == F32 << 40


def test_sizes_that_depend_on_values_are_refused() -> None:
    with pytest.raises(memory.Unmeasurable, match=r"values of the inputs.*nonzero"):
        predict_peak(lambda: Lambda(torch.nonzero), images(10, 8))


# -- training, by hand ---------------------------------------------------------------------------------------


def test_the_forward_pass_dominates_where_outputs_are_larger_than_weights() -> None:
    found = predict_training_peak(lambda: nn.Linear(8, 16, bias=False), images(100, 8), "none")
    # 100 samples of 16, the stand-in loss's copy of them, and their sum.
    assert found.peak == found.first_step == F32 * (8 * 16 + 100 * 8 + 2 * 100 * 16 + 1)
    assert (found.weights, found.inputs, found.gradients, found.optimizer) == (F32 * 128, F32 * 800, 0, 0)
    assert found.activations == F32 * (2 * 100 * 16 + 1)


@pytest.mark.parametrize(
    ("optimizer", "state", "temporary"),
    # Adam's denominator is made from the root of the second moment: both are alive at once, as large as the weight.
    [("sgd_momentum", 64 * 64, 0), ("adam", 2 * 64 * 64 + 1, 2 * 64 * 64), ("adamw", 2 * 64 * 64 + 1, 2 * 64 * 64)],
)
def test_the_optimiser_dominates_where_weights_are_larger(optimizer: str, state: int, temporary: int) -> None:
    found = predict_training_peak(lambda: nn.Linear(64, 64, bias=False), images(1, 64), optimizer)
    weight = 64 * 64
    assert found.optimizer == F32 * state
    assert found.gradients == F32 * weight
    assert found.activations == pytest.approx(F32 * temporary, abs=F32 * 200)
    assert found.peak == found.weights + found.inputs + found.gradients + found.optimizer + found.activations


def test_the_first_step_has_no_state_until_it_ends() -> None:
    found = predict_training_peak(lambda: nn.Linear(8, 16, bias=False), images(100, 8), "adam")
    assert found.optimizer == F32 * (2 * 128 + 1)
    assert found.first_step == found.peak - found.optimizer


def test_what_autograd_keeps_is_held_until_backward() -> None:
    layers = lambda n: nn.Sequential(*(nn.Sigmoid() for _ in range(n)))  # noqa: E731
    first = lambda n: predict_training_peak(  # noqa: E731
        lambda: nn.Sequential(nn.Linear(8, 8, bias=False), layers(n)), images(100, 8), "none"
    )
    # Each sigmoid keeps its result.
    assert first(5).peak - first(4).peak == F32 * 800


def test_a_loss_of_ones_own_takes_what_it_takes() -> None:
    build, inputs = lambda: nn.Linear(8, 16, bias=False), images(100, 8)
    plain = predict_training_peak(build, inputs, "none")
    wide = predict_training_peak(build, inputs, "none", loss=lambda out: (out[:, None] * out[:, :, None]).sum())
    assert wide.peak - plain.peak > F32 * 100 * 16 * 14


def test_a_module_without_gradients_has_no_step() -> None:
    with pytest.raises(ZooError, match="no output has a gradient"):
        predict_training_peak(nn.ReLU, images(10, 8))


# -- operators of plugins ------------------------------------------------------------------------------------


def _doubled(x: Tensor) -> Tensor:
    """Take the detour that the operator takes."""
    wide = torch.cat([x, x, x])
    return wide[: len(x)] + wide[len(x) : 2 * len(x)]


@torch.library.custom_op("zoo_test::doubled", mutates_args=())
def doubled(x: Tensor) -> Tensor:
    """Return 2 x, with three copies held meanwhile."""
    return _doubled(x)


@doubled.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_a_plugins_operator_holds_what_its_body_does() -> None:
    build = lambda: Lambda(lambda x: doubled(doubled(x)))  # noqa: E731
    seen = predict_peak(build, images(10, 8), bodies={"zoo_test::doubled": f"{__name__}:_doubled"})
    # The input, the result of the first call, and in the second the three copies and the result.
    assert seen == Prediction(F32 * 80 * (1 + 1 + 3 + 1), 0, F32 * 80)
    real = peak_of_allocations(lambda: doubled(doubled(torch.zeros(10, 8))))
    assert seen.peak == pytest.approx(real, abs=F32 * 80)


def test_a_plugins_operator_without_a_body_is_named() -> None:
    found = predict_peak(lambda: Lambda(lambda x: doubled(x) + 1), images(10, 8))
    assert found.unseen == ("zoo_test::doubled",)
    assert found.peak == F32 * (80 + 2 * 80)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")
def test_the_lstm_of_onednn_is_named() -> None:
    found = predict_peak(lambda: nn.LSTM(8, 8), images(4, 1, 8))
    assert found.unseen == ("aten::mkldnn_rnn_layer",)


# -- against the profiler ------------------------------------------------------------------------------------


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run on one thread, and put back how many there were."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def encoder(norm_first: bool) -> nn.Module:
    """Two of torch's encoder layers, which run fused in inference."""
    layers = (nn.TransformerEncoderLayer(64, 4, 256, batch_first=True, norm_first=norm_first) for _ in range(2))
    return nn.Sequential(*layers)


def conv_net(norm: Callable[[int], nn.Module] = nn.BatchNorm2d) -> nn.Module:
    """A convolutional net with a stem, strides, a depthwise and a pointwise layer."""
    layers = (
        nn.Conv2d(3, 16, 3),
        norm(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        norm(32),
        nn.Conv2d(32, 32, 3, groups=32),
        nn.Conv2d(32, 64, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    return nn.Sequential(*layers)


def trunk() -> nn.Module:
    """Convolutions of one pixel with large weights: nothing tells their layout, and it is not channels last."""
    return nn.Sequential(nn.Conv2d(128, 256, 3, padding=1), nn.BatchNorm2d(256), nn.Conv2d(256, 256, 3, padding=1))


class SelfAttention(nn.Module):
    """Torch's attention with its weights returned, or not."""

    def __init__(self, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x, need_weights=self.need_weights)


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "encoder": (partial(encoder, norm_first=False), (4, 128, 64)),
    "encoder, norm first": (partial(encoder, norm_first=True), (4, 128, 64)),
    "attention": (partial(SelfAttention, False), (4, 128, 64)),
    "attention with weights": (partial(SelfAttention, True), (4, 128, 64)),
    "convolutions": (conv_net, (4, 3, 64, 64)),
    "convolutions, group norm": (partial(conv_net, partial(nn.GroupNorm, 4)), (4, 3, 64, 64)),
    "one pixel": (trunk, (16, 128, 1, 1)),
    "unfolded columns": (lambda: nn.Conv2d(16, 16, 3, padding=1), (1, 16, 16, 16)),  # small enough for them
    "linear": (lambda: nn.Linear(64, 64), (128, 64)),
}


EVERY_OPTIMIZER = [("encoder", "sgd"), ("encoder", "adamw"), ("one pixel", "sgd_momentum"), ("one pixel", "adam")]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", CASES)
def test_inference_agrees_with_the_profiler(name: str) -> None:
    build, shape = CASES[name]
    fused = "aten::_transformer_encoder_layer_fwd"
    if name.startswith("encoder") and not torch._C._dispatch_has_kernel_for_dispatch_key(fused, "Meta"):
        pytest.skip("this torch cannot run its fused encoder layer on fake tensors, and the prediction says so")
    module, x = build().eval(), torch.randn(shape)
    with torch.no_grad():
        real = memory.storage_bytes(module, (x,)) + peak_of_allocations(lambda: module(x))
    assert predict_peak(lambda: build().eval(), images(*shape)).peak == pytest.approx(real, rel=0.01)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "optimizer"), [*((name, "none") for name in CASES), *EVERY_OPTIMIZER])
def test_training_agrees_with_the_profiler(name: str, optimizer: str) -> None:
    build, shape = CASES[name]
    module, x = build(), torch.randn(shape)
    made = memory.make_optimizer(module, optimizer)
    transient = peak_of_allocations(lambda: memory.train_step(module, ((x,), {}), made))
    real = memory.storage_bytes(module, (x,)) + memory.state_bytes(made) + transient
    assert predict_training_peak(build, images(*shape), optimizer).peak == pytest.approx(real, rel=0.01)


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return nn.functional.linear(x.transpose(0, 1), weight, bias)


def _product_and_sum(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.transpose(0, 1) @ weight.mT + bias


@pytest.mark.parametrize("function", [_linear, _product_and_sum])
def test_a_bias_is_added_in_place_by_linear_and_not_by_a_sum(function: Callable[..., Tensor]) -> None:
    shapes = (4, 64, 16), (48, 16), (48,)
    tensors = [torch.randn(shape) for shape in shapes]
    real = sum(t.nbytes for t in tensors) + peak_of_allocations(lambda: function(*tensors))
    assert predict_peak(lambda: Lambda(function), lambda _: (tuple(map(torch.zeros, shapes)), {})).peak == real
