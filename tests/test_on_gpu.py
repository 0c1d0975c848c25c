"""What must hold on a GPU as it does on the CPU: counts, predicted memory, and the accuracy of every fast path.

A fast path has two tiers: in float64 it equals the reference, and in a narrower dtype it is at most a quarter further
from that than a reference which computes in that dtype.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from favor_formula import explicit, explicit_causal
from gpu import CUDA, MARKS, on_gpu
from torch import Tensor, nn

import zoo
from zoo.metrics import macs, memory, predicted_memory
from zoo.metrics.driver import driver_of
from zoo.registry import installed
from zoo.spec import resolve

peers = pytest.importorskip("peers")
speed = pytest.importorskip("speed")
pytest.importorskip("transformers")

# -- counts --------------------------------------------------------------------------------------------------

COUNTED = {
    "vit_ti16": "224px",
    "swin_t": "224px",
    "mixer_s16": "224px",
    "sasa26": "64px",
    "resnet50": "64px",
    "fnet_base": "128tok",
    "performer_base": "128tok",
    "performer_base_softmax": "128tok",
    "transformer_base": "32+48tok",
    "detr_r50": "128x160px",
}


def model_inputs(name: str, size: str, batch: int, dtype: torch.dtype, device: torch.device) -> Any:
    """Return one batch for a model: what it is called with, and by which names."""
    spec = installed().model(name)
    return resolve(str(spec.input.make))(spec.size(size), batch, dtype, device, None, **spec.input_params({}))


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize(("name", "size"), COUNTED.items())
def test_what_runs_is_counted_as_on_the_meta_device(name: str, size: str, device: str) -> None:
    counts = []
    for place in map(torch.device, ("meta", device)):
        with place:
            model = zoo.create_model(name, size)
        counts.append(macs.count(model, *model_inputs(name, size, 1, torch.float32, place), installed().custom))
    expected, found = counts
    assert (found.macs, found.flops_fft) == (expected.macs, expected.flops_fft)
    assert found.macs > 1e6


# -- predicted memory ----------------------------------------------------------------------------------------

PEAKS = [
    *((name, "224px", 64, "inference") for name in ("vit_b16", "swin_b", "mixer_b16", "resnet50", "sasa26")),
    *((name, "224px", 32, "training") for name in ("vit_b16", "swin_b", "mixer_b16", "resnet50")),
    ("detr_r50", "800x1066px", 8, "inference"),
    ("fnet_base", "512tok", 64, "inference"),
    ("fnet_base", "512tok", 32, "training"),
    ("performer_base", "2048tok", 16, "inference"),
    ("transformer_base", "512+512tok", 16, "inference"),
    ("transformer_base", "512+512tok", 16, "training"),
]


@on_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("name", "size", "batch", "mode"), PEAKS)
def test_on_a_gpu_predicted_memory_is_the_allocators_above_500_mb(
    name: str, size: str, batch: int, mode: str, dtype: torch.dtype
) -> None:
    device = torch.device("cuda")
    bodies = installed().bodies

    def build() -> nn.Module:
        return zoo.create_model(name, size).to(dtype).train(mode == "training")

    def inputs(device: torch.device) -> Any:
        return model_inputs(name, size, batch, dtype, device)

    if mode == "training":
        predicted = predicted_memory.predict_training_peak(build, inputs, bodies=bodies, device=device).peak
    else:
        predicted = predicted_memory.predict_peak(build, inputs, bodies, device).peak
    gc.collect()
    with device:
        model = build()
    given = inputs(device)
    if mode == "training":
        call: Callable[[], object] = partial(memory.train_step, model, given, memory.make_optimizer(model, "adamw"))
    else:
        model.requires_grad_(False)
        call = torch.inference_mode()(lambda: model(*given[0], **given[1]))
    found = memory.peak_on_device(call, driver_of("cuda"))
    measured = found["allocated"] - found["workspaces"]
    assert measured > 500e6, "too small to tell"
    assert predicted == pytest.approx(measured, rel=0.05)


# -- fast paths ----------------------------------------------------------------------------------------------

HALVES = (torch.bfloat16, torch.float16)


class Call(nn.Module):
    """A function of tensors, of which the first are kept as a model's weights are."""

    def __init__(self, function: Callable[..., Any], *parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(part for part in parts if isinstance(part, nn.Module))
        self.weights = nn.ParameterList(part for part in parts if isinstance(part, Tensor))

    def forward(self, *inputs: Tensor) -> Tensor:
        """Call it."""
        found = self.function(*self.parts, *self.weights, *inputs)
        assert isinstance(found, Tensor)
        return found


Path = tuple[nn.Module, nn.Module, list[Tensor]]  # ours, a reference, and what both are called with


def of_torch(n: int = 40) -> Path:
    """The Transformer beside torch's, encoder and decoder."""
    theirs = nn.Transformer(512, 8, 6, 6, 2048, batch_first=True).eval()
    ours = speed.loaded("transformer_base", n, theirs, attention_bias=True, final_norm=True)

    def reference(core: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(n, device=x.device, dtype=x.dtype)
        found: Tensor = core(x, y, tgt_mask=mask, tgt_is_causal=True)
        return found

    return Call(lambda m, x, y: m.decoder(y, m.encoder(x)), ours), Call(reference, theirs), [*torch.randn(2, 2, n, 512)]


def of_timm(name: str, peer: str, side: int = 224) -> Path:
    """A model beside timm's or torchvision's, with heads that are not zero."""
    ours = zoo.create_model(name, side).eval()
    for parameter in ours.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    theirs = (zoo.create_model(peer, side) if "/" in peer else peers.resnet(side)).eval()
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs, [torch.randn(2, 3, side, side)]


def of_detr() -> Path:
    """DETR beside transformers', on an image whose sides are no multiples of 32."""
    theirs = peers.detr(128).eval()
    ours = speed.loaded("detr_r50", "150x203px", theirs.model)
    return (*(Call(lambda m, x: m(x)["logits"], m) for m in (ours, theirs)), [torch.randn(1, 3, 150, 203)])  # type: ignore[return-value]


def of_sasa(side: int = 19) -> Path:
    """Local attention beside the formula on unfolded keys and values."""
    import zoo_sasa.local

    rows, columns = torch.randn(2, 8, 7, 4)

    def ours(rows: Tensor, columns: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return zoo_sasa.local.local_attention(q, k, v, rows, columns, False)

    def theirs(rows: Tensor, columns: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return speed.unfolded(q, k, v, rows, columns)

    return Call(ours, rows, columns), Call(theirs, rows, columns), [*torch.randn(3, 2, 64, side, side + 4)]


def of_performer(kernel: str, causal: bool, n: int = 131) -> Path:
    """FAVOR+ beside its formula."""
    from zoo_performer.attention import Favor

    ours = Favor(32, 64, kernel, causal, generator=torch.Generator().manual_seed(0), chunk=50)
    formula = explicit_causal if causal else explicit
    theirs = Call(lambda w, q, k, v: formula(q, k, v, w, kernel), ours.projection)
    return ours, theirs, [*torch.randn(3, 2, 4, n, 32)]


def of_fourier(n: int = 300, width: int = 96) -> Path:
    """Fourier mixing beside the transform of both axes, in float32 at least."""
    ours = zoo.create_layer("fourier", n, width)

    def reference(x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        return torch.fft.fft2(wide, dim=(1, 2)).real.to(x.dtype)

    return ours, Call(reference), [torch.randn(2, n, width)]


PATHS: dict[str, Callable[[], Path]] = {
    "transformer": of_torch,
    "vit": partial(of_timm, "vit_ti16", "timm/vit_tiny_patch16_224"),
    "swin": partial(of_timm, "swin_t", "timm/swin_tiny_patch4_window7_224"),
    "mixer": partial(of_timm, "mixer_s16", "timm/mixer_s16_224"),
    "resnet": partial(of_timm, "resnet50", "torchvision", 65),
    "detr": of_detr,
    "sasa": of_sasa,
    **{
        f"performer {kernel}{' causal' * causal}": partial(of_performer, kernel, causal)
        for kernel in ("relu", "softmax")
        for causal in (False, True)
    },
    "fourier": of_fourier,
}
WHOLE = ("transformer", "vit", "swin", "mixer", "resnet", "detr")  # models: half a minute on a slow core


@pytest.mark.parametrize(
    ("name", "device"),
    [
        *(pytest.param(name, "cpu", marks=[pytest.mark.slow] if name in WHOLE else []) for name in PATHS),
        *(pytest.param(name, "cuda", marks=MARKS) for name in PATHS),
    ],
)
def test_a_fast_path_is_as_near_to_the_truth_as_its_reference(name: str, device: str) -> None:
    torch.manual_seed(0)
    ours, theirs, inputs = PATHS[name]()
    pair = [module.eval().requires_grad_(False) for module in (ours, theirs)]
    exact = [called(module, inputs, "cpu", torch.float64) for module in pair]
    assert apart(*exact) < 1e-9
    for dtype in (torch.float32, *HALVES) if device == "cuda" else (torch.float32, torch.bfloat16):
        # The truth of what is left of weights and inputs in that dtype.
        rounded = [x.to(dtype) for x in inputs]
        truth = called(copy.deepcopy(theirs).to(dtype), rounded, "cpu", torch.float64)
        found = [apart(called(module, rounded, device, dtype), truth) for module in pair]
        assert 0 < found[0] <= 1.25 * found[1], (dtype, found)


def called(module: nn.Module, inputs: list[Tensor], device: str, dtype: torch.dtype) -> Tensor:
    """Return what a copy of a module gives on a device in a dtype."""
    made: Tensor = copy.deepcopy(module).to(device, dtype)(*(x.to(device, dtype) for x in inputs))
    return made


def apart(found: Tensor, truth: Tensor) -> float:
    """Return how far an output is from the truth, relative to it."""
    return float((found.cpu().double() - truth).norm() / truth.norm())
