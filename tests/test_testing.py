"""The conformance kit passes what conforms, and fails planted faults by the name of the rule."""

import pytest
import torch
from torch import Tensor, nn

from zoo import Cost, LayerSpec, ModelSpec, SizeRule, image_classifier, testing
from zoo.data import fit_all
from zoo.errors import UnknownName
from zoo.registry import Registry, using
from zoo.spec import Size


class Patches(nn.Module):
    """Patches, a linear layer, the mean: conforms unless a subclass breaks something."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.mix(self.patches(images).flatten(2).transpose(1, 2)))

    def mix(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)


class Deaf(Patches):
    def mix(self, tokens: Tensor) -> Tensor:
        return tokens[:, 1:].mean(dim=1)


class Remembers(Patches):
    calls = 0

    def mix(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        return tokens.mean(dim=1) + self.calls


class CountsCalls(Patches):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.register_buffer("calls", torch.zeros(()))

    def mix(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        return tokens.mean(dim=1)


class Random(Patches):
    def mix(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1) + torch.rand_like(tokens[:, 0])


class Leaks(Patches):
    def mix(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1) - tokens.mean(dim=(0, 1))


class Idle(Patches):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.unused = nn.Parameter(torch.zeros(3))


class Detached(Patches):
    def mix(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1).detach()


class HidesState(Patches):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.hidden = torch.randn(8) if self.head.weight.device.type == "cpu" else torch.ones(8, device="meta")

    def mix(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1) * self.hidden


class OnCpu(Patches):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.scale = nn.Parameter(torch.ones(8, device="cpu"))


class Unknown(Patches):
    def mix(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1) * torch.linalg.svdvals(tokens.detach())[:, :1]


class Raises(Patches):
    def mix(self, tokens: Tensor) -> Tensor:
        raise ValueError("nothing to mix")


class Exits(Patches):
    def mix(self, tokens: Tensor) -> Tensor:
        raise SystemExit(0)


class FailsInTraining(Patches):
    def mix(self, tokens: Tensor) -> Tensor:
        if self.training:
            raise ValueError("only made for inference")
        return tokens.mean(dim=1)


class NotFinite(Patches):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.weight = nn.Parameter(torch.ones(8))

    def mix(self, tokens: Tensor) -> Tensor:
        nothing = (tokens.mean(dim=1) * self.weight * 0).square().sum(dim=1, keepdim=True).sqrt()
        return tokens.mean(dim=1) + nothing


class LeaksBesideLarge(Patches):
    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        leak = logits - 0.5 * logits.mean(dim=0)
        return torch.cat([torch.full_like(leak[:, :1], -1e9), leak[:, 1:]], dim=1)


class Squares(Patches):
    def forward(self, images: Tensor) -> Tensor:
        side = min(images.shape[-2:])
        return super().forward(images[..., :side, :side])


class DropsBlocks(Patches):
    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(8))

    def mix(self, tokens: Tensor) -> Tensor:
        for block in self.blocks:
            keep = torch.rand(len(tokens), 1, 1) < 0.5 if self.training else torch.ones(1)
            tokens = tokens + block(tokens) * keep.to(tokens.device)
        return tokens.mean(dim=1)


class ManyKinds(Patches):
    """Returns what is no tensor with a row a sample beside what is; takes a whole number as parameter."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.steps = nn.Parameter(torch.zeros((), dtype=torch.long), requires_grad=False)

    def forward(self, images: Tensor) -> dict[str, object]:
        logits = super().forward(images)
        return {"logits": logits, "aux": None, "scale": logits.new_ones(()), "sure": logits > 0}


def good(size, num_classes=10):
    return Patches(num_classes)


def one_class_too_many(size, num_classes=10):
    return Patches(num_classes + 1)


