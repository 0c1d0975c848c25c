"""What is kept: a record a case, with one value a metric, each with a status of its own."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from zoo.case import Case

SCHEMA = 1
# Nanoseconds, by set of processes, member and round.
Samples = tuple[tuple[tuple[tuple[int, ...], ...], ...], ...]
# Raised whenever a metric changes meaning, so that numbers taken before are taken again.
PROTOCOL = 1

Status = Literal["ok", "unsupported", "oom", "timeout", "diverged", "killed", "error"]
# From harmless to grave: a case has the gravest status of its metrics.
FAILURES: tuple[Status, ...] = ("error", "killed", "diverged")  # no results, in which a run ends with 1
STATUSES: tuple[Status, ...] = ("ok", "unsupported", "oom", "timeout", "diverged", "killed", "error")


@dataclass(frozen=True)
class Value:
    """One metric of one case, in SI units; fractions for rates.

    ``interval`` is a 95 % confidence interval, ``n`` the number of samples behind it, ``stop`` why sampling ended,
    ``samples`` integer nanoseconds, ``convention`` how a count was made, ``detail`` what else a reader may ask for.
    A status other than ``ok`` has a ``reason`` and no value.
    """

    status: Status = "ok"
    value: int | float | None = None
    unit: str = "1"
    interval: tuple[float, float] | None = None
    n: int | None = None
    stop: str = ""
    convention: str = ""
    samples: tuple[int, ...] = ()
    reason: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a value that is not a number, or a failure that gives no reason."""
        if self.status == "ok" and (self.value is None or not math.isfinite(self.value)):
            raise ValueError(f"a value must be a finite number, not {self.value!r}")
        if self.status != "ok" and (self.value is not None or not self.reason):
            raise ValueError(f"a metric that is {self.status} has a reason and no value")


@dataclass(frozen=True)
class CaseRecord:
    """What was found out about one case in one go. Later records of the same key add metrics or renew them.

    ``fingerprint`` holds what the numbers depend on besides the case: the hash of the plugin's source, the protocol,
    the versions of torch and timm and, for what is measured, the machine. ``environment`` is the id of a machine
    record. ``conditions`` is what went on while it was timed: the ``cores`` it ran on, how many of all cores ``others``
    kept busy, the share that a host took (``steal``), the ``load``, and how far the same case may have differed from
    itself in that run (``noise``).
    """

    case: Case
    fingerprint: dict[str, str]
    metrics: dict[str, Value]
    plugin: str = ""
    environment: str = ""
    conditions: dict[str, Any] = field(default_factory=dict)
    time: str = ""
    seconds: float | None = None
    schema: int = SCHEMA
    kind: Literal["case"] = "case"

    @property
    def key(self) -> str:
        """The id of the case and the fingerprint, hashed."""
        return digest({"id": self.case.id, "fingerprint": self.fingerprint})

    @property
    def status(self) -> Status:
        """The gravest status of its metrics."""
        return gravest(v.status for v in self.metrics.values())


@dataclass(frozen=True)
class ComparisonRecord:
    """Two cases measured side by side, in one block of processes: how much longer ``b`` takes than ``a``.

    ``ratio`` is of seconds, below 1 where b is faster, with a 95 % ``interval`` that holds the variation between
    processes. ``noise`` is the ratio of ``a`` to itself in the same block, ``margin`` what a difference must pass.
    ``protocol`` is ``interleaved``, or ``sequential`` where not all fitted in memory at once. ``samples`` are
    those of a, of b and of a once more: by set of processes, member and round, integer nanoseconds of ``calls`` calls;
    of a suite's blocks only the median of each round.
    ``watched`` is what a GPU told meanwhile, by set and member.
    """

    a: Case
    b: Case
    metric: str
    status: Status = "ok"
    reason: str = ""
    ratio: float | None = None
    interval: tuple[float, float] | None = None
    verdict: str = ""
    margin: float | None = None
    noise: float | None = None
    noise_interval: tuple[float, float] | None = None
    seconds_a: float | None = None
    seconds_b: float | None = None
    processes: int = 0
    rounds: int = 0
    stop: str = ""
    protocol: str = "interleaved"
    calls: tuple[tuple[int, ...], ...] = ()
    samples: Samples = ()
    watched: tuple[tuple[dict[str, Any], ...], ...] = ()
    fingerprint: dict[str, dict[str, str]] = field(default_factory=dict)
    environment: str = ""
    conditions: dict[str, Any] = field(default_factory=dict)
    time: str = ""
    seconds: float | None = None
    schema: int = SCHEMA
    kind: Literal["comparison"] = "comparison"

    @property
    def id(self) -> str:
        """Both cases and the metric, as one line."""
        return f"{self.metric}: {self.a.id} | {self.b.id}"


@dataclass(frozen=True)
class MachineRecord:
    """The machine and the versions that records refer to by ``id``."""

    slug: str
    environment: dict[str, Any]
    time: str = ""
    schema: int = SCHEMA
    kind: Literal["machine"] = "machine"

    @property
    def id(self) -> str:
        """A hash of everything but the time."""
        return digest({"slug": self.slug, "environment": self.environment})


def digest(data: Any) -> str:
    """Return a short hash of JSON data."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def gravest(statuses: Any) -> Status:
    """Return the gravest of some statuses, ``ok`` for none."""
    return max(statuses, key=STATUSES.index, default="ok")
