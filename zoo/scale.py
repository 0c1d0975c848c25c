"""Scaling: what models and layers cost over a range of sizes, as laws, with where one overtakes another.

Sizes are measured as a suite's are, so that what is kept is not measured again; a size that fails is a point with a
status. n is the number of tokens that a size becomes.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo import runner, scaling
from zoo.case import Case
from zoo.comparison import Effort
from zoo.cost import Term
from zoo.errors import BadSize, BadSpec, ZooError
from zoo.laws import ARITHMETIC, COUNTS, MEASURED, Curve, Point, terms_of_time, with_count_law, with_law
from zoo.metrics import METRICS, is_timed
from zoo.plan import phase_of
from zoo.progress import Reporter
from zoo.record import ComparisonRecord, Value
from zoo.registry import Registry
from zoo.scaling import Broken, Crossing, Estimate, Law
from zoo.schema import Limits, Suite
from zoo.spec import ModelSpec, Scalar, Size, read_layer
from zoo.store import Results, Store
from zoo.suite import SuiteFile

# Axes that tell two curves of one model apart, beside its options.
VARYING = ("batch_size", "dtype", "device", "mode", "threads", "compile", "attention_backend")
POINTS = 40  # sizes of a range at most


@dataclass(frozen=True)
class Crossover:
    """Where one curve passes another, as their laws predict it, and a paired measurement there, if one was made.

    ``first`` costs less below, ``second`` above. ``at`` is the size that was measured, ``confirmed`` where the ratio
    found there puts the crossover, with its interval.
    """

    metric: str
    first: str
    second: str
    predicted: Crossing
    at: str = ""
    measured: ComparisonRecord | None = None
    confirmed: Estimate | None = None


@dataclass(frozen=True)
class Overtaking:
    """Where the terms of one law that grow faster pass all the slower ones together."""

    model: str
    metric: str
    term: Term
    predicted: Crossing


@dataclass(frozen=True)
class Room:
    """The largest size of a model within a limit: as the law says, with its interval, and the nearest legal below."""

    model: str
    metric: str
    limit: float
    size: Crossing | None
    legal: str = ""


@dataclass(frozen=True)
class Scaling:
    """All that was found: curves, crossovers between models and within laws, and what fits."""

    curves: tuple[Curve, ...]
    crossovers: tuple[Crossover, ...] = ()
    overtakings: tuple[Overtaking, ...] = ()
    rooms: tuple[Room, ...] = ()


@dataclass(frozen=True)
class Subject:
    """A model or layer with options of its own; what its curves are called is what was asked for."""

    label: str
    spec: ModelSpec
    options: Mapping[str, Scalar] = field(default_factory=dict)


Subjects = Mapping[str, Subject]


@dataclass(frozen=True)
class Question:
    """What is asked for: models or layers, sizes (``256..16384``, ``256..16384:13`` or ``256,512``), and metrics.

    A name may have options, as in ``self_attention:heads=8``. ``axes`` gives other axes a value each. ``limits`` are
    metrics with a number that they may reach: what fits then.
    """

    names: Sequence[str]
    sizes: str
    metrics: Sequence[str] = ("macs", "peak_memory_predicted", "latency")
    axes: Mapping[str, list[Scalar]] = field(default_factory=dict)
    plugins: Sequence[str] = ()
    out: str | Path = "runs"
    limits: Mapping[str, float] = field(default_factory=dict)
    confirm: bool = True
    retry: bool = False
    fresh: bool = False
    time: float = 120.0
    effort: Effort = field(default_factory=Effort)

    def knobs(self, subject: Subject) -> dict[str, Scalar]:
        """Return a model's options, with what the other axes and its own say of them."""
        shared = {name: values[0] for name, values in self.axes.items() if name in subject.spec.knobs}
        return subject.spec.with_options({**shared, **subject.options})


# -- sizes ---------------------------------------------------------------------------------------------------