def closed_form(size, num_classes):
    height, width = (size, size) if isinstance(size, int) else size
    return (height // 4) * (width // 4) * 8 * 3 * 16 + 8 * num_classes


def one_mac_too_many(size, num_classes):
    return closed_form(size, num_classes) + 1


def maker(module: type[Patches]):
    """Return a build function with an importable name."""

    def build(size, num_classes=10):
        return module(num_classes)

    name = f"build_{module.__name__}"
    build.__qualname__ = build.__name__ = name
    globals()[name] = build
    return build


def spec(build=good, form=closed_form, **more) -> ModelSpec:
    return ModelSpec("planted", build=build, closed_form=form, **{**image_classifier(32, multiple_of=4), **more})


def results(planted: ModelSpec | LayerSpec) -> dict[str, testing.Result]:
    found = testing.check_model(planted) if isinstance(planted, ModelSpec) else testing.check_layer(planted)
    return {result.rule: result for result in found}


def failing(planted: ModelSpec | LayerSpec) -> dict[str, str]:
    return {rule: result.reason for rule, result in results(planted).items() if result.status == "failed"}


def test_a_model_that_conforms_passes_every_rule():
    assert {result.status for result in results(spec()).values()} == {"passed"}


@pytest.mark.parametrize(
    ("module", "rules", "reason"),
    [
        (Deaf, {"every_input"}, "1 of 64 cells of the image have no effect on the output, such as rows 0 to 3"),
        (Remembers, {"repeatable", "batched"}, "keeps state between calls"),
        (CountsCalls, {"repeatable"}, "changes its buffer calls"),
        (Random, {"repeatable", "batched", "state_dict"}, "draws at random"),
        (Leaks, {"batched"}, "off by"),
        (Idle, {"gradients", "meta"}, "no gradient reaches the trainable parameter unused"),
        (Detached, {"gradients"}, "no gradient reaches the trainable parameter patches.weight and 1 more"),
        (HidesState, {"state_dict"}, "it holds state outside it"),
        (OnCpu, {"meta"}, "its parameter scale is not on torch's default device"),
        (Unknown, {"counted"}, "in no count: aten._linalg_svd"),
        (Raises, {"meta"}, "ValueError: nothing to mix \\(test_testing.py:"),
        (Exits, {"meta"}, "SystemExit: 0"),
        (NotFinite, {"gradients"}, "the gradient of the parameter .* is not finite"),
        (LeaksBesideLarge, {"batched"}, "off by"),
        (Squares, {"every_input"}, "cells of the image have no effect"),
    ],
)
def test_a_planted_fault_fails_by_the_name_of_its_rule(module, rules, reason):
    found = failing(spec(maker(module)))
    assert rules & set(found), found
    assert any(__import__("re").search(reason, said) for said in found.values()), found


@pytest.mark.parametrize("module", [DropsBlocks, ManyKinds])
def test_what_is_unusual_and_sound_passes(module):
    key = "logits" if module is ManyKinds else ""
    kinds = {"adapters": {}} if key else {}
    assert failing(spec(maker(module), form="", output={key: "batch num_classes"}, **kinds)) == {}


def test_a_rule_that_fails_leaves_the_model_as_it_was_for_the_next():
    assert set(failing(spec(maker(FailsInTraining)))) == {"meta", "gradients", "adapter"}


def test_a_model_of_one_legal_size_is_never_given_another():
    one = spec(only_ints, form="", sizes=SizeRule("32px", 4, min=32, max=32))
    assert failing(one) == {}


def only_ints(size, num_classes=10):
    assert isinstance(size, int)
    return Patches(num_classes)


class Detaching:
    """An adapter whose loss has no gradient."""

    def __init__(self, recipe: object, options: object) -> None:
        pass

    def collate(self, samples: list[tuple[Tensor, int]], size: Size, training: bool) -> tuple[Tensor, Tensor]:
        return fit_all([image for image, _ in samples], size), torch.empty(0)

    def loss(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return {"nothing": model(inputs).detach().sum()}

    def predict(self, model: nn.Module, inputs: Tensor) -> list[int]:
        return model(inputs).argmax(dim=-1).tolist()


def test_an_adapter_whose_loss_has_no_gradient_fails():
    found = failing(spec(adapters={"classification": Detaching}))
    assert found == {"adapter": "the adapter's losses have no gradient"}


def test_wrong_class_count_fails_the_output():
    found = failing(spec(one_class_too_many))
    assert "(1, 11); expected (1, 10), that is (batch num_classes)" in found["output"]


def test_wrong_closed_form_is_told_with_both_numbers():
    found = failing(spec(form=one_mac_too_many))
    assert set(found) == {"closed_form"}
    assert found["closed_form"] == "at 32px 24,656 MACs are counted, and the closed form says 24,657"


def test_what_a_spec_cannot_support_is_skipped_with_its_reason_and_never_silently():
    declared = results(spec(maker(Deaf), skips={"every_input": "its first patch is a frame"}))["every_input"]
    assert (declared.status, declared.reason) == ("skipped", "its first patch is a frame")
    assert results(spec(form=""))["closed_form"].reason == "its spec declares no closed form"
    assert results(spec(adapters={}))["adapter"].reason == "it has no adapter for a task"
    assert results(spec(output={}))["output"].reason == "its spec declares no output"
    assert results(spec(data_dependent="it draws lots"))["meta"].reason == "it draws lots"


@pytest.mark.parametrize("skips", [{"evry_input": "x"}, {"every_input": ""}])
def test_a_skip_of_no_rule_and_a_skip_without_reason_fail(skips):
    assert "expected a reason, and one of meta, output" in failing(spec(skips=skips))["skips"]


@pytest.mark.parametrize("declared", ["batch classes", "batch num_classes-1", "batch tokens"])
def test_an_output_contract_that_means_nothing_is_told(declared):
    assert "planted" in failing(spec(output={"": declared}))["output"]


def test_outputs_by_key_are_held_to_their_contract():
    found = failing(spec(output={"logits": "batch num_classes"}))["output"]
    assert found == "output['logits'] is not there; the output is a tensor (1, 10) float32"


# -- layers --------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Self-attention without bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, dim=-1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))


class ForgetsOne(Attention):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(super().forward(x[:, :-1]), (0, 0, 0, 1))


def attention(size, width, heads=4):
    return Attention(width, heads)


def forgets_one(size, width, heads=4):
    return ForgetsOne(width, heads)


def layer(build=attention, projection="4 n d^2", mixing="2 n^2 d", **more) -> LayerSpec:
    cost = Cost(projection=projection, mixing=mixing)
    return LayerSpec("planted", build=build, cost=cost, sequential="O(1)", path_length="O(1)", heads="heads", **more)


def test_a_layer_that_conforms_passes_every_rule():
    assert {result.status for result in results(layer()).values()} == {"passed"}


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        ({"mixing": "3 n^2 d"}, "coefficients differ: d n^2: counted 2, declared 3"),
        ({"projection": "3 n d^2"}, "coefficients differ: d^2 n: counted 4, declared 3"),
        ({"mixing": ""}, "no coefficients of its terms would fit"),
        ({"mixing": "2 n^2 d + 1 n d"}, "coefficients differ: d n: counted"),
        ({"mixing": "2 n^2 d + 1 h n d", "symbols": {"h": "heads"}}, "d h n: counted"),
    ],
)
def test_a_wrong_cost_is_told_by_its_coefficient(cost, message):
    found = failing(layer(**cost))
    assert set(found) == {"cost"}
    assert message in found["cost"]


