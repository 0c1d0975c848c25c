"""Peak memory, predicted without running anything: fake tensors are made and freed in place of real ones.

What torch's allocator would hand out is followed byte by byte: what operators return, and on the CPU what the larger
ones are known to hold while they run (:mod:`zoo.metrics.scratch`). All sizes are in bytes.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from zoo.metrics import folding, memory, meta, scratch
from zoo.metrics.memory import Inputs, Loss, MakeOptimizer, Unmeasurable
from zoo.spec import resolve

Build = Callable[[], nn.Module]
MakeInputs = Callable[[torch.device], Inputs]

NO_BODIES: Mapping[str, str] = MappingProxyType({})
WRAPPERS = (__file__, "torch/_compile.py", "torch/_dynamo/eval_frame.py")  # of every call of a mode
TORCH = ("aten", "prim", "prims", "profiler")
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.bmm.default)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Prediction:
    """The peak, and what is in it when it is reached.

    ``unseen`` names the operators that hold more than this knows of: of plugins, without a body, and oneDNN's LSTM.
    """

    peak: int
    weights: int
    inputs: int
    unseen: tuple[str, ...] = ()

    @property
    def activations(self) -> int:
        """What is neither weights nor inputs."""
        return self.peak - self.weights - self.inputs


@dataclass(frozen=True)
class TrainingPrediction(Prediction):
    """The peak of a step once the optimiser has its state, and ``first_step``, that of the step that makes it.

    ``gradients`` are the parameters' as far as they are there at the peak, ``optimizer`` is the optimiser's state.
    """

    gradients: int = 0
    optimizer: int = 0
    first_step: int = 0

    @property
    def activations(self) -> int:
        """What is none of the other parts."""
        return super().activations - self.gradients - self.optimizer


def predict_peak(
    build: Build, make_inputs: MakeInputs, bodies: Mapping[str, str] = NO_BODIES, device: torch.device = CPU
) -> Prediction:
    """Predict the peak of running a module without gradients, weights and inputs included.

    The module is built on the meta device, and its tensors are taken for those of ``device``. On a CUDA device, which
    must be there for torch to choose the attention that it would run, workspaces of cuBLAS and cuDNN are not followed.
    ``bodies`` maps names of a plugin's operators (``"mine::attention"``) to import strings of functions that take the
    operator's arguments and allocate what it does; they are run on fake tensors too. Not followed are the scratch of
    LAPACK and of what the prediction calls unseen, and some tens of kilobytes that oneDNN takes for each thread.
    Unmeasurable when sizes depend on the values of the inputs.
    """

    def run() -> tuple[folding.Levels, tuple[int, int, tuple[str, ...]]]:
        with _faked(build, bodies, device) as (module, tracker), torch.no_grad():
            args, kwargs, weights, inputs = _start(module, make_inputs, tracker)
            module(*args, **kwargs)
        return tracker.levels, (weights, inputs, tuple(tracker.unseen))

    peak, rest = folding.unfolded(run)
    return Prediction(peak, *rest)


def predict_training_peak(
    build: Build,
    make_inputs: MakeInputs,
    optimizer: str | MakeOptimizer = "adamw",
    loss: Loss = memory.stand_in_loss,
    bodies: Mapping[str, str] = NO_BODIES,
    device: torch.device = CPU,
) -> TrainingPrediction:
    """Predict the peak of training steps: forward in the mode that the module is built in, backward, optimiser.

    ``optimizer`` is one of :data:`zoo.metrics.memory.OPTIMIZERS` or makes one of the parameters. ``loss`` is a function
    of the output. Gradients are None before each step. Everything else is as for :func:`predict_peak`. ZooError when no
    output has a gradient.
    """

    def run() -> tuple[folding.Levels, Callable[[int], TrainingPrediction]]:
        with _faked(build, bodies, device) as (module, tracker):
            args, kwargs, weights, inputs = _start(module, make_inputs, tracker)
            made = memory.make_optimizer(module, optimizer)
            tracker.follow_gradients(module)
            end = loss(module(*args, **kwargs))
            tracker.run_backward(end)
            levels, in_passes = tracker.levels, tracker.gradients_at_peak()
            del end
            steps = []
            for _ in range(2):
                tracker.start_again()
                if made is not None:
                    made.step()
                steps.append((tracker.peak, tracker.gradients_at_peak()))
            state = memory.state_bytes(made)

        def prediction(passes: int) -> TrainingPrediction:
            # Forward and backward are the same in every step, but for the optimiser's state beside them.
            peak, gradients = max((passes + state, in_passes), steps[1])
            first = max(passes, steps[0][0])
            return TrainingPrediction(peak, weights, inputs, tuple(tracker.unseen), gradients, state, first)

        return levels, prediction

    passes, prediction = folding.unfolded(run)
    return prediction(passes)


@contextmanager
def _faked(build: Build, bodies: Mapping[str, str], device: torch.device) -> Iterator[tuple[nn.Module, _Tracker]]:
    """Build a module, and turn its tensors and all that are made from here on into fake ones on a device."""
    with meta.on_meta():
        module = build()
    mode, tracker = fake_tensor.FakeTensorMode(allow_fallback_kernels=False), _Tracker(bodies, device)
    tracker.held = _make_fake(module, mode, device)
    try:
        with mode, tracker:
            yield module, tracker
    except (fake_tensor.DynamicOutputShapeException, fake_tensor.DataDependentOutputException) as error:
        raise Unmeasurable(f"peak memory depends on the values of the inputs: {error} gives no size") from error
    except fake_tensor.UnsupportedOperatorException as error:
        raise Unmeasurable(f"peak memory cannot be predicted: {error} does not run on fake tensors") from error


def _start(module: nn.Module, make_inputs: MakeInputs, tracker: _Tracker) -> tuple[Any, Any, int, int]:
    """Make the inputs and begin to follow; return them, and the bytes of weights and of inputs."""
    args, kwargs = make_inputs(tracker.device)
    weights = memory.storage_bytes(module)
    inputs = memory.storage_bytes(module, args, kwargs) - weights
    tracker.start([*tracker.held, *tree_leaves((args, kwargs))])
    return args, kwargs, weights, inputs


def _make_fake(module: nn.Module, mode: fake_tensor.FakeTensorMode, device: torch.device) -> list[Tensor]:
    """Put fake tensors in place of all tensors that a module holds, sharing what these share; return them.

    A module that is built of fake tensors from the start cannot be converted with ``Module.to``.
    """
    fakes: dict[int, tuple[Tensor, Tensor]] = {}

    def fake(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) not in fakes:
            fakes[id(value)] = value, _fake(value, mode, device)
        return fakes[id(value)][1]

    for part in module.modules():
        for name, value in list(vars(part).items()):
            if name != "_modules" and any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
                vars(part)[name] = tree_map(fake, value)
    return [made for _, made in fakes.values()]


def _fake(tensor: Tensor, mode: fake_tensor.FakeTensorMode, device: torch.device) -> Tensor:
    """Return the fake of one tensor, a parameter of a parameter."""
    made = fake_tensor.FakeTensor(mode, tensor.detach().to("meta"), device)
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


class _Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are alive, by identity, so that views share; finalizers take the dead ones off."""

    def __init__(self, bodies: Mapping[str, str], device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bodies, self.device = bodies, device
        self.held: list[Tensor] = []
        self.live = self.peak = 0
        self.levels: dict[tuple[Any, Any], int] = {}
        self.now = self.peak_at = 0  # operators so far
        self.born: dict[int, tuple[int, int]] = {}  # storage: when, and with which tensor
        self.gradients: dict[int, int] = {}
        self.backward = False
        self.product: tuple[int, Any] = (0, None)
        self.inside: dict[Any, int] = {}
        self.unseen: dict[str, None] = {}

    def start(self, held: Sequence[Any]) -> None:
        """Begin to look for the peak, with what is held already."""
        self.add(held)
        self.start_again()

    def start_again(self) -> None:
        """Forget the peak so far."""
        self.peak, self.peak_at = self.live, self.now
        self.levels = {("held", None): self.live}

    def follow_gradients(self, module: nn.Module) -> None:
        """Tell the gradients of a module's parameters from other storages."""
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.register_post_accumulate_grad_hook(self.mark)  # type: ignore[no-untyped-call]

    def run_backward(self, end: Tensor) -> None:
        """Run the backward pass, in which some sums are made in place."""
        self.backward = True
        end.backward()  # type: ignore[no-untyped-call]
        self.backward = False

    def in_place(self, func: Any, args: Any) -> bool:
        """Tell whether torch, were it not watched, would sum in place.

        That is how it adds up gradients, where the first is no view, and how one call of ``linear`` adds the bias to
        a product.
        """
        if func is not torch.ops.aten.add.Tensor:
            return False
        storage = args[0].untyped_storage()
        if self.product == (storage._cdata, _call()):
            return True
        return self.backward and args[0].nbytes == storage.nbytes() and self.born[storage._cdata][1] == id(args[0])

    def mark(self, parameter: Tensor) -> None:
        """Note the gradient of a parameter."""
        assert parameter.grad is not None
        storage = parameter.grad.untyped_storage()
        self.gradients[storage._cdata] = storage.nbytes()

    def gradients_at_peak(self) -> int:
        """Return the bytes of the gradients that were there when the peak was reached."""
        return sum(size for key, size in self.gradients.items() if self.born[key][0] <= self.peak_at)

    def add(self, values: Sequence[Any]) -> None:
        """Take up the storages of tensors."""
        for value in values:
            if not isinstance(value, Tensor):
                continue
            storage = value.untyped_storage()
            if storage._cdata in self.born:
                continue
            self.born[storage._cdata] = self.now, id(value)
            self.live += storage.nbytes()
            weakref.finalize(storage, self.drop, storage._cdata, storage.nbytes()).atexit = False

    def drop(self, key: int, size: int) -> None:
        """Take off a storage that has been freed."""
        del self.born[key]
        self.live -= size

    def reach(self, size: int, key: tuple[Any, Any]) -> None:
        """Note what was reached at an operator."""
        self.levels[key] = max(size, self.levels.get(key, 0))
        if size > self.peak:
            self.peak, self.peak_at = size, self.now

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and note what it holds at most, its results among it."""
        if func is torch.ops.prim.device.default:
            return func(*args)
        self.now += 1
        before = self.live
        out = func(*args, **(kwargs or {}))
        leaves = tree_leaves(out)
        self.add(leaves)
        if func in PRODUCTS:
            self.product = out.untyped_storage()._cdata, _call()
        if func.namespace in TORCH and func not in scratch.unknown():
            inside = before + (scratch.held(func, args, out) if self.device.type == "cpu" else 0)
        else:
            inside = before + self.held_inside(func, args, kwargs or {})
        level = max(inside, 0 if self.in_place(func, args) else self.live)
        self.reach(level, ((func, self.backward), leaves[0].shape if isinstance(leaves[0], Tensor) else None))
        return out

    def held_inside(self, func: Any, args: Any, kwargs: Any) -> int:
        """Return what an operator holds at most, from its body; 0 where there is none, and it is noted as unseen."""
        name = func.name().partition(".")[0]
        if name not in self.bodies:
            self.unseen[name] = None
            return 0
        key = name, tuple(map(_signature, tree_leaves((args, kwargs))))
        if key not in self.inside:
            self.inside[key] = self.peak_of(resolve(self.bodies[name]), args, kwargs)
        return self.inside[key]

    def peak_of(self, body: Callable[..., Any], args: Any, kwargs: Any) -> int:
        """Return what a function holds at most beside its arguments."""
        inner = _Tracker(self.bodies, self.device)
        inner.start(tree_leaves((args, kwargs)))
        given = inner.live
        with inner, torch.no_grad():
            body(*args, **kwargs)
        self.unseen |= inner.unseen
        return inner.peak - given


def _call() -> tuple[Any, int]:
    """Return where in Python the operator comes from: what one call makes of several operators has one place."""
    frame = sys._getframe()
    while frame.f_code.co_filename.endswith(WRAPPERS) and frame.f_back is not None:
        frame = frame.f_back
    return frame.f_code, frame.f_lasti


def _signature(leaf: Any) -> Any:
    """Return what the size of an operator's scratch may depend on."""
    return (leaf.shape, leaf.stride(), leaf.dtype) if isinstance(leaf, Tensor) else leaf
