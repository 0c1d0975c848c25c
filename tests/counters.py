"""Counters side by side, on ten modules and ten models whose MACs are known: ``python tests/counters.py [GLOB]``.

Writes results/counters/README.md: who is right, what each says, and what it takes. ptflops, thop and calflops are no
dependency: install them aside, ``pip install --no-deps --target DIR ptflops thop calflops``, and put DIR on PYTHONPATH;
what is not there is left out. With GLOB only some are counted, and the table is printed.
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import importlib.metadata
import importlib.util
import io
import logging
import statistics
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo import environment
from zoo.metrics import macs
from zoo.metrics.meta import on_meta
from zoo.registry import installed
from zoo.spec import resolve

TARGET = Path(__file__).resolve().parents[1] / "results" / "counters" / "README.md"
ROUNDS = 3
RIGHT = 0.01

Tensors = tuple[Tensor, ...]


# -- what is counted -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One module with its inputs, the MACs of one call, and where these come from."""

    label: str
    build: Callable[[], nn.Module]
    inputs: Callable[[str], Tensors]
    macs: int
    known: str


class Function(nn.Module):
    """A module that is a function. It holds a parameter, without which calflops fails."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function, self.unused = function, nn.Parameter(torch.zeros(1))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


class OnOne(nn.Module):
    """A call with every input but the first in place: some counters give a model one tensor only."""

    def __init__(self, module: nn.Module, rest: Tensors) -> None:
        super().__init__()
        self.module, self.rest = module, rest

    def forward(self, x: Tensor) -> Any:
        return self.module(x, *self.rest)


class SelfAttention(nn.Module):
    """torch's multi-head attention, of a sequence to itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention as two contractions."""
    weights = torch.einsum("bhnd,bhmd->bhnm", q, k).softmax(-1)
    return torch.einsum("bhnm,bhmd->bhnd", weights, v)


def local(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of each pixel to its 7 x 7 neighbours, as products that are summed."""
    b, c, h, w = q.shape
    keys, values = (F.unfold(x, 7, padding=3).view(b, c, 49, h * w) for x in (k, v))
    weights = (q.view(b, c, 1, h * w) * keys).sum(1, keepdim=True).softmax(2)
    return (weights * values).sum(2).view(b, c, h, w)


def module(label: str, build: Callable[[], nn.Module], shapes: Sequence[tuple[int, ...]], known: str) -> Case:
    """Return a case of one module; ``known`` is its arithmetic."""

    def inputs(device: str) -> Tensors:
        return tuple(torch.randn(shape, device=device) for shape in shapes)

    return Case(label, build, inputs, eval(known, {}), known.replace("*", "·"))  # noqa: S307


def model(name: str, size: str, label: str) -> Case:
    """Return a case of one of our models; its plugin works its MACs out by hand."""
    spec = installed().model(name)
    at, knobs = spec.size(size), spec.knobs

    def inputs(device: str) -> Tensors:
        args, kwargs = resolve(str(spec.input.make))(
            at, 1, torch.float32, torch.device(device), None, **spec.input_params({})
        )
        assert not kwargs
        return tuple(args)

    known = resolve(str(spec.closed_form))(at.native, **knobs)
    where = str(spec.closed_form).partition(".")[0]
    return Case(f"{label} {at}", lambda: zoo.create_model(name, size), inputs, known, f"by hand in {where}")


def convmixer() -> nn.Module:
    """timm's, which pads its depthwise convolutions by name."""
    import timm

    return timm.create_model("convmixer_1024_20_ks9_p14")


def cases() -> Iterator[Case]:
    """Yield all cases."""
    heads, tokens = (1, 12, 197, 64), (1, 197, 768)
    yield module("Linear", lambda: nn.Linear(768, 3072), [tokens], "197 * 768 * 3072")
    yield module(
        "Conv2d, 32 groups", lambda: nn.Conv2d(256, 256, 3, padding=1, groups=32), [(1, 256, 56, 56)],
        "56 * 56 * 9 * 8 * 256",
    )  # fmt: skip
    yield module(
        'Conv2d, depthwise, padding="same"', lambda: nn.Conv2d(1024, 1024, 9, groups=1024, padding="same"),
        [(1, 1024, 16, 16)], "16 * 16 * 81 * 1024",
    )  # fmt: skip
    yield module(
        "ConvTranspose2d", lambda: nn.ConvTranspose2d(256, 128, 4, 2, 1), [(1, 256, 28, 28)],
        "28 * 28 * 16 * 256 * 128",
    )  # fmt: skip
    yield module(
        "scaled_dot_product_attention", lambda: Function(F.scaled_dot_product_attention), [heads] * 3,
        "12 * 2 * 197 * 197 * 64",
    )  # fmt: skip
    yield module("the same by einsum", lambda: Function(by_einsum), [heads] * 3, "12 * 2 * 197 * 197 * 64")
    yield module(
        "local attention, products summed", lambda: Function(local), [(1, 128, 28, 28)] * 3, "2 * 28 * 28 * 49 * 128"
    )
    yield module(
        "MultiheadAttention", lambda: SelfAttention(768, 12), [tokens], "4 * 197 * 768 * 768 + 2 * 197 * 197 * 768"
    )
    yield module(
        "TransformerEncoderLayer", lambda: nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True), [tokens],
        "12 * 197 * 768 * 768 + 2 * 197 * 197 * 768",
    )  # fmt: skip
    yield module(
        "LSTM, 2 layers",
        lambda: nn.LSTM(512, 512, 2, batch_first=True),
        [(1, 128, 512)],
        "128 * 2 * 4 * (512 + 512) * 512",
    )
    yield model("resnet50", "224px", "ResNet-50")
    yield model("vit_s16", "224px", "ViT-S/16")
    yield model("swin_t", "224px", "Swin-T")
    yield model("mixer_s16", "224px", "MLP-Mixer-S/16")
    yield module(
        "ConvMixer-1024/20 112px", convmixer, [(1, 3, 112, 112)],
        "64 * (3 * 196 * 1024 + 20 * (81 * 1024 + 1024 * 1024)) + 1024 * 1000",
    )  # fmt: skip
    yield model("transformer_base", "64+64tok", "Transformer base")
    yield model("fnet_base", "128tok", "FNet base")
    yield model("performer_base", "128tok", "Performer base")
    yield model("sasa26", "128px", "SASA-26")
    yield model("detr_r50", "256px", "DETR-R50")


