"""How information travels: the longest chain of operators that wait for each other, and the layers that a token's news
has to pass to reach every other token (Vaswani et al. 2017, Section 4 and Table 1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
# What writes into a tensor without reading what was there.
OVERWRITES = {aten.copy_.default, aten.fill_.Scalar, aten.fill_.Tensor, aten.zero_.default}
# Layers at most, of a stack: more than the longest path of any that lets news through.
MOST_LAYERS = 10_000
AT_ONCE = 32  # rows of a Jacobian


class Chain(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, for all memory that operators write, how many of them had to be run one after the other for it.

    A view is no operator. What is written into a part of a tensor is kept with the whole of it, so that a chain may
    come out longer than it is, never shorter.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: dict[int, int] = {}
        self.alive: list[Any] = []  # an address is not given out twice

    def of(self, tensors: Sequence[Tensor]) -> int:
        """Return the longest chain behind some tensors."""
        return max((self.steps.get(key_of(t), 0) for t in tensors), default=0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator, and put what it writes one step behind what it reads."""
        kwargs = kwargs or {}
        read = tensors_in((args, kwargs))
        written = written_by(func, args, kwargs)
        kept = {key_of(t) for t in written} if func in OVERWRITES else set()
        step = 1 + self.of([t for t in read if key_of(t) not in kept])
        before = {key_of(t) for t in read}
        out = func(*args, **kwargs)
        for tensor in (*written, *(t for t in tensors_in(out) if key_of(t) not in before)):
            self.alive.append(tensor)
            self.steps[key_of(tensor)] = max(step, self.steps.get(key_of(tensor), 0))
        return out


def key_of(tensor: Tensor) -> int:
    """Return what tells the memory of a tensor, which its views share, from all other."""
    return int(tensor.untyped_storage()._cdata)


def tensors_in(nest: Any) -> list[Tensor]:
    """Return the tensors of any nest that have memory of their own."""
    return [t for t in tree_leaves(nest) if isinstance(t, Tensor) and t.layout == torch.strided]


def written_by(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the arguments that an operator writes into."""
    found = []
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = kwargs.get(argument.name) if argument.name in kwargs else args[place] if place < len(args) else None
            found += tensors_in(given)
    return found


def sequential_operations(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Return the most operators of a forward pass that each wait for the one before, recurrences step by step.

    One operator counts as one, whatever it does: a product of matrices or a transform is done at once.
    """
    with torch.no_grad(), Chain() as chain:
        out = module(*args, **kwargs)
    return int(chain.of(tensors_in(out)))


# -- from token to token -------------------------------------------------------------------------------------


def reach(module: nn.Module, x: Tensor) -> Tensor:
    """Return which tokens of the output depend on which of the input, (N, N) bool, by the Jacobian at random features.

    ``x`` is (1, N, C), and so is what the module returns. Rows of the Jacobian are taken side by side, each from a
    sample of its own in a batch of the same ``x``.
    """
    tokens = x.shape[1]
    draw = torch.Generator().manual_seed(0)
    mix = torch.randn(x.shape, generator=draw, dtype=x.dtype)
    found = []
    for first in range(0, tokens, AT_ONCE):
        rows = torch.arange(first, min(first + AT_ONCE, tokens))
        same = x.detach().repeat(len(rows), 1, 1).requires_grad_()
        chosen = (module(same) * mix).sum(-1)[torch.arange(len(rows)), rows]
        found.append(torch.autograd.grad(chosen.sum(), same)[0].abs().sum(-1) > 0)
    return torch.cat(found)


def layers_to_reach(level: Callable[[int], nn.Module], x: Tensor) -> int | None:
    """Return how many layers it takes until every token depends on every other, or on every earlier one.

    ``level`` returns the layer at a depth, from 0. None where no number of them is enough.
    """
    found: Tensor | None = None
    tokens = x.shape[1]
    whole = torch.ones(tokens, tokens, dtype=torch.bool)
    known: dict[nn.Module, Tensor] = {}
    idle = 0
    for depth in range(MOST_LAYERS):
        module = level(depth)
        if module not in known:
            known[module] = reach(module, x)
        before = found
        found = known[module] if found is None else (known[module].float() @ found.float()) > 0
        if bool((found == whole).all()) or bool((found == whole.tril()).all()):
            return depth + 1
        idle = idle + 1 if before is not None and torch.equal(found, before) else 0
        if idle > len(known):
            return None
    return None


def levels(build: Callable[..., nn.Module], options: Callable[[int], Mapping[str, Any]]) -> Callable[[int], nn.Module]:
    """Return a stack of layers whose options depend on the depth; one that is the same again is not built again."""
    built: dict[tuple[tuple[str, Any], ...], nn.Module] = {}

    def level(depth: int) -> nn.Module:
        chosen = options(depth)
        key = tuple(sorted(chosen.items()))
        if key not in built:
            built[key] = build(**chosen).eval().double()
        return built[key]

    return level