def read_sizes(text: str) -> tuple[list[str], bool]:
    """Return the sizes of a list, or those of a range: doubling, or so many even steps of its logarithm.

    The flag says that it is a range, of which each model takes its nearest legal sizes. BadSize for anything else.
    """
    found = re.fullmatch(r"(\d{1,9})\.\.(\d{1,9})(px|tok)?(?::(\d{1,3}))?", text.strip())
    if not found:
        sizes = [part.strip() for part in text.split(",") if part.strip()]
        for size in sizes:
            Size.parse(size, "tok")
        if not sizes:
            raise BadSize("no sizes are given; expected a range such as 256..16384, or a list such as 256,512")
        return sizes, False
    low, high, unit = int(found[1]), int(found[2]), found[3] or ""
    if not 0 < low < high:
        raise BadSize(f"{text!r} is no range of sizes; expected the smaller one first, as in 256..16384")
    count = int(found[4]) if found[4] else math.floor(math.log2(high / low)) + 1
    if not 2 <= count <= POINTS:
        raise BadSize(f"{text!r} has {count} sizes; expected 2 to {POINTS}")
    if found[4]:
        steps = [low * (high / low) ** (i / (count - 1)) for i in range(count)]
    else:
        steps = [float(low << i) for i in range(count)]
        steps += [float(high)] if steps[-1] < high else []
    return [f"{round(step)}{unit}" for step in steps], True


def sizes_for(spec: ModelSpec, sizes: Sequence[str], nearest: bool, knobs: Mapping[str, Scalar]) -> list[str]:
    """Return the sizes that a model is measured at: as given, or the legal ones that lie nearest, each once."""
    asked = [spec.size(size) for size in sizes]
    if not nearest:
        return [str(size) for size in asked]
    found = [Size((spec.sizes.nearest(size.values[0], knobs)[0],), size.unit) for size in asked]
    return list(dict.fromkeys(map(str, found)))


def tokens_of(spec: ModelSpec, case: Case) -> int:
    """Return the tokens that a case's size becomes, and its pixels where the model does not tell."""
    size = spec.size(case.size)
    return spec.tokens(size, case.options) or math.prod(size.pair)


# -- measuring -----------------------------------------------------------------------------------------------


def scale(question: Question, reporter: Reporter) -> Scaling:
    """Measure models over sizes and return what they scale like. ZooError for bad input."""
    known = (*COUNTS, *MEASURED)
    for metric in question.metrics:
        if metric not in known:
            raise ZooError(f"{metric!r} does not scale; expected metrics of {', '.join(known)}")
    registry = Registry.load(question.plugins)
    subjects = {one.label: one for asked in question.names for one in subjects_of(asked, registry)}
    file = suite_of(question, subjects)
    request = runner.Request(
        file, axes=question.axes, plugins=question.plugins, out=question.out, retry=question.retry, fresh=question.fresh
    )
    outcome = runner.run_request(request, reporter)
    curves = tuple(read_curves(question, subjects, outcome))
    crossed = tuple(found_crossovers(curves))
    if question.confirm:
        crossed = tuple(confirmed(one, question, subjects, curves, reporter) for one in crossed)
    return Scaling(curves, crossed, tuple(overtakings(curves)), tuple(rooms(question, subjects, curves)))


def subjects_of(asked: str, registry: Registry) -> Iterator[Subject]:
    """Yield the models that a name or a glob stands for, with the options behind it."""
    name, options = read_layer(asked)
    for found in registry.match_models(name):
        yield Subject(found + asked.removeprefix(name), registry.model(found), options)


def suite_of(question: Question, subjects: Subjects) -> SuiteFile:
    """Return a suite of one group a model. BadSize or BadSpec when a size or an option is none of a model's."""
    sizes, nearest = read_sizes(question.sizes)
    metrics = list(dict.fromkeys([*ARITHMETIC, *question.metrics]))
    for name, values in question.axes.items():
        if len(values) != 1 or name == "size":
            raise BadSpec(f"--set {name}: scaling takes one value of every other axis; sizes are given with --sizes")
    groups = [
        {
            "models": [{"name": one.spec.name, "options": dict(one.options)}],
            "axes": {"size": [*sizes_for(one.spec, sizes, nearest, question.knobs(one))]},
            "metrics": metrics,
            "limits": Limits(time=question.time),
        }
        for one in subjects.values()
    ]
    return SuiteFile("scale", Path("zoo scale"), Suite.model_validate({"schema": 1, "groups": groups}), {})


