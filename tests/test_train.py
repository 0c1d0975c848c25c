"""Training: by seed, by budget, by checkpoint; divergence is told with its step."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from zoo import data, train
from zoo.adapters import Classifier, SequenceClassifier
from zoo.errors import BadSpec, ZooError
from zoo.recipe import Recipe
from zoo.scores.classification import any_of, top1, top1_top5
from zoo.spec import Size

RECIPE = Recipe("short", steps=30, batch_size=16, learning_rate=1e-2, warmup_steps=5)
SIZE = Size.parse("8px")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))


def bright_or_dark(n: int = 64):
    """Images whose class is whether they are bright."""
    generator = torch.Generator().manual_seed(1)
    targets = [i % 2 for i in range(n)]
    images = torch.randn(n, 3, 8, 8, generator=generator) + torch.tensor(targets).view(-1, 1, 1, 1) * 2.0
    return list(zip(images, targets, strict=True))


def adapter(recipe: Recipe = RECIPE) -> Classifier:
    return Classifier(recipe, {"num_classes": 2})


def weights_of(net: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def learned(recipe: Recipe = RECIPE, **more):
    net = model()
    return net, train.Training(net, adapter(recipe), bright_or_dark(), SIZE, recipe, **more).run()


def test_training_learns_and_the_same_seed_gives_the_same_weights():
    (net, first), (other, second) = (learned(seed=3) for _ in range(2))
    assert torch.equal(weights_of(net), weights_of(other))
    assert first.curve == second.curve
    assert first.curve[-1][0] == first.steps == RECIPE.steps
    pairs = list(train.predict(net, adapter(), bright_or_dark(), SIZE))
    assert top1(*zip(*pairs, strict=True))["top1"][0] > 0.95
    assert not torch.equal(weights_of(net), weights_of(learned(seed=4)[0]))


def test_divergence_names_the_step():
    samples = bright_or_dark()
    samples[0][0][:] = float("nan")
    with pytest.raises(train.Diverged, match=r"the loss was nan at step \d+ of 30"):
        train.Training(model(), adapter(), samples, SIZE, RECIPE).run()


class Cut(Exception):
    """A training ends in the middle, as if it were killed."""


@pytest.mark.parametrize("average", [0, 5])
def test_a_training_that_is_cut_short_five_times_ends_as_one_that_is_not(tmp_path, monkeypatch, average):
    recipe = Recipe("r", steps=60, batch_size=16, learning_rate=1e-2, warmup_steps=5, average=average, clip=1.0)
    whole, told = learned(recipe)
    monkeypatch.setattr(train, "CHECKPOINT_SHARE", 1e9)  # after every step
    cuts, take_step = [7, 20, 21, 44, 58], train.Training.take_step

    def cut(self, run):
        if cuts and self.step == cuts[0]:
            del cuts[0]
            raise Cut
        take_step(self, run)

    monkeypatch.setattr(train.Training, "take_step", cut)
    while cuts:
        with pytest.raises(Cut):
            learned(recipe, checkpoint=tmp_path / "here.training")
    resumed, again = learned(recipe, checkpoint=tmp_path / "here.training")
    assert torch.equal(weights_of(whole), weights_of(resumed))
    assert (again.curve, again.steps) == (told.curve, told.steps)


def test_what_was_trained_is_not_trained_again(tmp_path):
    place = tmp_path / "here.training"
    first, told = learned(checkpoint=place)
    torch.manual_seed(9)
    fresh = model()
    again = train.Training(fresh, adapter(), bright_or_dark(), SIZE, RECIPE, checkpoint=place).run()
    assert torch.equal(weights_of(first), weights_of(fresh))
    assert again == told


def test_a_damaged_checkpoint_is_as_none(tmp_path):
    place = tmp_path / "here.training"
    place.write_bytes(b"PK\x03\x04 and nothing more")
    said = []
    net, _ = learned(checkpoint=place, progress=said.append)
    assert torch.equal(weights_of(net), weights_of(learned()[0]))
    assert said[0].startswith("a checkpoint cannot be read, the training begins anew")


# -- budget and schedule -------------------------------------------------------------------------------------


def test_a_budget_is_steps_epochs_or_macs():
    assert train.Budget.of(Recipe("r", steps=7), 100).steps == 7
    assert train.Budget.of(Recipe("r", epochs=2.5, batch_size=32), 64).steps == 5
    # 6e9 MACs / (3 passes of 1e6 MACs x 20 samples) = 100 steps.
    assert train.Budget.of(Recipe("r", macs=6e9, batch_size=20), 64, macs=1e6).steps == 100
    with pytest.raises(ZooError, match="a budget of MACs, and this model's are not known"):
        train.Budget.of(Recipe("r", macs=6e9), 64)
    with pytest.raises(BadSpec, match="the budgets steps and seconds; expected one"):
        Recipe("r", steps=1, seconds=1.0)


def test_a_budget_of_seconds_ends_when_they_have_passed():
    _, trained = learned(Recipe("r", seconds=0.3, batch_size=16, learning_rate=1e-3))
    assert 0.3 <= trained.seconds < 1.0
    assert trained.steps > 5


def rates(recipe: Recipe, ticks: int = 110) -> list[float]:
    """Return the rate of every step."""
    optimizer = train.make_optimizer([{"params": [nn.Parameter(torch.zeros(1))]}], recipe)
    schedule = train.make_schedule(optimizer, recipe, ticks)
    found = []
    for tick in range(ticks):
        schedule.step_update(tick)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_rate_warms_up_linearly_and_falls_to_zero_as_half_a_cosine():
    found = rates(Recipe("r", steps=110, learning_rate=1.0, warmup_steps=10))
    assert found[:10] == pytest.approx([0.1 + 0.09 * t for t in range(10)])
    assert max(found) == pytest.approx(1.0, abs=0.03)
    assert found[55] == pytest.approx(0.5, abs=0.02)
    assert found[109] < 1e-3


def test_rate_falls_with_the_square_root_of_the_steps():
    found = rates(Recipe("r", steps=110, learning_rate=2.0, warmup_steps=10, schedule="inverse_sqrt"))
    assert found[9] == max(found) == pytest.approx(2.0)
    assert found[0] == pytest.approx(0.2)
    assert found[39] == pytest.approx(1.0)  # sqrt(10 / 40)


def test_rate_falls_tenfold_at_a_share_of_the_steps():
    found = rates(Recipe("r", steps=100, learning_rate=1.0, schedule="step", decay_at=0.6), 100)
    assert found[:60] == [1.0] * 60
    assert found[60:] == pytest.approx([0.1] * 40)


def test_parts_of_a_model_have_rates_of_their_own_and_decay_spares_vectors():
    recipe = Recipe("r", steps=1, learning_rate=1.0, weight_decay=0.3, rates={"1.*": 0.1})
    groups = {(g["lr"], g["weight_decay"]): g["params"] for g in adapter(recipe).param_groups(model(), recipe)}
    assert {key: [tuple(p.shape) for p in found] for key, found in groups.items()} == {
        (0.1, 0.3): [(16, 192)],
        (0.1, 0.0): [(16,)],
        (1.0, 0.3): [(2, 16)],
        (1.0, 0.0): [(2,)],
    }


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("420s", {"seconds": 420.0}),
        ("30steps", {"steps": 30}),
        ("2.5epochs", {"epochs": 2.5}),
        ("1e15macs", {"macs": 1e15}),
    ],
)
def test_a_recipe_may_have_another_budget_and_its_warm_up_keeps_its_share(text, budget):
    recipe = Recipe("r", steps=300, warmup_steps=30, learning_rate=1e-3)
    found = recipe.with_budget(text)
    assert (found.name, found.warmup, found.warmup_steps, found.learning_rate) == (f"r@{text}", 0.1, 0, 1e-3)
    assert {
        name: getattr(found, name) for name in ("steps", "epochs", "seconds", "macs") if getattr(found, name)
    } == budget
    assert Recipe("own", epochs=3, warmup_steps=4000).with_budget(text).warmup_steps == 4000


@pytest.mark.parametrize("text", ["", "420", "s", "0s", "-3s", "3 s", "3hours", "nansteps", "1e999steps"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(BadSpec, match="expected a recipe that trains, and after @ a budget such as 420s, 300steps"):
        Recipe("r", steps=300).with_budget(text)


def test_a_recipe_that_trains_nothing_has_no_budget():
    with pytest.raises(BadSpec, match="recipe as_it_is@3s is not legal: expected a recipe that trains"):
        Recipe("as_it_is").with_budget("3s")


def test_each_loss_has_the_factor_of_the_first_glob_that_its_name_fits():
    class Several:
        def loss(self, model: nn.Module, inputs: torch.Tensor, targets: object) -> dict[str, torch.Tensor]:
            return {"class": inputs, "class_0": inputs * 10, "l1": inputs * 100}

    sum_of = train.Losses(nn.Identity(), Several(), {"class*": 3.0, "class_0": 5.0})
    assert float(sum_of(torch.tensor(1.0), None)) == 133.0


def test_a_recipe_of_the_authors_takes_the_budget_and_scales_its_rate_with_the_batch():
    own = Recipe("own", kind="classification", batch_size=1024, learning_rate=1e-3, clip=1.0)
    taken = own.on_budget_of(Recipe("quick", steps=300, batch_size=64, learning_rate=9.0))
    assert (taken.steps, taken.batch_size, taken.clip) == (300, 64, 1.0)
    assert taken.learning_rate == pytest.approx(1e-3 / 4)  # the square root of 64 / 1024
    sgd = Recipe("own", kind="classification", batch_size=1024, learning_rate=1.6, optimizer="sgd")
    assert sgd.on_budget_of(Recipe("quick", steps=300, batch_size=64)).learning_rate == pytest.approx(0.1)


# -- batches -------------------------------------------------------------------------------------------------


def test_every_epoch_sees_every_sample_once():
    found = [train.batch_at(step, 10, 5, seed=0) for step in range(4)]
    for epoch in (found[:2], found[2:]):
        assert sorted(itertools.chain(*epoch)) == list(range(10))
    assert found[:2] != found[2:]
    assert [len(train.batch_at(step, 3, 8, 0)) for step in range(2)] == [3, 3]


def test_images_come_at_the_size_asked_for_and_bytes_become_values():
    images, labels = adapter().collate(
        [(torch.full((3, 8, 12), 255, dtype=torch.uint8), 1)] * 2, Size.parse("4x6px"), True
    )
    assert images.shape == (2, 3, 4, 6)
    assert images.min() == images.max() == 1.0
    assert labels.tolist() == [1, 1]
    assert data.fit(torch.rand(1, 3, 8, 16), Size.parse("4px")).shape == (1, 3, 4, 4)
    square = torch.rand(1, 3, 8, 8)
    assert torch.equal(data.fit(square, SIZE), square)


def test_what_is_longer_than_wanted_is_cut_from_both_ends_alike():
    image = torch.arange(6.0).expand(1, 1, 2, 6)
    assert data.fit(image, Size.parse("2px")).tolist() == [[[[2.0, 3.0], [2.0, 3.0]]]]


def test_images_of_several_shapes_are_one_batch():
    images = [torch.rand(3, 8, 8), torch.rand(3, 10, 20), torch.rand(3, 8, 8)]
    batch = data.fit_all(images, SIZE)
    assert batch.shape == (3, 3, 8, 8)
    assert torch.equal(batch[2], images[2])


def test_sequences_are_padded_with_zeros_and_cut():
    classifier = SequenceClassifier(RECIPE, {})
    ids, labels = classifier.collate([(torch.tensor([5, 6]), 1), (torch.arange(1, 9), 0)], Size.parse("4tok"), True)
    assert ids.tolist() == [[5, 6, 0, 0], [1, 2, 3, 4]]
    assert labels.tolist() == [1, 0]


def test_augmentation_changes_training_batches_only():
    recipe = Recipe(
        "r", steps=1, augment={"mirror": True, "shift": 4, "randaugment": "rand-m9-mstd0.5-inc1", "erase": 0.5}
    )
    changing, samples = adapter(recipe), [(torch.rand(3, 32, 32) * 2 - 1, i % 2) for i in range(8)]
    size = Size.parse("32px")
    train.seed_everything(0)
    first, labels = changing.collate(samples, size, True)
    train.seed_everything(0)
    again, _ = changing.collate(samples, size, True)
    plain, _ = changing.collate(samples, size, False)
    assert torch.equal(first, again)
    assert first.shape == plain.shape == (8, 3, 32, 32)
    assert not torch.equal(first, plain)
    assert torch.equal(plain, torch.stack([image for image, _ in samples]))
    assert labels.tolist() == [0, 1] * 4


def test_mixed_images_have_shares_of_two_classes():
    recipe = Recipe("r", steps=1, augment={"mixup": 0.8, "cutmix": 1.0})
    train.seed_everything(5)
    images, shares = adapter(recipe).collate(bright_or_dark(8), SIZE, True)
    assert images.shape == (8, 3, 8, 8)
    assert shares.shape == (8, 2)
    assert torch.allclose(shares.sum(1), torch.ones(8))
    assert ((shares > 0.01) & (shares < 0.99)).any()


def test_an_augmentation_that_there_is_not_is_refused():
    with pytest.raises(BadSpec, match="cannot augment with blur; expected some of mirror, shift, randaugment"):
        adapter(Recipe("r", steps=1, augment={"blur": 1.0}))


def test_inputs_are_random_and_repeatable():
    size, cpu = Size.parse("4x6px"), torch.device("cpu")
    made = [data.make_images(size, 2, torch.float32, cpu, torch.Generator().manual_seed(5))[0][0] for _ in range(2)]
    assert made[0].shape == (2, 3, 4, 6)
    assert torch.equal(*made)
    assert made[0].std() > 0.5
    (ids,), _ = data.make_tokens(Size.parse("7tok"), 2, torch.float32, cpu, None, vocab_size=11)
    assert (ids.shape, ids.dtype) == ((2, 7), torch.int64)
    assert 0 <= int(ids.min()) <= int(ids.max()) < 11


# -- scores --------------------------------------------------------------------------------------------------


def test_top1_has_its_wilson_interval():
    value, low, high, n = top1([1] * 9 + [0], [1] * 10)["top1"]
    assert (value, n) == (0.9, 10)
    # Wilson for 9 of 10: centre (0.9 + 1.92/10) / 1.384 = 0.789, half-width 1.96/1.384 sqrt(0.009 + 0.0096) = 0.193.
    assert low == pytest.approx(0.596, abs=1e-3)
    assert high == pytest.approx(0.982, abs=1e-3)


def test_top5_looks_at_the_five_likeliest():
    found = top1_top5([[1, 2, 3, 4, 5, 6], [9, 1, 2, 3, 4], [7, 8]], [5, 9, 1])
    assert found["top1"][0] == pytest.approx(1 / 3)
    assert found["top5"][0] == pytest.approx(2 / 3)


def test_any_of_several_right_labels_is_right_and_images_without_one_are_left_out():
    value, _, _, n = any_of([[1], [2], [3]], [[1, 4], [5], []])["top1"]
    assert (value, n) == (0.5, 2)


def test_a_checkpoints_own_mean_and_deviation_replace_the_common_ones():
    told = {"num_classes": 2, "mean": "0.485 0.456 0.406", "std": "0.229 0.224 0.225"}
    grey = torch.full((3, 8, 8), 128, dtype=torch.uint8)
    images, _ = Classifier(RECIPE, told).collate([(grey, 0)], SIZE, False)
    expected = [(128 / 255 - mean) / std for mean, std in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))]
    assert images[0, :, 0, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_of_an_image_the_middle_is_kept():
    image = torch.zeros(1, 3, 10, 10)
    image[..., 1:9, 1:9] = 1.0
    assert data.fit(image, Size.parse("8px"), crop=0.8).min() == 1.0
