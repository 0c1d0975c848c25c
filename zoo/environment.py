"""The machine and the versions: what a record refers to. Nothing here imports torch or touches a GPU."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from zoo.spec import source_of

LIBRARIES = ("torch", "torchvision", "timm", "numpy")
# What every worker is launched with. How long an OpenMP thread spins before it sleeps at a barrier: with libgomp's
# default two threads are 20 times slower when another process holds one of two cores, with this one 3 times, and a
# quiet machine does not notice.
LAUNCH = {"GOMP_SPINCOUNT": "10000"}

# What every worker sets in torch: products and convolutions in float32 as they say, not in TF32; and cuDNN's own
# choice of kernels, as torch leaves it, for trying them out chooses anew in every process.
SETTINGS: Mapping[str, Any] = MappingProxyType(
    {"float32_matmul_precision": "highest", "cudnn_allow_tf32": False, "cudnn_benchmark": False}
)
ALLOCATOR_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF")


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, cut by a container's quota."""
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return max(1, min(cores, int(quota))) if quota else cores


def cpu_quota() -> float | None:
    """Return the cores that the container's quota allows, None without a quota."""
    try:
        limit, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return None


def available_memory() -> int:
    """Return the bytes that a new process may take now: what the machine and its container have free."""
    import psutil

    available = int(psutil.virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        details = dict(line.split() for line in Path("/sys/fs/cgroup/memory.stat").read_text().splitlines())
        cached = int(details.get("inactive_file", 0)) + int(details.get("active_file", 0))
        return available if limit == "max" else max(1, min(available, int(limit) - used + cached))
    except (OSError, ValueError):
        return available


def cpu_name() -> str:
    """Return the processor's name as the kernel has it."""
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1].strip() if match else platform.machine()


def first_visible() -> str:
    """Return the index or UUID of the GPU that CUDA_VISIBLE_DEVICES names first, empty where it names none."""
    return os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()


def gpu_name() -> str | None:
    """Return the name of the NVIDIA GPU that CUDA takes for its first, asked in a process of its own; None without."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    chosen = [f"--id={first_visible()}"] if first_visible() else []
    asked = subprocess.run(
        [command, "--query-gpu=name", "--format=csv,noheader", *chosen],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return asked.stdout.splitlines()[0].strip() if asked.returncode == 0 and asked.stdout.strip() else None


def slug(device: str = "cpu") -> str:
    """Return a short name of the hardware that a device belongs to: ``xeon-2core``, ``h200``. Never a host name."""
    if device != "cpu":
        return slugify(re.sub(r"^NVIDIA\s+", "", gpu_name() or "unknown gpu"))
    return f"{cpu_slug(cpu_name())}-{usable_cores()}core"


def cpu_slug(name: str) -> str:
    """Shorten a processor's name: ``Intel(R) Xeon(R) Platinum 8259CL CPU @ 2.50GHz`` is ``xeon-platinum-8259cl``."""
    name = re.sub(
        r"\((r|tm)\)|@.*$|\b(intel|amd|cpu|processor|with|radeon.*|\d+-core)\b",
        " ",
        name,
        flags=re.IGNORECASE,
    )
    return slugify(name) or "cpu"


def slugify(text: str) -> str:
    """Lower-case letters, digits and single dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide a number; a missing one is ``absent``."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def describe(device: str = "cpu") -> dict[str, Any]:
    """Return what a reader must know of machine and software. It holds no host name, user or path."""
    import psutil

    from zoo import __version__

    return {
        "zoo": __version__,
        "python": platform.python_version(),
        **versions(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "memory": psutil.virtual_memory().total,
        "launch": dict(LAUNCH),
        "settings": dict(SETTINGS),
        **(describe_gpu() if device != "cpu" else {}),
    }


def describe_gpu() -> dict[str, Any]:
    """Return the GPU's name, and what the allocator of its memory was told."""
    told = {name: os.environ[name] for name in ALLOCATOR_VARIABLES if name in os.environ}
    return {"gpu": gpu_name(), "allocator": told}


def source_hash(code: str) -> str:
    """Return a hash of all source files of the package, or of the file, in which an import string's code lies."""
    source = source_of(code)
    if source is None:
        return "unknown"
    files = sorted(f for f in source.rglob("*.py") if f.is_file()) if source.is_dir() else [source]
    if not all(f.is_file() for f in files):
        return "unknown"
    total = hashlib.sha256()
    for file in files:
        total.update(
            str(file.relative_to(source) if source.is_dir() else file.name).encode() + b"\0" + file.read_bytes()
        )
    return total.hexdigest()[:16]