# -- who counts ----------------------------------------------------------------------------------------------

Counter = Callable[[nn.Module, Tensor], float]


def by_ours(call: nn.Module, x: Tensor) -> float:
    """Ours, on the meta device."""
    return macs.count(call, (x,), custom=installed().custom).macs


def by_fvcore(call: nn.Module, x: Tensor) -> float:
    """fvcore calls one multiply-accumulate a FLOP."""
    from fvcore.nn import FlopCountAnalysis

    return FlopCountAnalysis(call, (x,)).total()


def by_torch(call: nn.Module, x: Tensor) -> float:
    """torch counts two FLOPs for each."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        call(x)
    return counter.get_total_flops() / 2


def by_ptflops(call: nn.Module, x: Tensor, backend: str = "pytorch") -> float:
    """ptflops counts multiply-accumulates; when it fails it prints why and returns nothing."""
    from ptflops import get_model_complexity_info

    said = io.StringIO()
    found, _ = get_model_complexity_info(
        call, tuple(x.shape[1:]), False, False, input_constructor=lambda _: x, backend=backend, ost=said
    )
    if found is None:
        raise RuntimeError("it returns nothing")
    return found


def by_ptflops_aten(call: nn.Module, x: Tensor) -> float:
    """The same, by its other backend."""
    return by_ptflops(call, x, "aten")


def by_thop(call: nn.Module, x: Tensor) -> float:
    """thop counts multiply-accumulates, and elements of norms."""
    from thop import profile

    return profile(call, (x,), verbose=False)[0]


def by_calflops(call: nn.Module, x: Tensor) -> float:
    """calflops counts both FLOPs and multiply-accumulates; these are the latter."""
    from calflops import calculate_flops

    return calculate_flops(call, args=[x], print_results=False, output_as_string=False)[1]


COUNTERS: dict[str, tuple[str, Counter]] = {
    "ours": ("torch", by_ours),
    "fvcore": ("fvcore", by_fvcore),
    "torch": ("torch", by_torch),
    "ptflops": ("ptflops", by_ptflops),
    "ptflops aten": ("ptflops", by_ptflops_aten),
    "thop": ("thop", by_thop),
    "calflops": ("calflops", by_calflops),
}


def available() -> tuple[dict[str, Counter], dict[str, str]]:
    """Return the counters that are installed, and why the others are left out."""
    found, missing = {}, {}
    for label, (package, counter) in COUNTERS.items():
        try:
            with stand_ins():
                importlib.import_module(package)
        except ImportError as error:
            missing[label] = str(error)
        else:
            found[label] = counter
    return found, missing


class StandIn(types.ModuleType):
    """A package that is not there: whatever is asked of it says no."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: False


