"""Loops that are cut short to predict memory: the same peak as at their full length, and as what really runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from profiled import peak_of_allocations
from torch import Tensor, nn

import zoo
from zoo.metrics import folding, memory
from zoo.metrics.folding import LONG
from zoo.metrics.predicted_memory import predict_peak, predict_training_peak


class Recurrent(nn.Module):
    """Torch's recurrent layers, in two layers of both directions or what is asked for."""

    def __init__(self, kind: str, batch_first: bool = True, **options: Any) -> None:
        super().__init__()
        self.layers = getattr(nn, kind)(16, 16, batch_first=batch_first, **options)

    def forward(self, x: Tensor) -> Tensor:
        """Return the hidden states."""
        return self.layers(x)[0]


CASES: dict[str, dict[str, Any]] = {
    "rnn": {"kind": "RNN"},
    "rnn, tokens first": {"kind": "RNN", "batch_first": False},
    "gru": {"kind": "GRU"},
    "gru, two layers": {"kind": "GRU", "num_layers": 2},
    "gru, both ways": {"kind": "GRU", "bidirectional": True},
    "lstm": {"kind": "LSTM", "dtype": torch.float64},  # oneDNN's is for float32
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_a_recurrent_layer_holds_what_it_does_step_by_step(
    name: str, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    shape = (batch, LONG, 16) if case.get("batch_first", True) else (LONG, batch, 16)
    build, inputs = lambda: Recurrent(**case), lambda device: ((torch.zeros(shape, dtype=case.get("dtype")),), {})
    found = predict_peak(build, inputs).peak, predict_training_peak(build, inputs).peak
    monkeypatch.setattr(folding, "LONG", 1000)
    whole = predict_peak(build, inputs).peak, predict_training_peak(build, inputs).peak
    assert found == pytest.approx(whole, rel=0.01)


@pytest.mark.parametrize(
    ("tokens", "runs"), [(1024, [16, 8]), (1000, [20, 8]), (1009, [1009]), (LONG, [16, 8]), (LONG - 2, [LONG - 2])]
)
def test_a_loop_is_cut_where_it_is_long_and_can_be_divided(tokens: int, runs: list[int]) -> None:
    seen = []

    def double(x: Tensor) -> Tensor:
        seen.append(x.shape[2])
        return 2 * x

    def run() -> tuple[folding.Levels, None]:
        assert folding.over_tokens(double, 1, torch.empty(1, 2, tokens, 4, device="meta")).shape == (1, 2, tokens, 4)
        return {("held", None): 1}, None

    folding.unfolded(run)
    assert seen == runs


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_a_gru_agrees_with_the_profiler(batch: int, training: bool) -> None:
    build = lambda: Recurrent("GRU").train(training)  # noqa: E731
    module, x = build(), torch.randn(batch, 2 * LONG, 16)
    inputs = lambda device: ((torch.zeros(batch, 2 * LONG, 16, device=device),), {})  # noqa: E731
    if training:
        transient = peak_of_allocations(lambda: memory.train_step(module, ((x,), {}), None))
        found = predict_training_peak(build, inputs, "none").peak
    else:
        transient = peak_of_allocations(torch.no_grad()(lambda: module(x)))
        found = predict_peak(build, inputs).peak
    assert found == pytest.approx(memory.storage_bytes(module, (x,)) + transient, rel=0.01)


@pytest.mark.parametrize(("name", "tokens"), [("favor", 64 * 1024), ("favor_causal", 64 * 128)])
def test_a_loop_over_parts_of_the_tokens_holds_what_it_does_part_by_part(
    name: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = zoo.profile(name, tokens, width=64)
    found = short.memory.peak, short.training_memory().peak
    monkeypatch.setattr(folding, "LONG", 1000)
    whole = zoo.profile(name, tokens, width=64)
    assert found == pytest.approx((whole.memory.peak, whole.training_memory().peak), rel=0.001)


def test_nothing_is_cut_where_no_memory_is_predicted() -> None:
    seen = []

    def double(x: Tensor) -> Tensor:
        seen.append(x.shape)
        return 2 * x

    out = folding.over_tokens(double, 1, torch.ones(2, 3, 128, 4))
    assert seen == [(2, 3, 128, 4)]
    assert torch.equal(out, torch.full((2, 3, 128, 4), 2.0))