def read_curves(question: Question, subjects: Subjects, outcome: runner.Outcome) -> Iterator[Curve]:
    """Yield a curve of each model and metric, from what is kept."""
    store = Store(outcome.folder, outcome.plan.machine).read()
    for one in subjects.values():
        mine = [item.case for item in outcome.items if item.case.model == one.spec.name]
        cases = [case for case in mine if one.spec.with_options(case.options) == question.knobs(one)]
        counted = {metric: curve_of(one, cases, metric, store, ()) for metric in ARITHMETIC}
        for metric in dict.fromkeys(question.metrics):
            yield counted.get(metric) or curve_of(one, cases, metric, store, terms_of_time(counted.values()))


def curve_of(subject: Subject, cases: Sequence[Case], metric: str, store: Store, terms: Sequence[Term]) -> Curve:
    """Return one curve with its law; ``terms`` are those that a measured one may have."""
    points = []
    for case in cases:
        kept = store.newest.get((case.for_phase(phase_of(metric)).id, metric))
        if kept is not None:
            points.append(Point(case.size, tokens_of(subject.spec, case), kept.metrics[metric]))
    points.sort(key=lambda point: point.n)
    curve = Curve(subject.label, metric, tuple(points))
    return with_count_law(curve) if metric in COUNTS else with_law(curve, terms)


def kept(results: Results, registry: Registry) -> Scaling:
    """Return what records tell without measuring anything: a curve of each model, its other axes, and metric.

    Axes that vary are in the curve's name. Models, sizes and options that are registered no longer have none.
    """
    found: dict[str, dict[str, dict[str, tuple[Case, Value]]]] = {}
    cases: dict[str, Case] = {}
    for record in results.records:
        for metric, value in record.metrics.items():
            case = replace(record.case, size="")
            key = f"{case.id} {record.environment}"
            cases[key] = case
            found.setdefault(key, {}).setdefault(metric, {})[record.case.size] = (record.case, value)
    axes = {name for name in VARYING if len({getattr(case, name) for case in cases.values()} - {None}) > 1}
    machines = {key.rpartition(" ")[2] for key in found if key.rpartition(" ")[2]}
    curves: list[Curve] = []
    for key, of_model in found.items():
        case = cases[key]
        shared = f"{replace(case.for_phase('static'), size='').id} "
        counted = found.get(shared, {}) if key != shared else {}
        parts = [*(f"{k} {v}" for k, v in case.options.items())]
        parts += [f"{a} {getattr(case, a)}" for a in sorted(axes) if getattr(case, a) is not None]
        parts += [key.rpartition(" ")[2]] if len(machines) > 1 and key.rpartition(" ")[2] else []
        name = ", ".join([case.model, *parts])
        with contextlib.suppress(ZooError):
            curves += kept_curves(name, of_model, counted, registry)
    confirmed = [with_comparison(c, results.comparisons) for c in found_crossovers(curves)]
    return Scaling(tuple(curves), tuple(confirmed), tuple(overtakings(curves)))


def kept_curves(
    name: str,
    of_model: Mapping[str, Mapping[str, tuple[Case, Value]]],
    counted: Mapping[str, Mapping[str, tuple[Case, Value]]],
    registry: Registry,
) -> list[Curve]:
    """Return the curves of one model's records, by metric; ``counted`` are its counts, which say what a time may be."""
    made: dict[str, Curve] = {}
    for metric, values in {**counted, **of_model}.items():
        if metric in (*COUNTS, *MEASURED) and len(values) > 1:
            points = [
                Point(size, tokens_of(registry.model(case.model), case), value)
                for size, (case, value) in values.items()
            ]
            made[metric] = Curve(name, metric, tuple(sorted(points, key=lambda p: p.n)))
    laws = {metric: with_count_law(curve) for metric, curve in made.items() if metric in COUNTS}
    terms = terms_of_time(laws[metric] for metric in ARITHMETIC if metric in laws)
    return [laws[m] if m in laws else with_law(curve, terms) for m, curve in made.items() if m in of_model]