@contextlib.contextmanager
def stand_ins() -> Iterator[None]:
    """Let calflops be imported without accelerate and transformers, which it wants for models of a hub."""
    names = ("accelerate", "accelerate.utils", "transformers")
    made = {name: StandIn(name) for name in names if importlib.util.find_spec(name.partition(".")[0]) is None}
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


# -- counting ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a counter says of a case, or why it does not, and the median of what its calls took."""

    macs: float
    failure: str
    seconds: float


def counted(case: Case, counters: dict[str, Counter]) -> dict[str, Found]:
    """Let all count in turn, one round to warm up and some that are timed; each is given a fresh copy."""
    torch.manual_seed(0)
    real = OnOne(case.build().eval(), case.inputs("cpu")[1:]), case.inputs("cpu")[0]
    with on_meta():
        built = case.build().eval()
    shapes = OnOne(built, case.inputs("meta")[1:]), case.inputs("meta")[0]
    taken: dict[str, list[Found]] = {label: [] for label in counters}
    for _ in range(1 + ROUNDS):
        for label, counter in counters.items():
            if not (taken[label] and taken[label][0].failure):
                taken[label].append(once(counter, *(shapes if label == "ours" else real)))
    return {
        label: Found(all_[0].macs, all_[0].failure, statistics.median(f.seconds for f in all_[1:] or all_))
        for label, all_ in taken.items()
    }


def once(counter: Counter, call: nn.Module, x: Tensor) -> Found:
    """Count once, in inference and without gradients."""
    call = copy.deepcopy(call)
    with as_it_was(), silent(), torch.no_grad():
        began = time.process_time()
        try:
            found, failure = float(counter(call, x)), ""
        except Exception as error:
            found, failure = 0.0, type(error).__name__
        return Found(found, failure, time.process_time() - began)


@contextlib.contextmanager
def as_it_was() -> Iterator[None]:
    """Put back what counters patch in torch, and some leave so when they fail."""
    before = [(place, dict(vars(place))) for place in (torch, F, torch.Tensor, nn.MultiheadAttention)]
    try:
        yield
    finally:
        for place, was in before:
            for name, value in list(vars(place).items()):
                if name not in was:
                    delattr(place, name)
                elif value is not was[name]:
                    setattr(place, name, was[name])


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Let nothing be printed, warned of or logged."""
    said = io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


# -- telling -------------------------------------------------------------------------------------------------

Row = tuple[Case, dict[str, Found]]


def off(found: Found, known: int) -> float | None:
    """Return by which share a count is off, None when there is no count."""
    return None if found.failure else found.macs / known - 1


def judged(found: Found, known: int) -> str:
    """Say how far a count is off."""
    share = off(found, known)
    if share is None:
        return "fails"
    if share == 0:
        return "**exact**"
    if abs(share) < 5e-5:
        return "< 0.01 %"
    digits = 0 if abs(share) > 0.9995 else 1 if abs(share) >= RIGHT else 2
    return f"{100 * share:+.{digits}f} %".replace("-", "−")


def amount(found: Found) -> str:
    """Write billions of MACs."""
    return "–" if found.failure else f"{found.macs / 1e9:.4f}"


def duration(found: Found) -> str:
    """Write milliseconds."""
    return "–" if found.failure else f"{1e3 * found.seconds:,.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Return a Markdown table, aligned in its source too: numbers end at one line, columns of text begin at one."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    rule = [":" + "-" * (w - 1) if i in left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]

    def line(row: Sequence[str]) -> str:
        cells = (cell.ljust(widths[i]) if i in left else cell.rjust(widths[i]) for i, cell in enumerate(row))
        return "| " + " | ".join(cells) + " |"

    return "\n".join(map(line, [head, rule, *rows]))


def told(rows: Sequence[Row], missing: dict[str, str], minutes: float) -> str:
    """Return the document."""
    labels, n = list(rows[0][1]), len(rows)
    shares = {label: [off(found[label], case.macs) for case, found in rows] for label in labels}
    exact = {label: sum(share == 0 for share in of) for label, of in shares.items()}
    right = {label: sum(share is not None and abs(share) <= RIGHT for share in of) for label, of in shares.items()}
    taken = {label: sum(found[label].seconds for _, found in rows if not found[label].failure) for label in labels}

    def lines(cell: Callable[[Found, Case], str]) -> list[Sequence[str]]:
        return [(case.label, *(cell(found[label], case) for label in labels)) for case, found in rows]

    who = lines(lambda found, case: judged(found, case.macs))
    who += [(f"exact, of {n}", *map(str, exact.values())), (f"off by at most 1 %, of {n}", *map(str, right.values()))]
    what = [(case.label, f"{case.macs / 1e9:.4f}", *row[1:]) for (case, _), row in zip(
        rows, lines(lambda found, _: amount(found)), strict=True
    )]  # fmt: skip
    when = [*lines(lambda found, _: duration(found)), ("all", *(f"{1e3 * s:,.0f}" for s in taken.values()))]
    known = [(case.label, f"{case.macs:,}", case.known) for case, _ in rows]
    return DOCUMENT.format(
        who=table(["Off by", *labels], who),
        what=table(["GMACs", "by hand", *labels], what),
        when=table(["Milliseconds", *labels], when),
        known=table(["Case", "MACs", "Arithmetic"], known, left=(0, 2)),
        best=", ".join(f"{label} {right[label]}" for label in sorted(labels, key=lambda of: -right[of])),
        n=n,
        versions=versions(missing),
        rounds=ROUNDS,
        minutes=minutes,
    )


def versions(missing: dict[str, str]) -> str:
    """Say which versions were compared, on which machine, and what is left out."""
    packages = dict.fromkeys(package for label, (package, _) in COUNTERS.items() if label not in missing)
    named = [f"{package} {importlib.metadata.version(package)}" for package in [*packages, "torchvision", "timm"]]
    text = f"{', '.join(named)}; {environment.cpu_name()}, one thread."
    return text + "".join(f" Left out: {label} ({why})." for label, why in missing.items())


DOCUMENT = """\
# Counters side by side

