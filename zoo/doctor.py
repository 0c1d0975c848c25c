"""What would spoil a measurement on this machine: each finding with its cure, and how to see that it is gone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from zoo import environment
from zoo.conditions import MUCH_BUSY, MUCH_STEAL, WORKING, read_ticks
from zoo.metrics import energy
from zoo.nvml import Gpu

Status = Literal["ok", "finding", "unknown"]

LITTLE_MEMORY = 2 * 2**30
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# Counts that are known by hand, of operators that counters have been seen to miss: on the meta device, 32 tokens.
COUNTER_TEST = """
import json, torch
from torch import nn
from zoo.metrics import macs
def count(module, *shapes):
    with torch.device("meta"):
        return macs.count(module, [torch.empty(s) for s in shapes]).macs
class Attention(nn.Module):
    def forward(self, x):
        return nn.functional.scaled_dot_product_attention(x, x, x)
with torch.device("meta"):
    layer, conv, lstm = nn.TransformerEncoderLayer(64, 4, 256), nn.Conv2d(8, 8, 3, groups=4), nn.LSTM(16, 16)
found = {
    "scaled_dot_product_attention": (count(Attention(), (1, 2, 32, 8)), 2 * 2 * 32 * 32 * 8),
    "TransformerEncoderLayer": (count(layer, (32, 1, 64)), 32 * (4 * 64 * 64 + 2 * 64 * 256) + 2 * 32 * 32 * 64),
    "Conv2d in groups": (count(conv, (1, 8, 10, 10)), 8 * 8 * 8 * 2 * 9),
    "LSTM": (count(lstm, (32, 1, 16)), 32 * 4 * 2 * 16 * 16),
}
print(json.dumps({name: pair for name, pair in found.items() if pair[0] != pair[1]}))
"""


@dataclass(frozen=True)
class Finding:
    """The outcome of one check. ``cure`` is what to do, ``seen`` the command that shows it gone."""

    check: str
    status: Status
    found: str
    cure: str = ""
    seen: str = ""


@dataclass(frozen=True)
class System:
    """Where the checks look; a test gives another."""

    root: Path = Path("/")
    variables: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    cores: int = field(default_factory=environment.usable_cores)
    versions: Mapping[str, str] = field(default_factory=environment.versions)
    gpu: Gpu | None = field(default_factory=Gpu.first)
    seconds: float = 1.0  # to watch the machine for

    def read(self, path: str) -> str | None:
        """Return the text of a system file, None where there is none."""
        try:
            return (self.root / path).read_text()
        except OSError:
            return None

    def requirements(self, distribution: str) -> list[str]:
        """Return what a distribution requires."""
        try:
            return importlib.metadata.requires(distribution) or []
        except importlib.metadata.PackageNotFoundError:
            return []

    def providers(self, name: str) -> list[str]:
        """Return the distributions that install a package of that name, and files that are found before ours."""
        owners = importlib.metadata.packages_distributions().get(name, [])
        first = next(
            (Path(p or ".") / name for p in sys.path if (Path(p or ".") / name / "__init__.py").exists()), None
        )
        ours = Path(__file__).resolve().parent
        shadow = [] if first is None or first.resolve() == ours else [str(first)]
        return [owner for owner in dict.fromkeys(owners) if owner != "attention-zoo"] + shadow

    def python(self, code: str) -> tuple[int, str]:
        """Run Python code in a process of its own; return its exit code, and the last line that it printed."""
        command = [sys.executable, "-P", "-W", "ignore", "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        return done.returncode, lines[-1] if lines else ""


Check = Callable[[System], Iterable[Finding]]


def diagnose(system: System | None = None) -> Iterator[Finding]:
    """Yield the outcome of every check."""
    system = system or System()
    for check in CHECKS:
        yield from check(system)


# -- the processor -------------------------------------------------------------------------------------------


def threads(system: System) -> Iterator[Finding]:
    """Thread counts that other tools will take from the environment: more threads than cores fight each other."""
    wrong = {name: system.variables[name] for name in THREAD_VARIABLES if system.variables.get(name)}
    wrong = {name: value for name, value in wrong.items() if not value.isdigit() or int(value) > system.cores}
    if wrong:
        said = ", ".join(f"{name}={value}" for name, value in wrong.items())
        yield Finding(
            "threads",
            "finding",
            f"{said}, and this process may use {system.cores} cores; zoo sets threads itself, what runs beside it not",
            f"unset {' '.join(wrong)}",
            "env | grep NUM_THREADS",
        )
    else:
        yield Finding("threads", "ok", f"{system.cores} cores, and no variable asks for more threads")


def governor(system: System) -> Iterator[Finding]:
    """The kernel's policy for the clock: any but ``performance`` lets it follow the load."""
    base = system.root / "sys/devices/system/cpu"
    found = {file.read_text().strip() for file in sorted(base.glob("cpu[0-9]*/cpufreq/scaling_governor"))}
    if not found:
        yield Finding(
            "governor", "unknown", "the kernel does not say how it sets the clock, as in most virtual machines"
        )
    elif found == {"performance"}:
        yield Finding("governor", "ok", "performance")
    else:
        yield Finding(
            "governor",
            "finding",
            f"the clock follows the load: {', '.join(sorted(found))}",
            "sudo cpupower frequency-set -g performance",
            "cat /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
        )