def with_comparison(one: Crossover, comparisons: Sequence[ComparisonRecord]) -> Crossover:
    """Return a crossover with the newest comparison of its two models near it, if there is one."""
    for found in reversed(comparisons):
        if (found.a.model, found.b.model, found.metric) == (one.first, one.second, one.metric):
            return replace(one, at=found.a.size, measured=found)
    return one


# -- crossovers ----------------------------------------------------------------------------------------------


def found_crossovers(curves: Sequence[Curve]) -> Iterator[Crossover]:
    """Yield where the laws of two models cross, by metric."""
    for a, b in itertools.combinations(curves, 2):
        if a.metric == b.metric and a.law and b.law:
            for crossing in crossings(a.law, b.law):
                n = crossing.size.value
                below = a.law(n / 1.01) < b.law(n / 1.01)
                yield Crossover(a.metric, *((a.model, b.model) if below else (b.model, a.model)), crossing)


def crossings(a: Broken, b: Broken) -> Iterator[Crossing]:
    """Yield the crossings of each two pieces of two laws, where both pieces hold."""
    for first, of_first in pieces(a):
        for second, of_second in pieces(b):
            low, high = max(of_first[0], of_second[0]), min(of_first[1], of_second[1])
            yield from (c for c in scaling.crossover(first, second) if low <= c.size.value <= high)


def pieces(law: Broken) -> Iterator[tuple[Law, tuple[float, float]]]:
    """Yield each law of several, and between which sizes it holds."""
    ends = [0.0, *(math.sqrt(low * high) for low, high in law.breaks), math.inf]
    yield from zip(law.laws, itertools.pairwise(ends), strict=True)


def overtakings(curves: Sequence[Curve]) -> Iterator[Overtaking]:
    """Yield where the leading term of each law passes the others."""
    for curve in curves:
        law = curve.law.last if curve.law else None
        if law is None or len(law.terms) < 2:
            continue
        lead = law.terms.index(law.leading()[0])
        if lead and scaling.growth(law.terms[lead]) > (1, 0):
            crossing = law.overtakes(range(lead), [lead])
            if crossing:
                yield Overtaking(curve.model, curve.metric, law.terms[lead], crossing)


def confirmed(
    found: Crossover, question: Question, subjects: Subjects, curves: Sequence[Curve], reporter: Reporter
) -> Crossover:
    """Return a crossover of times with a paired measurement at its size.

    Where both costs follow their laws' local exponents, a ratio that is not 1 there says how far away it is.
    """
    if not is_timed(found.metric) or METRICS[found.metric].ratio_of or not found.predicted.inside:
        return found
    laws = {c.model: c for c in curves if c.metric == found.metric}
    both = (subjects[found.first], subjects[found.second])
    size = nearest_of_both(question, both, found.predicted.size.value)
    if not size:
        return found
    axes: dict[str, list[Scalar]] = {**question.axes, "size": [size]}
    versus = runner.Versus(
        found.first, found.second, found.metric, axes, question.plugins, Limits(time=question.time), question.effort
    )
    record, machine = runner.compare(versus, reporter)
    with Store(Path(question.out) / "scale", machine.slug) as store:
        store.append(machine)
        store.append(record)
    if record.ratio is None or record.interval is None:
        return replace(found, at=size, measured=record)
    n = float(tokens_of(both[0].spec, record.a))
    steeper = [law.last.exponent(n).value for law in (laws[found.second].law, laws[found.first].law) if law]
    apart = steeper[1] - steeper[0]
    if apart <= 0:
        return replace(found, at=size, measured=record)
    places = [n * ratio ** (1 / apart) for ratio in (record.ratio, *record.interval)]
    return replace(found, at=size, measured=record, confirmed=Estimate(places[0], (places[1], places[2])))


