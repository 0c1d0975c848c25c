"""On the meta device: what is left out changes no shape, no count and no parameter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from zoo.metrics import macs, meta, params


class Seen(TorchDispatchMode):
    """Notes the operators that torch is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func._overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


class Initialised(nn.Module):
    """A module that fills its parameters in every way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.linear = nn.Linear(8, 5)
        nn.init.trunc_normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(tensor=self.linear.bias)
        with torch.no_grad():
            self.conv.weight.mul_(0.5).add_(1.0)
        self.register_buffer("steps", torch.arange(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(x)).mean((2, 3)))


def test_nothing_is_filled_and_the_module_is_the_same():
    with Seen() as seen, meta.on_meta():
        module = Initialised()
    assert not {name for name in seen.names if name.endswith("_")} - {"detach_"}
    with torch.device("meta"):
        usual = Initialised()
    assert params.count(module) == params.count(usual)
    assert {k: (v.shape, v.dtype) for k, v in module.state_dict().items()} == {
        k: (v.shape, v.dtype) for k, v in usual.state_dict().items()
    }


def test_what_is_not_on_the_meta_device_is_filled():
    with meta.on_meta():
        real = torch.empty(3, device="cpu").fill_(2.0)
        nn.init.ones_(other := torch.empty(2, device="cpu"))
    assert real.tolist() == [2.0] * 3
    assert other.tolist() == [1.0] * 2


CALLS = {
    "gelu": lambda x: F.gelu(x),
    "silu in place": lambda x: F.silu(x, inplace=True),
    "relu of a transposed tensor": lambda x: F.relu(x.transpose(1, 2)),
    "sum": lambda x: x + x,
    "sum with a number": lambda x: x + 1,
    "sum with a row": lambda x: x + x[0, 0],
    "sum with a smaller one": lambda x: x + x[:, :1],
    "sum with a larger one": lambda x: x[:, :1] + x,
    "sum with more axes": lambda x: x[0] + x,
    "product with integers": lambda x: x * torch.ones(6, dtype=torch.int64, device=x.device),
    "product of two dtypes": lambda x: x * x.double(),
    "integers": lambda x: x.long() + x.long(),
    "linear": lambda x: F.linear(x, x.new_empty(7, 6), x.new_empty(7)),
    "layer norm": lambda x: F.layer_norm(x, (6,)),
    "layer norm over two axes": lambda x: F.layer_norm(x.transpose(0, 1), (2, 6)),
    "group norm": lambda x: F.group_norm(x, 2),
    "group norm of a transposed tensor": lambda x: F.group_norm(x.permute(0, 2, 1), 3),
    "group norm, channels last": lambda x: F.group_norm(x[..., None].to(memory_format=torch.channels_last), 2),
    "batch norm": lambda x: F.batch_norm(x, x.new_empty(4), x.new_empty(4)),
    "batch norm of its batch": lambda x: F.batch_norm(x, None, None, training=True),
    "channels last": lambda x: F.batch_norm(
        x[..., None].to(memory_format=torch.channels_last), x.new_empty(4), x.new_empty(4)
    ),
}


@pytest.mark.parametrize("call", CALLS)
def test_known_shapes_are_those_of_torch(call):
    def run() -> Tensor:
        with torch.no_grad():
            out: Tensor = CALLS[call](torch.empty(2, 4, 6, device="meta"))
        return out

    usual = run()
    with meta.KnownShapes():
        found = run()
    assert (found.shape, found.dtype, found.stride(), found.device) == (
        *(usual.shape, usual.dtype, usual.stride(), usual.device),
    )


def test_known_shapes_are_not_asked_of_torch():
    with torch.no_grad(), Seen() as seen, meta.KnownShapes():
        F.layer_norm(F.gelu(torch.empty(2, 4, 6, device="meta")), (6,))
    assert not seen.names & {"gelu", "native_layer_norm"}


def test_counts_are_the_same():
    module = nn.Sequential(Initialised(), nn.LayerNorm(5), nn.TransformerEncoderLayer(5, 1, 16, batch_first=True))
    module, x = module.to("meta"), torch.empty(2, 3, 8, 8, device="meta")
    usual = macs.count(module, (x,))
    with meta.KnownShapes():
        assert macs.count(module, (x,)) == usual


def test_real_tensors_are_computed():
    x = torch.randn(2, 4, 6)
    with meta.KnownShapes():
        assert torch.equal(F.gelu(x), F.gelu(x.clone()))
        assert F.gelu(x).abs().sum() > 0