def others(system: System) -> Iterator[Finding]:
    """Time that other processes, or other guests of the same host, take of the cores while we watch."""
    before, started = read_ticks(system.read("proc/stat") or "").get(None), os.times()
    time.sleep(system.seconds)
    after, ended = read_ticks(system.read("proc/stat") or "").get(None), os.times()
    if before is None or after is None:
        yield Finding("other processes", "unknown", "the kernel does not say what the cores do")
        return
    ticks = os.sysconf("SC_CLK_TCK")
    own = (ended.user + ended.system - started.user - started.system) * ticks
    total = max(1, sum(after.values()) - sum(before.values()))
    busy = sum(after[k] - before[k] for k in WORKING) - own
    # In cores: of all ticks that went by, times how many cores those were of.
    cores = total / max(1, system.seconds * ticks)
    share, steal = max(0.0, busy) / total * cores, (after["steal"] - before["steal"]) / total
    if share > MUCH_BUSY:
        yield Finding(
            "other processes",
            "finding",
            f"they keep {share:.1f} of {system.cores} cores busy",
            "end them, or compare side by side with zoo compare, where what disturbs both cancels",
            "top -b -n 1 | head -15",
        )
    else:
        yield Finding("other processes", "ok", f"they keep {share:.1f} of {system.cores} cores busy")
    if steal > MUCH_STEAL:
        yield Finding(
            "steal",
            "finding",
            f"the host takes {steal:.0%} of the cores' time for others",
            "take a machine whose cores are not shared, or compare side by side with zoo compare",
            "vmstat 1 5, column st",
        )
    else:
        yield Finding("steal", "ok", f"the host takes {steal:.1%} of the cores' time for others")


def memory(system: System) -> Iterator[Finding]:
    """Memory that is free, and whether its peak can be measured."""
    text = system.read("proc/meminfo") or ""
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines() if line.endswith("kB")}
    if "MemAvailable" not in sizes:
        yield Finding("memory", "unknown", "the kernel does not say how much is free")
        return
    free, swapped = sizes["MemAvailable"], sizes.get("SwapTotal", 0) - sizes.get("SwapFree", 0)
    said = f"{free / 2**30:.1f} GiB free" + (f", {swapped / 2**30:.1f} GiB swapped out" if swapped > 2**28 else "")
    if free < LITTLE_MEMORY or swapped > 2**28:
        yield Finding("memory", "finding", said, "end what holds it: swapping is timed too", "free -h")
    else:
        yield Finding("memory", "ok", said)


# -- the GPU -------------------------------------------------------------------------------------------------