Ten modules and ten models whose multiply-accumulates are known by hand, each counted by all of these in one process:
in eval mode, without gradients, float32, batch 1. Made by `python tests/counters.py` in {minutes:.1f}
minutes of processor time.

## Who is right

{who}

Off by at most 1 %, of {n}: {best}.

What these versions do, as their sources say and the table shows:

- **fvcore** has no handle for `scaled_dot_product_attention`, for torch's fused attention, for recurrent layers and for
  convolutions padded by name, and rounds an einsum to four digits. It adds 5 FLOPs an element for layer norm and 2 for
  batch norm, which may hide what it misses (DETR). `zoo show NAME --audit` takes the difference apart.
- **torch**'s own counter has no formula for what a CPU fuses in inference (multi-head attention, the encoder layer,
  LSTM), for products that are summed element by element, and for a plugin's own operator. All else it has right in this
  version; in 2.11 `scaled_dot_product_attention` on a CPU was a zero as well.
- **ptflops** adds biases, norms and activations to its MACs. By modules, its default, it sees no `F.linear` (the logits
  of the Transformer), no `@`, no einsum and no `scaled_dot_product_attention`, and its formula for timm's attention
  loses the projections around it (ViT). By operators (`aten`) it has none for attention and LSTM that torch fuses.
- **thop** counts layers and nothing between them: no attention, no `F.linear`, no `@`, no einsum. A transposed
  convolution it counts at the pixels that come out, four times too many at stride 2.
- **calflops** patches functions: no `@`, no `scaled_dot_product_attention`, no LSTM. It reports no MACs for an einsum.
- **Ours** knows SASA's operator because its plugin has a formula for it. FNet's Fourier transforms are no MACs; ours
  counts them apart, in FLOPs, and the others not at all.

## What they say

Billions of multiply-accumulates. torch's FLOPs are halved; fvcore, ptflops and thop call a multiply-accumulate one
operation and are as they say; calflops reports FLOPs and MACs, and these are its MACs.

{what}

## What it takes

Processor time of one thread, which other work on the machine hardly stretches: the median of {rounds} calls, after one
to warm up, all counters in turn; building the model is in none of them. Ours is given a model on the meta device, which
computes nothing, so its time does not grow with the size of the input; the others run a forward pass on the CPU. Each
was given a fresh copy of the model, and what it had patched in torch was put back: some leave hooks or patches behind.

{when}

## What is known

{known}

{versions}
"""


def main(pattern: str = "*") -> None:
    """Count, and write or print the document."""
    torch.set_num_threads(1)
    counters, missing = available()
    rows = []
    for case in cases():
        if fnmatch.fnmatch(case.label, pattern):
            rows.append((case, counted(case, counters)))
            print(
                case.label,
                *(f"{k} {judged(f, case.macs)}{f.failure and ' ' + f.failure}" for k, f in rows[-1][1].items()),
                sep="  ",
                flush=True,
            )
    text = told(rows, missing, time.process_time() / 60)
    if pattern == "*":
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
