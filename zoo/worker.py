"""The child: it prepares one phase of one case, measures or samples on command, and closes.

Every message is one packet of JSON on a socket of its own; what a model prints goes to a log, never into a message.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
import traceback
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from zoo import data, plugins, registry, train, trained
from zoo.case import Case
from zoo.environment import SETTINGS
from zoo.errors import BadSize, ZooError
from zoo.jsonio import PACKET, from_json, send, to_json
from zoo.metrics import (
    CONVERTIBLE,
    attention,
    ceilings,
    dependence,
    energy,
    macs,
    memory,
    meta,
    params,
    predicted_memory,
    roofline,
    speed,
)
from zoo.metrics.batch import largest_batch, least_batch, predicted_knee
from zoo.metrics.counts import Count
from zoo.metrics.driver import Call, Driver, Unsupported, driver_of
from zoo.record import Value
from zoo.spec import ModelSpec, Size, import_module, resolve
from zoo.task import Assignment

INPUT_SEED = 0
# AdamW reads weight, gradient and both moments, and writes all but the gradient.
ADAMW_TRAFFIC = 7
OUT_OF_MEMORY = (
    *("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "Cannot allocate memory"),
    "STATUS_ALLOC_FAILED",  # of cuBLAS and cuDNN
)
NOT_SUPPORTED = (
    *("not implemented for", "no kernel image", "is not supported"),
    *("No available kernel", "No viable backend"),  # for attention, of the one backend that is allowed
)


def work(channel: socket.socket) -> None:
    """Answer the parent's commands, one at a time, until it says close or is gone."""
    job: Job | None = None
    while message := channel.recv(PACKET):
        command = json.loads(message)
        if command["do"] == "close":
            return
        try:
            if command["do"] == "prepare":
                job = Job.prepare(command, channel)
                reply: dict[str, Any] = {"ready": True}
            elif command["do"] == "ceilings":
                reply = {"values": measure_ceilings(command["device"], command["dtype"], command["threads"])}
            elif job is None:
                raise RuntimeError("a worker prepares a case before anything else")
            elif command["do"] == "measure":
                found = job.measure(command["metric"], **command.get("given", {}))
                reply = {"values": {name: to_json(value) for name, value in found.items()}}
            else:
                reply = job.sample(command["metric"], command["count"])
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            reply = failure(error)
        sys.stdout.flush()
        send(channel, reply)


def failure(error: BaseException) -> dict[str, Any]:
    """Tell the status of a metric that could not be had, and the reason in one line."""
    text = " ".join(str(error).split())[:400] or "no message"
    status = "error"
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in text for words in OUT_OF_MEMORY):
        status = "oom"
    elif isinstance(error, BadSize | memory.Unmeasurable | energy.Unreadable | Unsupported) or (
        isinstance(error, RuntimeError) and any(words in text for words in NOT_SUPPORTED)
    ):
        status = "unsupported"
    elif isinstance(error, train.Diverged):
        return {"failed": "diverged", "reason": text}
    if isinstance(error, ZooError) or (status == "unsupported" and not isinstance(error, RuntimeError)):
        return {"failed": status, "reason": text}
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return {"failed": status, "reason": f"{type(error).__name__}: {text}{where}"}


