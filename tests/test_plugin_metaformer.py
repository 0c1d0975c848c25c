"""The MetaFormer plugin: any registered layer as mixer, everything else equal, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
import zoo_metaformer
from models import build, closed_form, on_meta, params
from torch import Tensor, nn

import zoo
from zoo import ModelSpec, ZooError
from zoo.metrics.macs import count
from zoo.registry import installed
from zoo.spec import resolve
from zoo.testing import assert_conforms

SPECS: dict[str, ModelSpec] = {spec.name: spec for spec in zoo_metaformer.zoo_models()}
LAYERS = zoo.list_layers()
GRIDS = [name for name in LAYERS if installed().layer(name).grid]
SEQUENCES = [name for name in LAYERS if name not in GRIDS]
PATCH, WIDTH, DEPTH = 4, 64, 4  # of metaformer_nano


def size_for(mixer: str) -> int:
    """Return the smallest size from 32 px that a layer can mix in patches of 4 px."""
    spec = installed().layer(mixer)
    step = spec.step(spec.knobs)
    side = 8
    while (side if spec.grid else side**2) % int(step):
        side += 1
    return side * PATCH


def nano(mixer: str, **options: object) -> nn.Module:
    """Build the small model with a mixer, from seed 0."""
    torch.manual_seed(0)
    return build("metaformer_nano", size_for(mixer), mixer=mixer, **options)


def images(size: int, batch_size: int = 2) -> Tensor:
    """Return random images (B, 3, size, size)."""
    return torch.randn(batch_size, 3, size, size, generator=torch.Generator().manual_seed(0))


def common(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter but the mixers'."""
    return {name: p for name, p in model.named_parameters() if ".mixer." not in name}


# -- every layer ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mixer", LAYERS)
def test_classifies_images_and_trains_with_every_layer(mixer):
    model, x = nano(mixer).train(), images(size_for(mixer))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = F.cross_entropy(model(x), torch.tensor([3, 7]))
    before.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    optimizer.step()
    after = F.cross_entropy(model(x), torch.tensor([3, 7]))
    assert model(x).shape == (2, 10)
    assert after < before


@pytest.mark.parametrize("mixer", LAYERS)
def test_macs_by_hand_are_those_counted_with_every_layer(mixer):
    size = size_for(mixer)
    images = torch.empty(1, 3, size, size, device="meta")
    found = count(on_meta("metaformer_nano", size, mixer=mixer), (images,), custom=installed().custom)
    assert found.macs == closed_form("metaformer_nano", size, mixer=mixer)
    assert [op for op in found.uncounted if op.material] == []


@pytest.mark.parametrize("mixer", LAYERS)
def test_everything_but_the_mixer_is_equal_down_to_the_random_numbers(mixer):
    size = size_for(mixer)
    torch.manual_seed(0)
    usual = common(build("metaformer_nano", size))
    model = nano(mixer)
    assert list(common(model)) == list(usual)
    assert all(torch.equal(p, usual[name]) for name, p in common(model).items())


@pytest.mark.parametrize("mixer", LAYERS)
def test_parameters_are_the_common_ones_and_the_mixers(mixer):
    # patches; positions of n tokens; blocks of 2 LNs and d -> 4 d -> d; LN; head
    size, d = size_for(mixer), WIDTH
    side = size // PATCH
    blocks = DEPTH * (2 * 2 * d + 4 * d * (d + 1) + d * (4 * d + 1))
    expected = d * (3 * PATCH**2 + 1) + side**2 * d + blocks + 2 * d + 10 * (d + 1)
    with torch.device("meta"):
        layer = zoo.create_layer(mixer, (side, side), d)
    model = on_meta("metaformer_nano", size, mixer=mixer)
    assert sum(p.numel() for p in common(model).values()) == expected
    assert params(model) == expected + DEPTH * params(layer)