def gpu(system: System) -> Iterator[Finding]:
    """Other processes on the GPU, and what holds its clock down."""
    if system.gpu is None:
        yield Finding("GPU", "unknown", "no NVIDIA GPU, or no driver that answers")
        return
    foreign, throttling = system.gpu.foreign(), system.gpu.throttling()
    if foreign is None:
        yield Finding("GPU processes", "unknown", "the driver does not say who else computes on the GPU")
    elif foreign:
        yield Finding(
            "GPU processes",
            "finding",
            f"others compute on the GPU: {', '.join(map(str, foreign))}",
            f"end them: kill {' '.join(map(str, foreign))}",
            "nvidia-smi --query-compute-apps=pid,used_memory --format=csv",
        )
    else:
        yield Finding("GPU processes", "ok", "nobody else computes on the GPU")
    if throttling is None:
        yield Finding("GPU clock", "unknown", "the driver does not say what holds the clock down")
    elif throttling:
        yield Finding(
            "GPU clock",
            "finding",
            f"held down by {', '.join(throttling)}",
            "let it cool down, or ask for a higher power limit",
            "nvidia-smi -q -d PERFORMANCE",
        )
    else:
        yield Finding("GPU clock", "ok", "nothing holds it down")


# -- energy --------------------------------------------------------------------------------------------------


def joules(system: System) -> Iterator[Finding]:
    """Counters of energy, and what would make them readable: without one the metric is left out, not wrong."""
    yield readable("energy, processor", lambda: energy.of_packages(system.root))
    if system.gpu is not None:
        yield readable("energy, GPU", lambda: energy.of_gpu(system.gpu))


def readable(check: str, counter: Callable[[], energy.Counter]) -> Finding:
    """Tell whether a counter of energy can be read."""
    try:
        counter()
    except energy.Unreadable as error:
        return Finding(check, "unknown", error.found, error.cure, "zoo doctor")
    return Finding(check, "ok", "its counter can be read")


# -- the software --------------------------------------------------------------------------------------------


def torchvision(system: System) -> Iterator[Finding]:
    """A torchvision that was made for another torch does not load, or lacks its operators."""
    from packaging.requirements import Requirement

    torch = system.versions["torch"]
    if system.versions["torchvision"] == "absent":
        cure = "pip install torchvision"
        yield Finding("torchvision", "finding", "there is none", cure, "python -c 'import torchvision'")
        return
    wanted = [Requirement(text) for text in system.requirements("torchvision") if Requirement(text).name == "torch"]
    bad = [
        r for r in wanted if torch != "absent" and not r.specifier.contains(torch.partition("+")[0], prereleases=True)
    ]
    code, said = system.python("import torchvision, torch; torch.ops.torchvision.nms")
    if bad or code:
        about = f"needs torch {bad[0].specifier}" if bad else f"does not load: {said}"
        found = f"torchvision {system.versions['torchvision']} {about}; torch is {torch}"
        cure = "install both from one place, in one command: pip install --upgrade torch torchvision"
        yield Finding("torchvision", "finding", found, cure, "python -c 'import torchvision'")
    else:
        yield Finding("torchvision", "ok", f"{system.versions['torchvision']} beside torch {torch}")


def counter(system: System) -> Iterator[Finding]:
    """The counter on this torch: four modules whose multiply-accumulates are known by hand."""
    code, said = system.python(COUNTER_TEST)
    wrong = json.loads(said) if code == 0 else None
    if wrong == {}:
        yield Finding("counter", "ok", f"counts what arithmetic says, on torch {system.versions['torch']}")
        return
    about = said if wrong is None else ", ".join(f"{n}: {got:,} instead of {due:,}" for n, (got, due) in wrong.items())
    yield Finding(
        "counter",
        "finding",
        f"miscounts on torch {system.versions['torch']}: {about}",
        "take a torch that zoo was tested on (CONTRIBUTING.md names them)",
        "zoo doctor",
    )


def shadow(system: System) -> Iterator[Finding]:
    """Another distribution that brings a package called ``zoo``: which of them is imported is a matter of luck."""
    found = system.providers("zoo")
    if found:
        cure = (
            f"pip uninstall {' '.join(found)}" if not any("/" in name for name in found) else "remove it from the path"
        )
        said = f"the import name zoo is taken by {', '.join(found)} too"
        yield Finding("import name", "finding", said, cure, "python -c 'import zoo; print(zoo.__file__)'")
    else:
        yield Finding("import name", "ok", "zoo is ours alone")


CHECKS: tuple[Check, ...] = (threads, governor, others, memory, gpu, joules, torchvision, counter, shadow)