def nearest_of_both(question: Question, both: tuple[Subject, Subject], n: float) -> str:
    """Return the legal size of both models that is nearest to n tokens; empty where sizes are no tokens or differ."""
    if {one.spec.input.axis for one in both} != {"sequence_length"}:
        return ""
    size = round(n)
    for _ in range(8):
        for one in both:
            size = one.spec.sizes.nearest(size, question.knobs(one))[0]
        if all(size in one.spec.sizes.nearest(size, question.knobs(one)) for one in both):
            return f"{size}tok"
    return ""


# -- what fits -----------------------------------------------------------------------------------------------


def rooms(question: Question, subjects: Subjects, curves: Sequence[Curve]) -> Iterator[Room]:
    """Yield the largest size of each model within each limit."""
    for curve in curves:
        limit = question.limits.get(curve.metric)
        if limit is None or curve.law is None:
            continue
        crossing = curve.law.last.within(limit)
        yield Room(curve.model, curve.metric, limit, crossing, largest_legal(question, subjects[curve.model], crossing))


def largest_legal(question: Question, subject: Subject, crossing: Crossing | None) -> str:
    """Return the largest legal size at or below a crossing."""
    if crossing is None or subject.spec.input.axis != "sequence_length":
        return ""
    near = subject.spec.sizes.nearest(int(crossing.size.value), question.knobs(subject))
    below = [size for size in near if size <= crossing.size.value]
    return f"{max(below)}tok" if below else ""


def to_json(found: Scaling) -> dict[str, Any]:
    """Return what was found for programs: values in SI units."""
    return {
        "curves": [curve_json(curve) for curve in found.curves],
        "crossovers": [
            {
                "metric": c.metric,
                "below": c.first,
                "above": c.second,
                "tokens": estimate_json(c.predicted.size),
                "inside": c.predicted.inside,
                "measured_at": c.at,
                "ratio": c.measured and c.measured.ratio,
                "ratio_interval": c.measured and c.measured.interval,
                "confirmed": c.confirmed and estimate_json(c.confirmed),
            }
            for c in found.crossovers
        ],
        "overtakings": [
            {"model": o.model, "metric": o.metric, "term": str(o.term), "tokens": estimate_json(o.predicted.size)}
            for o in found.overtakings
        ],
        "what_fits": [
            {
                "model": r.model,
                "metric": r.metric,
                "limit": r.limit,
                "tokens": r.size and estimate_json(r.size.size),
                "largest": r.legal,
            }
            for r in found.rooms
        ],
    }


def curve_json(curve: Curve) -> dict[str, Any]:
    """Return a curve for programs."""
    points = [
        {
            "size": p.size,
            "tokens": p.n,
            "value": p.value.value,
            "interval": p.value.interval,
            "status": p.value.status,
            "reason": p.value.reason,
        }
        for p in curve.points
    ]
    data: dict[str, Any] = {"model": curve.model, "metric": curve.metric, "points": points, "problem": curve.problem}
    if curve.law is None:
        return data
    last = curve.law.last
    return data | {
        "exact": curve.exact,
        "terms": [
            {"term": str(term), **estimate_json(last.coefficient(index))} for index, term in enumerate(last.terms)
        ],
        "exponents": [{"tokens": n, **estimate_json(last.exponent(n))} for n in last.sizes],
        "leading": str(last.leading()[0]),
        "breaks": [list(between) for between in curve.law.breaks],
        "left_out": curve.left_out,
        "notes": list(curve.notes),
    }


def estimate_json(found: Estimate) -> dict[str, Any]:
    """Return a number and its interval."""
    return {"value": found.value, "interval": found.interval and list(found.interval)}
