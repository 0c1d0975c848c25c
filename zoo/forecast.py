"""What a run would take: predicted memory of each case, and a rough time, before anything is run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from zoo import jsonio
from zoo.comparison import Effort
from zoo.metrics import METRICS, energy, follows, is_timed
from zoo.metrics.batch import PROBES
from zoo.plan import Plan, Work
from zoo.pool import Died, Pool, Worker
from zoo.record import Value
from zoo.registry import Registry
from zoo.sampling import SAMPLING, STATIC_SECONDS, WARM_UP
from zoo.session import PREDICTED, allowed_memory, beside_seconds
from zoo.store import Store

# Sustained FLOP/s of one core and of a GPU, in halves and in wider numbers, and the seconds that a worker takes to
# start and build a model, and to compile one: rough, and used only for a case that was never run here.
FLOPS_PER_CORE = 30e9
FLOPS_ON_GPU, WIDE_FLOPS_ON_GPU = 200e12, 25e12
HALVES = ("bfloat16", "float16")
START_SECONDS = {"cpu": 0.5, "cuda": 3.0}
COMPILE_SECONDS = 30.0
TRAINING = "training_macs"


@dataclass(frozen=True)
class Forecast:
    """What one case may take. ``source`` is ``measured before`` or ``rough``; ``problem`` is why it will not run."""

    work: Work
    seconds: float
    source: str
    memory: int | None
    problem: str = ""


def forecasts(plan: Plan, registry: Registry, store: Store) -> Iterator[Forecast]:
    """Yield a forecast for every case of a plan, in order. Models are built on the meta device only."""
    pool = Pool()
    try:
        for work in plan.work:
            yield forecast(work, registry, store, pool)
    finally:
        pool.close()


def forecast(work: Work, registry: Registry, store: Store, pool: Pool) -> Forecast:
    """Predict one case: its memory by fake tensors, its time from the last run here or from its MACs."""
    if work.planned.illegal:
        return Forecast(work, 0.0, "rough", None, f"unsupported: {work.planned.illegal}")
    values, problem = static_values(work, registry, pool)
    memory = values[PREDICTED].value if PREDICTED in values else None
    on_cpu, limits = work.planned.case.device == "cpu", work.planned.limits
    too_much = on_cpu and memory is not None and memory > allowed_memory(limits, "cpu")
    problem = "oom: predicted to need more memory than is allowed" if too_much else problem
    before = seconds_before(work, store)
    seconds = before if before is not None else rough_seconds(work, values)
    source = "rough" if before is None else "measured before"
    return Forecast(work, min(seconds, work.planned.limits.time), source, int(memory) if memory else None, problem)


def static_values(work: Work, registry: Registry, pool: Pool) -> tuple[dict[str, Value], str]:
    """Return the MACs of a case and its training and its predicted memory, and why its task will not run.

    What cannot be had is left out. Data are read only to know how long an epoch is.
    """
    case, found, problem = work.planned.case, {}, ""
    spec = registry.model(case.model)
    try:
        worker = Worker(pool.server(case.threads or 1, spec), lambda _: None)
    except Died:
        return {}, ""
    try:
        deadline = time.monotonic() + STATIC_SECONDS
        worker.prepare("static", spec, work.planned.assignment, case, 0, deadline, registry.for_workers)
        for metric in ("macs", PREDICTED):
            found[metric] = ask(worker, metric, deadline)
        if work.wanted["task"]:
            try:
                found[TRAINING] = ask(worker, TRAINING, deadline)
            except Died as died:
                problem = f"{died.status}: {died.reason}"
    except Died:
        pass
    finally:
        worker.close()
    return found, problem


def ask(worker: Worker, metric: str, deadline: float) -> Value:
    """Return a metric that a worker works out. Died when it cannot."""
    reply = worker.ask({"do": "measure", "metric": metric}, deadline)
    return jsonio.from_json(Value, reply["values"][metric])


def seconds_before(work: Work, store: Store) -> float | None:
    """Return the seconds that the same phases took when they were last run on this machine, None if one never was."""
    total = 0.0
    for phase, metrics in work.wanted.items():
        for metric in metrics[:1]:
            kept = store.newest.get((work.planned.case.for_phase(phase).id, metric))
            if kept is None or kept.seconds is None:
                return None
            total += kept.seconds
    return total


def rough_seconds(work: Work, values: Mapping[str, Value]) -> float:
    """Estimate a case from its MACs: building it, the budget of each sampled metric, and training."""
    case = work.planned.case
    macs, training = (float(values[name].value or 0) if name in values else 0.0 for name in ("macs", TRAINING))
    passes = 1 if case.mode == "inference" else 3
    on_gpu = FLOPS_ON_GPU if case.dtype in HALVES else WIDE_FLOPS_ON_GPU
    flops = on_gpu if case.device == "cuda" else FLOPS_PER_CORE * (case.threads or 1)
    call = passes * 2 * macs * case.batch_size / flops
    start = START_SECONDS[case.device or "cpu"]
    seconds = start + (COMPILE_SECONDS if case.compile and work.wanted["speed"] else 0.0)
    beside = {METRICS[m].ratio_of or m for m in work.wanted["speed"] if is_timed(m)} if work.block else set()
    seconds += len(beside) * (beside_seconds(work.planned.limits) + Effort().processes * start)
    for metric in work.wanted["speed"]:
        if metric not in beside and not follows(metric):
            seconds += start + metric_seconds(metric, call, start)
    if work.wanted["memory"]:
        seconds += start + 4 * call
    if work.wanted["task"] and work.planned.assignment:
        seconds += work.planned.assignment.recipe.seconds + 2 * training / flops
    return seconds


def metric_seconds(metric: str, call: float, start: float) -> float:
    """Estimate what a metric of the speed phase takes, of a case whose call takes ``call`` seconds."""
    if metric == "energy":
        return max(energy.SECONDS, energy.WINDOWS * call)
    sampling = max(WARM_UP.budget, 2 * call) + max(SAMPLING.budget, SAMPLING.min_samples * call)
    return PROBES * (start + sampling) if METRICS[metric].probed else sampling
