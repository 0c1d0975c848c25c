"""The server that forks workers: ``python -m zoo.server FD``, one a launch environment, and one a plugin on top.

It has torch loaded but never computes and never touches CUDA. It forks workers, and servers of its own kind that have a
plugin's code loaded as well, and sees to it that nothing outlives them. What a model prints goes to a log.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NoReturn

import psutil
import torch

from zoo.case import Case
from zoo.jsonio import PACKET, get_ready, send
from zoo.spec import ModelSpec, import_module
from zoo.task import Assignment
from zoo.worker import work

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def serve(channel: socket.socket, preload: list[str]) -> NoReturn:
    """Fork a worker (or a server) for each request until the parent closes the channel; then kill all that is left."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    threads = count_threads()
    # What each worker would do anew: 0.1 s, and 0.3 s for what torch imports when a model is built on the meta device.
    get_ready(ModelSpec, Assignment, Case)
    for name in ("torch._dynamo", *preload):
        # A worker meets the same error again, and reports it as its own.
        with contextlib.suppress(Exception):
            import_module(name)
    if count_threads() > threads or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        # The import computed something. A fork would inherit thread pools without their threads and hang: end here,
        # and the server below forks workers that import for themselves.
        os._exit(1)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    selector.register(channel, selectors.EVENT_READ)
    selector.register(wake_read, selectors.EVENT_READ)
    gc.freeze()
    children: set[int] = set()
    send(channel, {"serving": os.getpid()})
    while True:
        ready = {key.fileobj for key, _ in selector.select()}
        if wake_read in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(wake_read, 4096)
        reap(channel, children)
        if channel in ready and not answer(channel, children, [selector.fileno(), wake_read, wake_write]):
            kill_descendants()
            os._exit(0)


def count_threads() -> int:
    """Return how many threads this process has."""
    return len(os.listdir("/proc/self/task"))


def answer(channel: socket.socket, children: set[int], private: list[int]) -> bool:
    """Carry out one request of the parent; False when it has closed the channel."""
    message, handed, _, _ = socket.recv_fds(channel, PACKET, 2)
    if not message:
        return False
    request = json.loads(message)
    if "kill" in request and request["kill"] in children:
        os.kill(request["kill"], signal.SIGKILL)
    if "fork" in request:
        pid = os.fork()
        if pid == 0:
            for descriptor in [*private, channel.fileno()]:
                os.close(descriptor)
            become_child(request, handed)
        children.add(pid)
        for descriptor in handed:
            os.close(descriptor)
        send(channel, {"forked": pid})
    return True


def reap(channel: socket.socket, children: set[int]) -> None:
    """Report every child that ended, and kill what it left running: its process group, and orphans that came to us."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid in children:
            children.discard(pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
            kill_orphans(children)
            with contextlib.suppress(OSError):
                send(channel, {"exited": pid, "code": os.waitstatus_to_exitcode(status)})


def kill_orphans(children: set[int]) -> None:
    """Kill the processes that were handed to us when their parents ended."""
    for process in psutil.Process().children():
        if process.pid not in children:
            with contextlib.suppress(psutil.Error):
                for descendant in [*process.children(recursive=True), process]:
                    descendant.kill()


def kill_descendants() -> None:
    """Kill everything below this process, until nothing is left."""
    while descendants := psutil.Process().children(recursive=True):
        for process in descendants:
            with contextlib.suppress(psutil.Error):
                process.kill()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def become_child(request: dict[str, Any], handed: list[int]) -> NoReturn:
    """After a fork: a session of its own, output to the log, first to die; then serve or work. Never returns."""
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        os.dup2(handed[1], 1)
        os.dup2(handed[1], 2)
        os.close(handed[1])
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        faulthandler.enable(file=2)
        channel = socket.socket(fileno=handed[0])
        if "preload" in request:
            serve(channel, request["preload"])
        work(channel)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
