"""Processes that a command starts, and what is left of them when it is ended."""

from __future__ import annotations

import signal
import subprocess

import psutil

SECONDS = 10


def process_tree(pid: int) -> list[psutil.Process]:
    """Return everything below a process."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def left_by(process: subprocess.Popen[bytes], ending: signal.Signals) -> list[psutil.Process]:
    """End a command, and return which of the processes that it had started still live some seconds later."""
    workers = process_tree(process.pid)
    process.send_signal(ending)
    process.wait()
    _, alive = psutil.wait_procs(workers, timeout=SECONDS)
    return alive