@pytest.mark.parametrize("mixer", LAYERS)
def test_a_batch_is_its_images(mixer):
    model, x = nano(mixer), images(size_for(mixer), 3)
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.cat([model(image) for image in x.split(1)]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixer", LAYERS)
def test_autocast_is_finite(mixer):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert nano(mixer)(images(size_for(mixer))).isfinite().all()


# -- the backbone --------------------------------------------------------------------------------------------


def test_a_block_adds_the_mixer_of_its_input_then_the_mlp():
    block, x = nano("conv1d").blocks[1], torch.randn(2, 64, WIDTH)
    with torch.no_grad():
        y = x + block.mixer(F.layer_norm(x, (WIDTH,), eps=1e-6))  # LNs start as the identity
        z = y + block.contract(F.gelu(block.expand(F.layer_norm(y, (WIDTH,), eps=1e-6))))
        torch.testing.assert_close(block(x), z)


def test_mixers_are_not_shared():
    assert len({id(block.mixer) for block in nano("self_attention").blocks}) == DEPTH


def test_with_attention_it_is_vit_s_without_class_token():
    # a class token is 384 parameters, and its position 384 more
    assert params(on_meta("metaformer_s16")) == 22_050_664 - 2 * 384
    n, d = 196, 384
    macs = n * d * 3 * 16**2 + 12 * (4 * n * d**2 + 2 * n**2 * d + 8 * n * d**2) + d * 1000
    assert closed_form("metaformer_s16") == macs == 4_574_026_752
    found = count(on_meta("metaformer_s16"), (torch.empty(1, 3, 224, 224, device="meta"),))
    assert found.macs == macs


@pytest.mark.parametrize(
    ("mixer", "expected"),
    [
        ("self_attention:heads=6", 4 * 196 * 384**2 + 2 * 196**2 * 384),
        ("restricted_attention_2d:window=5+heads=6", 4 * 196 * 384**2 + 2 * 196 * 5**2 * 384),
        ("lstm", 8 * 196 * 384**2),
        ("conv2d:kernel_size=5", 25 * 196 * 384**2),
        ("depthwise_conv2d:kernel_size=7", 49 * 196 * 384),
        ("fourier", 0),  # its transforms are no MACs
    ],
)
def test_mixers_of_the_large_one_differ_by_their_declared_cost(mixer, expected):
    around = closed_form("metaformer_s16", mixer="fourier")
    assert closed_form("metaformer_s16", mixer=mixer) - around == 12 * expected


def test_macs_by_hand_hold_for_every_option_and_for_a_rectangle():
    options = {
        "num_classes": 7,
        "mixer": "restricted_attention_2d:window=3+heads=6",
        "patch_size": 8,
        "width": 48,
        "depth": 3,
        "mlp_ratio": 2.5,
        "positions": False,
    }
    assert set(options) == set(SPECS["metaformer_nano"].knobs)
    model = on_meta("metaformer_nano", "32x64px", **options)
    found = count(model, (torch.empty(1, 3, 32, 64, device="meta"),))
    assert found.macs == closed_form("metaformer_nano", "32x64px", **options)


def test_every_option_changes_the_model():
    usual = str(on_meta("metaformer_nano"))
    others = {"num_classes": 7, "mixer": "conv1d", "patch_size": 8, "width": 32, "depth": 3, "mlp_ratio": 2.0}
    assert set(others) | {"positions"} == set(SPECS["metaformer_nano"].knobs)
    for option, value in others.items():
        assert str(on_meta("metaformer_nano", **{option: value})) != usual
    assert params(on_meta("metaformer_nano")) - params(on_meta("metaformer_nano", positions=False)) == 64 * WIDTH


def test_options_of_the_mixer_reach_it():
    model = on_meta("metaformer_nano", mixer="restricted_attention:window=5+heads=2")
    assert {(block.mixer.window, block.mixer.heads) for block in model.blocks} == {((1, 5), 2)}


def shuffled(x: Tensor) -> Tensor:
    """Return images whose patches are in another order."""
    patches = F.unfold(x, PATCH, stride=PATCH)
    order = torch.randperm(patches.shape[-1], generator=torch.Generator().manual_seed(1))
    return F.fold(patches[..., order], x.shape[-2:], PATCH, stride=PATCH)


def sees_order(**options: object) -> bool:
    """Tell whether the order of the patches changes what the model says."""
    model, x = nano(**options).double(), images(32).double()
    with torch.no_grad():
        return not torch.allclose(model(x), model(shuffled(x)), rtol=0, atol=1e-10)


def test_position_embeddings_tell_a_blind_mixer_where_a_token_is():
    assert not sees_order(mixer="self_attention", positions=False)
    assert sees_order(mixer="self_attention", positions=True)
    assert sees_order(mixer="conv2d", positions=False)  # sees the order by itself


@pytest.mark.parametrize("size", [4, 16, 48, "16x32px"])
@pytest.mark.parametrize("mixer", ["self_attention", "conv2d"])
def test_nano_classifies_images_of_several_sizes(mixer, size):
    shape = SPECS["metaformer_nano"].size(size).pair
    with torch.no_grad():
        logits = build("metaformer_nano", size, mixer=mixer)(torch.randn(2, 3, *shape))
    assert logits.shape == (2, 10)
    assert logits.isfinite().all()


def test_tokens_are_the_patches():
    tokens = resolve(SPECS["metaformer_s16"].input.tokens)
    assert tokens(224, **SPECS["metaformer_s16"].knobs) == 14 * 14
    assert tokens((224, 448), **SPECS["metaformer_s16"].knobs) == 14 * 28


# -- sequences of tokens -------------------------------------------------------------------------------------

TOKENS = 128  # that favor_causal's chunks divide


def text_nano(mixer: str = "self_attention", size: int = TOKENS, **options: object) -> nn.Module:
    """Build the small model of sequences with a mixer, from seed 0."""
    torch.manual_seed(0)
    return build("metaformer_text_nano", size, mixer=mixer, **options)


def ids(batch_size: int = 2, size: int = TOKENS) -> Tensor:
    """Return random token ids (B, size) without padding."""
    return torch.randint(1, 32, (batch_size, size), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mixer", SEQUENCES)
def test_classifies_sequences_and_trains_with_every_layer_that_needs_no_grid(mixer):
    model, x = text_nano(mixer).train(), ids()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = F.cross_entropy(model(x), torch.tensor([3, 7]))
    before.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    optimizer.step()
    assert model(x).shape == (2, 10)
    assert F.cross_entropy(model(x), torch.tensor([3, 7])) < before


@pytest.mark.parametrize("mixer", SEQUENCES)
def test_macs_of_sequences_by_hand_are_those_counted_with_every_layer(mixer):
    model = on_meta("metaformer_text_nano", TOKENS, mixer=mixer)
    found = count(model, (torch.zeros(1, TOKENS, dtype=torch.long, device="meta"),), custom=installed().custom)
    assert found.macs == closed_form("metaformer_text_nano", TOKENS, mixer=mixer)
    assert [op for op in found.uncounted if op.material] == []


@pytest.mark.parametrize("mixer", SEQUENCES)
def test_everything_but_the_mixer_of_sequences_is_equal_down_to_the_random_numbers(mixer):
    usual, found = common(text_nano()), common(text_nano(mixer))
    assert list(found) == list(usual)
    assert all(torch.equal(p, usual[name]) for name, p in found.items())


@pytest.mark.parametrize("mixer", SEQUENCES)
def test_a_batch_of_sequences_is_its_sequences(mixer):
    model, x = text_nano(mixer), ids(3)
    with torch.no_grad():
        torch.testing.assert_close(model(x), torch.cat([model(one) for one in x.split(1)]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mixer", GRIDS)
def test_a_layer_on_a_grid_mixes_no_sequence(mixer):
    with pytest.raises(ZooError, match=f"the mixer {mixer} needs tokens on a grid.*; expected one of .*self_attention"):
        text_nano(mixer, 64)  # a square number


def test_macs_of_a_sequence_by_hand():
    n, d = 256, 64
    block = 4 * n * d**2 + 2 * n**2 * d + 2 * n * d * 4 * d
    assert closed_form("metaformer_text_nano") == 2 * block + d * 10 == 41_943_680
    options = {"vocab_size": 256, "num_classes": 2, "width": 32, "depth": 3, "mlp_ratio": 2.0, "positions": False}
    options["mixer"] = "lstm"
    assert set(options) == set(SPECS["metaformer_text_nano"].knobs)
    assert closed_form("metaformer_text_nano", 100, **options) == 3 * (8 * 100 * 32**2 + 4 * 100 * 32**2) + 32 * 2


def test_parameters_of_sequences_are_the_common_ones_and_the_mixers():
    # embedding; positions; blocks of 2 LNs and d -> 4 d -> d; LN; head
    d = WIDTH
    expected = 32 * d + TOKENS * d + 2 * (2 * 2 * d + 4 * d * (d + 1) + d * (4 * d + 1)) + 2 * d + 10 * (d + 1)
    assert params(on_meta("metaformer_text_nano", TOKENS, mixer="fourier")) == expected
    without = on_meta("metaformer_text_nano", TOKENS, mixer="fourier", positions=False)
    assert params(without) == expected - TOKENS * d


def test_every_option_of_sequences_changes_the_model():
    usual = str(on_meta("metaformer_text_nano"))
    others = {"vocab_size": 64, "num_classes": 7, "mixer": "conv1d", "width": 32, "depth": 3, "mlp_ratio": 2.0}
    assert set(others) | {"positions"} == set(SPECS["metaformer_text_nano"].knobs)
    for option, value in others.items():
        assert str(on_meta("metaformer_text_nano", **{option: value})) != usual


def test_the_mean_leaves_padding_out():
    apart = {"mixer": "depthwise_conv:kernel_size=1", "positions": False}  # nothing of a token reaches another one
    model, shorter = text_nano(**apart), text_nano(**apart, size=50)
    shorter.load_state_dict(model.state_dict())
    x = ids(1)
    padded = x.clone()
    padded[:, 50:] = 0
    with torch.no_grad():
        short = shorter(x[:, :50])
        torch.testing.assert_close(model(padded), short)
        assert not torch.allclose(model(x), short)


def test_mixers_see_padding():
    x = ids(1)
    x[:, 50:] = 0
    model = text_nano("self_attention", positions=False)
    with torch.no_grad():
        before = model(x)
        model.embedding.weight[0, ::2] += 1.0  # not one number for all: a norm would take it off
        assert not torch.allclose(model(x), before)


def test_a_sequence_of_padding_alone_is_classified():
    with torch.no_grad():
        assert text_nano()(torch.zeros(1, TOKENS, dtype=torch.long)).isfinite().all()


@pytest.mark.parametrize("mixer", ["self_attention", "favor", "gru"])
def test_sequences_under_autocast_are_finite(mixer):
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert text_nano(mixer)(ids()).isfinite().all()


def test_positions_tell_a_blind_mixer_of_sequences_the_order():
    x = ids(1)
    for positions in (False, True):
        model = text_nano(positions=positions).double()
        with torch.no_grad():
            assert torch.allclose(model(x), model(x.flip(1)), rtol=0, atol=1e-10) is not positions


def test_a_length_that_a_mixer_cannot_take_is_refused():
    said = "favor_causal takes numbers of tokens that are multiples of 128, not 100"
    with pytest.raises(ZooError, match=said):
        text_nano("favor_causal", 100)


def test_the_model_of_sequences_conforms():
    assert_conforms("metaformer_text_nano")


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mixer", "said"),
    [
        ("self_atention", r"there is no layer named 'self_atention'; did you mean self_attention"),
        ("conv1d:kernel=5", "layer conv1d has no option 'kernel'; its options: kernel_size"),
        ("conv1d:kernel_size", "'kernel_size' in 'conv1d:kernel_size' is no option"),
        ("conv1d:kernel_size=4", "the kernel_size of conv1d is 4; expected an odd whole number"),
        ("self_attention:heads=5", "self_attention cannot have 5 heads at width 64"),
    ],
)
def test_a_mixer_that_is_none_is_refused_with_what_there_is(mixer, said):
    with pytest.raises(ZooError, match=said):
        build("metaformer_nano", mixer=mixer)
    if "=" not in mixer:
        with pytest.raises(ZooError, match=said):
            closed_form("metaformer_nano", mixer=mixer)


WINDOWS = "shifted_windows"


@pytest.mark.skipif(WINDOWS not in LAYERS, reason="the layer shifted_windows is not installed")
def test_windows_that_cut_the_grid_are_refused_with_sizes_that_do_not():
    said = (
        "the mixer shifted_windows works on windows of 7x7 patches of 4px: "
        "32px is not legal: expected a multiple of 28, at least 28px; nearest legal size: 28px or 56px"
    )
    with pytest.raises(ZooError) as caught:
        build("metaformer_nano", 32, mixer=WINDOWS)
    assert str(caught.value) == said
    assert type(caught.value).__name__ == "BadSize"  # a size that a sweep leaves out, no fault
    assert build("metaformer_nano", 32, mixer=f"{WINDOWS}:window=4")
    assert build("metaformer_nano", "28x56px", mixer=WINDOWS)


def test_a_size_that_cuts_patches_is_refused():
    with pytest.raises(ZooError, match=r"250px is not legal: expected a multiple of 16.*256px or 240px"):
        build("metaformer_s16", 250)


# -- in a suite ----------------------------------------------------------------------------------------------


def test_mixers_are_values_of_an_axis(zoo, suite_file, tmp_path):
    suite_file("""
        schema: 1
        groups:
        - models: [metaformer_nano]
          axes: {mixer: [conv1d, "conv1d:kernel_size=5"]}
          metrics: [macs]
    """)
    mixers = {"fourier", "restricted_attention:window=3+heads=2"}
    done = zoo("run", "mine.yaml", "--set", f"mixer={','.join(sorted(mixers))}", "--out", "runs")
    assert done.returncode == 0, done.stderr
    kept = [json.loads(line) for line in (tmp_path / "runs/mine/static.jsonl").read_text().splitlines()]
    found = {r["case"]["options"]["mixer"]: r["metrics"]["macs"]["value"] for r in kept if "metrics" in r}
    assert found == {mixer: closed_form("metaformer_nano", mixer=mixer) for mixer in mixers}