@dataclass
class Job:
    """One phase of one case."""

    spec: ModelSpec
    assignment: Assignment | None
    case: Case
    channel: socket.socket
    module: nn.Module | None = None
    optimizer: torch.optim.Optimizer | None = None
    runnable: nn.Module | None = None
    call: Call = lambda: None
    replay: Call | None = None
    window: int = 0
    counted: Count | None = None
    inputs: data.Inputs = field(default=((), {}))
    custom: dict[str, str] = field(default_factory=dict)
    bodies: dict[str, str] = field(default_factory=dict)
    held: ExitStack = field(default_factory=ExitStack)  # what lasts as long as the process

    @classmethod
    def prepare(cls, command: dict[str, Any], channel: socket.socket) -> Job:
        """Set threads and limits, then build what the phase needs."""
        case = from_json(Case, command["case"])
        job = cls(
            spec=from_json(ModelSpec, command["spec"]),
            assignment=from_json(Assignment, command["assignment"]) if command["assignment"] else None,
            case=case,
            channel=channel,
            custom=command["custom"],
            bodies=command["bodies"],
        )
        if command["files"]:
            registry.use(registry.Registry.load(added=[plugins.from_json(data) for data in command["files"]]))
        if command["phase"] == "memory" and not memory.prepare_allocator() and case.device == "cpu":
            raise memory.Unmeasurable("peak memory is measured with glibc's allocator, which this system lacks")
        if command["memory"] and case.device != "cuda":
            limit_memory(command["memory"])
        if command["cores"]:
            os.sched_setaffinity(0, command["cores"])
        torch.set_num_threads(case.threads or 1)
        apply_settings()
        if case.attention_backend and command["phase"] != "static":
            job.held.enter_context(attention.only(case.attention_backend))
        import_module(str(job.spec.build).rpartition(":")[0])
        if command["phase"] in ("memory", "speed"):
            if command["memory"]:
                job.driver.limit_memory(command["memory"])
            job.build_for_real()
        return job

    @property
    def size(self) -> Size:
        """The case's input size."""
        return self.spec.size(self.case.size)

    @property
    def dtype(self) -> torch.dtype:
        """The case's dtype."""
        found = getattr(torch, self.case.dtype)
        assert isinstance(found, torch.dtype)
        return found

    def build(self) -> nn.Module:
        """Build the model on torch's current default device, in the case's size and dtype, with weights of its seed."""
        return trained.drawn(self.spec, self.case, self.size).to(self.dtype)

    def make_inputs(self, device: torch.device, seeded: bool = True, batch_size: int | None = None) -> data.Inputs:
        """Make one batch of inputs on a device; on the meta device and for shapes alone there is no seed to set."""
        batch_size = self.case.batch_size if batch_size is None else batch_size
        generator = torch.Generator(device).manual_seed(INPUT_SEED) if seeded else None
        make = resolve(str(self.spec.input.make))
        params = self.spec.input_params(self.case.options)
        made: data.Inputs = make(self.size, batch_size, self.dtype, device, generator, **params)
        return made

    @cached_property
    def driver(self) -> Driver:
        """The case's device. Unsupported when it is not there."""
        return driver_of(self.case.device)

    def build_for_real(self) -> None:
        """Build model and inputs on the case's device, ready to be called as the case's mode says."""
        device = self.driver.device
        with device:
            self.module = module = self.build()
        self.inputs = args, kwargs = self.make_inputs(device)
        inference = self.case.mode == "inference"
        module = module.eval().requires_grad_(False) if inference else module.train()
        if self.case.attention_backend:
            attention.check_backend(self.case.attention_backend, lambda: module(*args, **kwargs))
        if not inference:
            self.optimizer = memory.make_optimizer(module, self.optimizer_name)
        self.runnable = self.compile(module)
        self.call = self.call_on(self.inputs)

    def call_on(self, inputs: data.Inputs) -> Call:
        """Return a call of the model on inputs, as the case's mode says."""
        assert self.runnable is not None
        run, (args, kwargs) = self.runnable, inputs
        if self.case.mode != "inference":
            return partial(memory.train_step, run, inputs, self.optimizer)
        # Dynamo takes tensors that are made in inference mode for others, and compiles again.
        without_gradients = torch.inference_mode if self.case.compile is None else torch.no_grad
        return without_gradients()(lambda: run(*args, **kwargs))

    def compile(self, module: nn.Module) -> nn.Module:
        """Return a module compiled as the case says, or as it is. Nothing falls back to eager without an error."""
        if self.case.compile is None:
            return module
        import torch._inductor.config

        torch._dynamo.reset()
        torch._inductor.config.force_disable_caches = True
        # Torch 2.11's compiler breaks its graph where a model asks for this, as FNet and Performer do.
        torch._dynamo.assume_constant_result(torch.amp.is_autocast_available)  # type: ignore[no-untyped-call]
        torch._dynamo.config.suppress_errors = False
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        compiled: nn.Module = torch.compile(module, mode=self.case.compile, dynamic=False)  # type: ignore[assignment]
        return compiled

    @property
    def optimizer_name(self) -> str:
        """The optimiser of the case's mode."""
        return "adamw" if self.case.mode == "training" else "none"

    # static

    def on_meta(self) -> nn.Module:
        """Return the model on the meta device, built once."""
        if self.module is None:
            with meta.on_meta():
                self.module = self.build().eval()
        return self.module

    def count(self) -> Count:
        """Count the forward pass on the meta device, once. Unsupported where there is no one count."""
        if self.spec.data_dependent:
            raise Unsupported(f"no one count: {self.spec.data_dependent}")
        if self.counted is None:
            inputs = self.make_inputs(torch.device("meta"), seeded=False)
            with meta.KnownShapes():
                self.counted = macs.count(self.on_meta(), *inputs, self.custom)
        return self.counted

    def said_of_the_size(self, what: str) -> dict[str, str]:
        """Return what a size other than the default changes in the model, for a footnote."""
        return {"size": what} if what and self.size != self.spec.size() else {}

    def measure(self, metric: str, **given: Any) -> dict[str, Value]:
        """Return a metric that is had in one go; a task yields all of its own. ``given`` is what it depends on."""
        if self.assignment and metric in self.assignment.task.metric_names:
            return self.run_task(**given)
        measured: Value = getattr(self, f"measure_{metric}")(**given)
        return {metric: measured}

    def measure_params(self) -> Value:
        """Parameters, shared ones once."""
        found = params.count(self.on_meta())
        detail = {"by_dtype": found.by_dtype, "buffers": found.buffers, "bytes": found.bytes}
        detail |= self.said_of_the_size(self.spec.sizes.rebuilds)
        return Value(value=found.total, convention="shared once", detail=detail)

    def measure_params_trainable(self) -> Value:
        """Parameters that a gradient reaches."""
        return Value(value=params.count(self.on_meta()).trainable, convention="shared once")

    def measure_macs(self) -> Value:
        """Multiply-accumulates of one sample, with everything that is not in them."""
        count = self.count()
        detail = {
            "by_op": {op: n / self.case.batch_size for op, n in count.by_op.items()},
            "uncounted": [vars(op) for op in count.uncounted],
            "uncounted_at_most": count.at_most_uncounted(),
            "conventions": {name: self.per_sample(count.total(name)) for name in CONVERTIBLE},
            "counter": f"torch {torch.__version__} meta",
            **self.said_of_the_size(self.spec.sizes.pads),
        }
        return Value(value=self.per_sample(count.macs), convention="mac", detail=detail)

    def measure_activations(self) -> Value:
        """Elements that products write for one sample."""
        return Value(value=self.per_sample(self.count().activations), convention="products")

    def measure_tokens(self) -> Value:
        """Tokens that one sample becomes: of a pair the source's."""
        found = self.spec.tokens(self.size, self.case.options)
        if found is None:
            raise memory.Unmeasurable(f"{self.spec.name} does not tell how many tokens an input becomes")
        return Value(value=found)

    def measure_pairs(self) -> Value:
        """Pairs of tokens."""
        return Value(value=int(self.measure_tokens().value or 0) ** 2, convention="all pairs")

    def measure_sequential_operations(self) -> Value:
        """Longest chain of operators of a forward pass, on the meta device."""
        if self.spec.data_dependent:
            raise memory.Unmeasurable(f"the operators are not known before a run: {self.spec.data_dependent}")
        inputs = self.make_inputs(torch.device("meta"), seeded=False)
        return Value(value=dependence.sequential_operations(self.on_meta(), *inputs), convention="longest chain")

    def measure_path_length(self) -> Value:
        """Layers until every token knows of every other, times the chain of operators in one of them."""
        known = registry.installed()
        if self.spec.input.kind != "features" or not known.is_layer(self.spec.name):
            raise memory.Unmeasurable("a path from token to token is that of a layer, and this is a model")
        layer, knobs = known.layer(self.spec.name), self.spec.with_options(self.case.options)
        own = {name: knobs[name] for name in layer.knobs}
        stack = resolve(str(layer.stack)) if layer.stack else lambda level, size, **options: options

        def build(**options: Any) -> nn.Module:
            found: nn.Module = resolve(str(self.spec.build))(self.size.native, **{**knobs, **options})
            return found

        (x,), _ = self.make_inputs(torch.device("cpu"), seeded=True)
        level = dependence.levels(build, lambda depth: stack(depth, self.size.native, **own))
        layers = dependence.layers_to_reach(level, x[:1].double())
        if layers is None:
            raise memory.Unmeasurable("some tokens never hear of some others, however many layers there are")
        chain = self.measure_sequential_operations().value or 0
        return Value(value=layers * int(chain), convention="layers times chain", detail={"layers": layers})

    def measure_flops(self) -> Value:
        """Two FLOPs for each MAC of one sample."""
        return Value(value=self.per_sample(2 * self.count().macs), convention="flop")

    def measure_flops_fft(self) -> Value:
        """FLOPs of the Fourier transforms of one sample, which are no MACs."""
        return Value(value=self.per_sample(self.count().flops_fft), convention="5 n log2 n")

    def measure_uncounted_ops(self) -> Value:
        """How many calls of operators are in no count and may matter."""
        material = [vars(op) for op in self.count().uncounted if op.material]
        return Value(value=sum(op["calls"] for op in material), convention="material", detail={"ops": material})

    def predict_peak(self, device: torch.device) -> predicted_memory.Prediction:
        """Return the peak on a device by fake tensors, and what is in it."""

        def inputs(device: torch.device) -> data.Inputs:
            return self.make_inputs(device, seeded=False)

        if self.case.mode in (None, "inference"):
            return predicted_memory.predict_peak(lambda: self.build().eval(), inputs, self.bodies, device)
        return predicted_memory.predict_training_peak(
            lambda: self.build().train(), inputs, self.optimizer_name, bodies=self.bodies, device=device
        )

    def measure_peak_memory_predicted(self) -> Value:
        """Peak by fake tensors: weights, inputs and what torch would allocate, and what training holds beside it."""
        found = self.predict_peak(torch.device("cpu"))
        detail = {**vars(found), "unseen": [*found.unseen]}
        del detail["peak"]
        return Value(value=found.peak, unit="B", convention="fake tensors", detail=detail)

    def measure_largest_batch_predicted(self, allowed: int) -> Value:
        """Largest batch whose predicted peak is at most ``allowed`` bytes."""
        case = self.case

        def peak(batch: int) -> int:
            self.case = replace(case, batch_size=batch)
            return int(self.measure_peak_memory_predicted().value or 0)

        try:
            found = largest_batch(peak, allowed, least=least_batch(case.mode))
            return Value(value=found, convention="fake tensors")
        finally:
            self.case = case

    def measure_throughput_knee_predicted(self, allowed: int, flops: float, bandwidth: float) -> Value:
        """Smallest power of two whose least time allows what the largest batch's does, and that largest batch."""
        most = int(self.measure_largest_batch_predicted(allowed).value or 0)

        def rate(batch: int) -> float:
            job = replace(self, case=replace(self.case, batch_size=batch), counted=None)
            return batch / float(job.measure_fused_bound(flops, bandwidth).value or 0)

        knee = predicted_knee(rate, most, least_batch(self.case.mode)) if most else 0
        return Value(value=knee, convention="fused bound", detail={"largest": most})

    def measure_fused_bound(self, flops: float, bandwidth: float) -> Value:
        """Least seconds of one call on a machine with these ceilings: of a batch, in the case's mode."""
        inputs, ceilings = self.make_inputs(torch.device("meta"), seeded=False), roofline.Ceilings(flops, bandwidth)
        if self.case.mode in (None, "inference"):
            counts = [self.count()]
        else:
            step = macs.count_step(self.on_meta(), *inputs, self.custom)
            counts = [step.forward, step.backward]
        bound = sum(roofline.bounds(count, ceilings).fused_bound for count in counts)
        work = sum(2 * count.macs + count.flops_fft for count in counts)
        traffic = sum(map(roofline.fused_bytes, counts))
        if self.case.mode == "training":
            updated = ADAMW_TRAFFIC * params.count(self.on_meta()).bytes
            bound, traffic = bound + updated / bandwidth, traffic + updated
        return Value(value=bound, unit="s", detail={"flops": work, "bytes": traffic, "ceilings": vars(ceilings)})

    def per_sample(self, count: int) -> int | float:
        """Share a batch's count among its samples."""
        share = count / self.case.batch_size
        return int(share) if share.is_integer() else share

    # measured

    def measure_fits(self) -> Value:
        """One call: that it returns is all."""
        self.call()
        self.driver.synchronize()
        return Value(value=1)

    def measure_compile_time(self, kept: str | None = None) -> Value:
        """Seconds of the first call less those of a later one, with what the compiler made of the model.

        ``kept`` is a folder with what was compiled of this case before: then they say nothing of compiling.
        """
        if self.case.compile is None:
            raise Unsupported("a model that is run eagerly is not compiled; compile=default would")
        if kept:
            torch._inductor.config.force_disable_caches = False
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = kept
        first, *later = speed.time_calls(self.call, 4, self.driver.synchronize)
        counters = torch._dynamo.utils.counters
        detail = {
            "graphs": counters["stats"]["unique_graphs"],
            "graph_breaks": sum(counters["graph_break"].values()),
            "reasons": [" ".join(reason.split())[:200] for reason in counters["graph_break"]][:8],
            "recompiles": counters["recompiles"].total(),
        }
        if not detail["graphs"]:
            raise Unsupported("the compiler made no graph of it, so it would run eagerly")
        return Value(value=max(0, first - min(later)) / 1e9, unit="s", convention="first call", detail=detail)

    def measure_peak_memory(self) -> Value:
        """Peak: storage of weights, inputs and the optimiser's state, and the high-water mark of a call above them."""
        assert self.module is not None
        if self.case.device == "cuda":
            found = memory.peak_on_device(self.call, self.driver)
            return Value(
                value=found["allocated"],
                unit="B",
                convention="cuda allocator",
                detail={**found, **self.predicted_on_device()},
            )
        transient = memory.measure_peak(self.call)
        held = memory.storage_bytes(self.module, *self.inputs) + memory.state_bytes(self.optimizer)
        detail = {"held": held, "transient": transient}
        return Value(value=held + transient, unit="B", convention="VmHWM", detail=detail)

    def predicted_on_device(self) -> dict[str, int | str]:
        """Return the peak by fake tensors of the case's device, or why there is none, which costs no measurement."""
        if self.case.compile is not None:
            return {"unpredicted": "what the compiler makes of it is not known before"}
        try:
            return {"predicted": self.predict_peak(self.driver.device).peak}
        except Exception as error:
            return {"unpredicted": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}

    def measure_energy(self) -> Value:
        """Joules of one sample, of all that the counter sees; an idle machine's watts are kept beside them."""
        counter = energy.of_gpu(self.driver.gpu) if self.case.device == "cuda" else energy.of_packages()
        calls = speed.calls_per_window(self.call, self.driver.synchronize)
        found = energy.measure(counter, self.call, calls, self.driver.mark)
        batch = self.case.batch_size
        low, high = found.interval
        return Value(
            value=found.joules / batch,
            unit="J",
            interval=(low / batch, high / batch),
            n=energy.WINDOWS,
            convention=counter.name,
            detail=found.detail,
        )

    def measure_host_seconds(self) -> Value:
        """Seconds of a call with a batch of none: Python, torch's dispatcher, and what no sample shares in."""
        if self.case.compile is not None:
            raise Unsupported("another batch is compiled anew")
        inputs = self.make_inputs(self.driver.device, batch_size=0)
        if all(leaf.numel() for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)):
            raise Unsupported("these inputs have no batch of none")
        return Value(value=min(speed.time_calls(self.call_on(inputs), 4, self.driver.synchronize)) / 1e9, unit="s")

    def sample(self, metric: str, count: int) -> dict[str, Any]:
        """Return ``count`` samples in nanoseconds, of ``calls`` calls each, and what the device said meanwhile."""
        call, calls = self.timed(metric)
        before = self.driver.watch()
        times = speed.take(call, count, calls, self.driver)
        after = self.driver.watch()
        return {
            "samples": times.host,
            "calls": calls,
            "device": [*times.device],
            "queued": [*times.queued],
            "watched": [to_json(reading) for reading in (before, after) if reading],
        }

    def timed(self, metric: str) -> tuple[Call, int]:
        """Return what one sample of a metric calls, and how often."""
        if metric == "latency_graph":
            self.replay = self.replay or self.capture()
            return self.replay, 1
        if metric == "latency":
            return self.call, 1
        self.window = self.window or speed.calls_per_window(self.call, self.driver.synchronize)
        return self.call, self.window

    def capture(self) -> Call:
        """Capture the case's call as a CUDA graph, in training with an optimiser that allows it."""
        if self.case.mode == "training":
            assert self.module is not None
            make = partial(memory.make_adamw, **self.driver.capturable)
            self.optimizer = memory.make_optimizer(self.module, make)
            self.call = self.call_on(self.inputs)
        return self.driver.capture(self.call)

    # trained

    def measure_training_macs(self) -> Value:
        """Multiply-accumulates of the whole training that the recipe has a budget for."""
        exam = self.exam(torch.device("cpu"))
        recipe, macs = exam.assignment.recipe, self.per_sample(self.count().macs)
        samples = len(exam.data("train")) if recipe.epochs else recipe.batch_size
        steps = train.Budget.of(recipe, samples, macs).steps
        return Value(value=steps * min(recipe.batch_size, samples) * train.PASSES * macs)

    def run_task(self, checkpoint: str | None = None) -> dict[str, Value]:
        """Train on the task's data at the case's size, evaluate, and return all of the task's metrics."""
        if self.dtype == torch.float64:
            raise Unsupported("training is in float32, or by autocast in bfloat16 or float16")
        exam = self.exam(self.driver.device, Path(checkpoint) if checkpoint else None)
        macs = self.per_sample(self.count().macs) if exam.assignment.recipe.macs else 0.0
        return exam.take(macs)

    def exam(self, device: torch.device, checkpoint: Path | None = None) -> trained.Exam:
        """Return the case with its task on a device; it is kept in ``checkpoint`` while it trains."""
        assert self.assignment is not None
        return trained.Exam(
            self.spec,
            self.case,
            self.assignment,
            device=device,
            dtype=self.dtype,
            checkpoint=checkpoint,
            progress=lambda text: send(self.channel, {"progress": text}),
        )


def measure_ceilings(device: str, dtype: str, threads: int) -> dict[str, float]:
    """Return what this machine does at most. Unsupported when the device is not there."""
    torch.set_num_threads(threads)
    apply_settings()
    return dict(vars(ceilings.measure(driver_of(device), getattr(torch, dtype))))


def apply_settings() -> None:
    """Set what decides a number on every device, and is recorded with the machine."""
    torch.set_float32_matmul_precision(SETTINGS["float32_matmul_precision"])
    torch.backends.cudnn.allow_tf32 = SETTINGS["cudnn_allow_tf32"]
    torch.backends.cudnn.benchmark = SETTINGS["cudnn_benchmark"]


def limit_memory(allowed: int) -> None:
    """Let this process have ``allowed`` bytes more than it has now; an allocation past that fails in the process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limit = int(fields["VmData"].split()[0]) * 1024 + allowed
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