class Windows(Attention):
    """Attention inside windows of w tokens, which sees later tokens, but never past a border."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__(width, heads)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unflatten(1, (-1, self.window)).flatten(0, 1)
        return super().forward(windows).view_as(x)


def windows(size, width, heads=4, window=8):
    return Windows(width, heads, window)


def test_a_window_whose_border_is_in_the_middle_is_not_taken_for_causal():
    window = layer(windows, mixing="2 n w d", symbols={"w": "window"}, multiple_of="window")
    assert failing(window) == {}
    assert "causal" in failing(
        layer(windows, mixing="2 n w d", symbols={"w": "window"}, multiple_of="window", causal=True)
    )


def test_a_cost_that_leaves_out_an_option_it_depends_on_is_told():
    found = failing(layer(windows, mixing="16 n d", multiple_of="window"))
    assert found == {"cost": "its MACs depend on the option window, which symbols does not bind to a letter"}


def many_heads(size, width, heads=24):
    return Attention(width, heads)


def test_coefficients_are_recovered_with_many_heads_too():
    assert failing(layer(many_heads)) == {}
    assert "cost" in failing(layer(many_heads, projection="192 n d"))


def test_a_layer_that_ignores_a_token_or_says_the_wrong_thing_of_the_future_fails():
    assert "every_input" in failing(layer(forgets_one))
    assert failing(layer(causal=True)) == {"causal": "it sees later tokens and says that it is causal"}


# -- by name -------------------------------------------------------------------------------------------------


def test_three_lines_in_a_plugins_own_tests_are_enough(tiny_file):
    with using(Registry.load([str(tiny_file)])):
        testing.assert_conforms("tiny_conv")


def test_an_assertion_names_the_model_and_the_rule(site):
    site.add(
        "zoo_liar",
        """
        import torch
        from zoo import ModelSpec, hookimpl, image_classifier

        def build(size, num_classes=10):
            return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4, 4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
                                       torch.nn.Linear(4, num_classes + 1))

        @hookimpl
        def zoo_models():
            yield ModelSpec("liar", build=build, **image_classifier(32, multiple_of=4))
        """,
    )
    with using(Registry.load()), pytest.raises(AssertionError, match=r"liar fails 1 rules: output: failed"):
        testing.assert_conforms("liar")


def test_an_unknown_name_is_told():
    with pytest.raises(UnknownName, match="did you mean vit_nano"):
        testing.assert_conforms("vit_nono")


def test_zoo_check_prints_every_rule_and_exits_by_the_outcome(zoo, tmp_path, tiny_file):
    done = zoo("check", "tiny_conv", "--plugin", str(tiny_file))
    assert done.returncode == 0
    assert "tiny_conv  closed_form  skipped: its spec declares no closed form" in done.stdout
    assert "9 passed, 1 skipped, 0 failed" in done.stdout
    wrong = tmp_path / "wrong.py"
    wrong.write_text(tiny_file.read_text().replace("nn.Linear(width, num_classes)", "nn.Linear(width, 3)"))
    done = zoo("check", "tiny_conv", "--plugin", str(wrong))
    assert done.returncode == 1
    assert "tiny_conv  output       failed: the output at 32px and batch 1 is (1, 3); expected (1, 10)" in done.stdout
    assert zoo("check", "tiny_cnov", "--plugin", str(wrong)).returncode == 2
