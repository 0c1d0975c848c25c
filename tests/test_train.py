"""Training and its data: deterministic by seed, divergence is told with its step, images come at the size asked for."""

import math

import pytest
import torch
from torch import nn

from zoo import data, train
from zoo.spec import Recipe, Size

RECIPE = Recipe("short", steps=30, batch_size=16, learning_rate=1e-2, warmup_steps=5)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 2))


def bright_or_dark(n: int = 64):
    """Images whose class is whether they are bright."""
    generator = torch.Generator().manual_seed(1)
    targets = [i % 2 for i in range(n)]
    images = torch.randn(n, 3, 8, 8, generator=generator) + torch.tensor(targets).view(-1, 1, 1, 1) * 2.0
    return images, targets


def test_training_learns_and_the_same_seed_gives_the_same_weights():
    images, targets = bright_or_dark()
    weights, curves = [], []
    for _ in range(2):
        net = model()
        trained = train.train(net, train.Classifier(), images, targets, RECIPE, seed=3)
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
        curves.append(trained.curve)
    assert torch.equal(weights[0], weights[1])
    assert curves[0] == curves[1]
    assert curves[0][-1][0] == RECIPE.steps
    predictions = train.predict(net, train.Classifier(), images)
    assert data.top1(predictions, targets)["top1"][0] > 0.95


def test_divergence_names_the_step():
    images, targets = bright_or_dark()
    images[0] = float("nan")
    with pytest.raises(train.Diverged, match=r"the loss was nan at step \d+ of 30"):
        train.train(model(), train.Classifier(), images, targets, RECIPE, seed=0)


def test_rate_warms_up_linearly_and_falls_to_zero_as_half_a_cosine():
    recipe = Recipe("r", steps=110, batch_size=1, learning_rate=1.0, warmup_steps=10)
    assert [train.rate_at(step, recipe) for step in (0, 4, 9)] == [0.1, 0.5, 1.0]
    assert train.rate_at(60, recipe) == pytest.approx(0.5)
    assert train.rate_at(110, recipe) == pytest.approx(0.0)
    assert math.isclose(train.rate_at(10, recipe), 1.0)


def test_weight_decay_spares_vectors():
    groups = train.Classifier().param_groups(model(), RECIPE)
    assert {tuple(p.shape) for p in groups[1]["params"]} == {(16,), (2,)}
    assert (groups[0]["weight_decay"], groups[1]["weight_decay"]) == (RECIPE.weight_decay, 0.0)


def test_every_epoch_sees_every_sample_once():
    batches = list(data.batches(10, 5, 4, torch.Generator().manual_seed(0)))
    for epoch in (batches[:2], batches[2:]):
        assert sorted(torch.cat(epoch).tolist()) == list(range(10))
    assert [len(b) for b in data.batches(3, 8, 2, torch.Generator())] == [3, 3]


def test_images_are_resized_to_the_size_asked_for():
    images = torch.rand(2, 3, 8, 8)
    assert data.resize(images, Size.parse("16px")).shape == (2, 3, 16, 16)
    assert data.resize(images, Size.parse("4x6px")).shape == (2, 3, 4, 6)
    assert data.resize(images, Size.parse("8px")) is images


def test_inputs_are_random_and_repeatable():
    size, cpu = Size.parse("4x6px"), torch.device("cpu")
    made = [data.make_images(size, 2, torch.float32, cpu, torch.Generator().manual_seed(5))[0][0] for _ in range(2)]
    assert made[0].shape == (2, 3, 4, 6)
    assert torch.equal(*made)
    assert made[0].std() > 0.5
    (ids,), _ = data.make_tokens(Size.parse("7tok"), 2, torch.float32, cpu, None, vocab_size=11)
    assert (ids.shape, ids.dtype) == ((2, 7), torch.int64)
    assert 0 <= int(ids.min()) <= int(ids.max()) < 11


def test_top1_has_its_wilson_interval():
    value, low, high, n = data.top1([1] * 9 + [0], [1] * 10)["top1"]
    assert (value, n) == (0.9, 10)
    # Wilson for 9 of 10: centre (0.9 + 1.92/10) / 1.384 = 0.789, half-width 1.96/1.384 sqrt(0.009 + 0.0096) = 0.193.
    assert low == pytest.approx(0.596, abs=1e-3)
    assert high == pytest.approx(0.982, abs=1e-3)
