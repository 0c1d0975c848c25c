"""Worker processes as the parent sees them: servers that fork, workers that answer, and how each of them ended.

The parent blocks on sockets and never polls.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from zoo import environment
from zoo.case import Case
from zoo.errors import ZooError
from zoo.jsonio import PACKET, send, to_json
from zoo.metrics import Phase
from zoo.record import Status
from zoo.registry import code_of
from zoo.spec import ModelSpec
from zoo.task import Assignment

SERVER_SECONDS = 120.0
PRELOAD_SECONDS = 60.0
CLOSING_SECONDS = 10.0
# What a worker's answer to each command holds.
ANSWERS = {"prepare": "ready", "measure": "values", "ceilings": "values", "sample": "samples"}


class Died(Exception):
    """A worker that ended, failed or overstayed, with the status and the reason of what it leaves behind."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Server:
    """A process with code preloaded that forks workers. One a launch environment, and one a plugin on top."""

    def __init__(self, channel: socket.socket, log: IO[bytes], process: subprocess.Popen[bytes] | None = None) -> None:
        self.channel, self.log, self.process = channel, log, process
        self.exits: dict[int, int] = {}
        self.alive = True

    @classmethod
    def launch(cls, threads: int) -> Server:
        """Start the base server of a launch environment and wait until torch is loaded."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = tempfile.TemporaryFile()  # noqa: SIM115
        # Asked through NVML, a plugin's torch.cuda.is_available() at import leaves the process fit to fork.
        asked = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
        settings = {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), **asked, **environment.LAUNCH}
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "zoo.server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **settings},
                pass_fds=[theirs.fileno()], start_new_session=True,
            )  # fmt: skip
        server = cls(ours, log, process)
        if not server.receive(time.monotonic() + SERVER_SECONDS, "serving"):
            raise ZooError(f"the worker process does not start: {tail(log) or 'it said nothing'}")
        return server

    def fork(self, preload: Sequence[str] | None = None) -> tuple[int, socket.socket, IO[bytes]]:
        """Fork a worker, or with ``preload`` another server; return its pid, its channel and its log."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log = tempfile.TemporaryFile()  # noqa: SIM115
        request: dict[str, Any] = {"fork": True} if preload is None else {"fork": True, "preload": list(preload)}
        try:
            with theirs:
                socket.send_fds(self.channel, [json.dumps(request).encode()], [theirs.fileno(), log.fileno()])
            reply = self.receive(time.monotonic() + SERVER_SECONDS, "forked")
        except OSError:
            reply = None
        if reply is None:
            self.alive = False
            raise Died("error", f"the server that forks workers is gone: {tail(self.log)}")
        self.exits.pop(int(reply["forked"]), None)
        return int(reply["forked"]), ours, log

    def receive(self, deadline: float, key: str) -> dict[str, Any] | None:
        """Wait for a message that has ``key``; None at the deadline or when the server is gone. Exits are noted."""
        while wait([self.channel], deadline):
            message = self.take()
            if message is None:
                return None
            if key in message:
                return message
        return None

    def take(self) -> dict[str, Any] | None:
        """Take one message that is there; None when the server is gone."""
        try:
            packet = self.channel.recv(PACKET)
        except OSError:
            packet = b""
        if not packet:
            self.alive = False
            return None
        message: dict[str, Any] = json.loads(packet)
        if "exited" in message:
            self.exits[message["exited"]] = message["code"]
        return message

    def is_alive(self) -> bool:
        """Take the messages that are there, and tell whether the server still answers."""
        while self.alive and wait([self.channel], time.monotonic()):
            self.take()
        return self.alive

    def close(self) -> None:
        """Hang up: the server then kills whatever it still has, and ends."""
        self.channel.close()
        if self.process:
            try:
                self.process.wait(timeout=CLOSING_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.log.close()


def family() -> set[int]:
    """Return this process and all that it started, and these started."""
    import psutil

    return {os.getpid(), *(process.pid for process in psutil.Process().children(recursive=True))}


def wait(channels: Sequence[socket.socket], deadline: float) -> list[socket.socket]:
    """Block until one of the channels has something to read, or the deadline; return those that have."""
    with selectors.DefaultSelector() as selector:
        for channel in channels:
            selector.register(channel, selectors.EVENT_READ)
        ready = selector.select(max(0.0, deadline - time.monotonic()))
        return [key.fileobj for key, _ in ready]  # type: ignore[misc]


def tail(log: IO[bytes], lines: int = 2) -> str:
    """Return the last lines of a log as one."""
    log.seek(max(0, log.seek(0, os.SEEK_END) - 4000))
    said = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    fatal = next((i for i, line in enumerate(said) if line.startswith("Fatal Python error")), None)
    if fatal is not None:
        said = [said[fatal], *[line for line in said[fatal:] if line.startswith("File ")][:1]]
    return " | ".join(said[-lines:])[:400]


@dataclass
class Pool:
    """The servers of a run: a base server for each thread count, and on it one for each plugin's code.

    What is compiled of a case that several processes run one after the other is kept as long as the run lasts.
    """

    bases: dict[int, Server] = field(default_factory=dict)
    served: dict[tuple[int, str], Server] = field(default_factory=dict)
    compiled: tempfile.TemporaryDirectory[str] | None = None

    def folder_of(self, case: str) -> str:
        """Return the folder for what is compiled of a case."""
        self.compiled = self.compiled or tempfile.TemporaryDirectory(prefix="zoo-")
        return str(Path(self.compiled.name) / hashlib.sha256(case.encode()).hexdigest()[:16])

    def server(self, threads: int, spec: ModelSpec) -> Server:
        """Return a server with the model's code loaded, or the base server where that code does not load."""
        base = self.bases.get(threads)
        if base is None or not base.is_alive():
            if base:
                base.close()
            base = self.bases[threads] = Server.launch(threads)
        module = code_of(spec)
        server = self.served.get((threads, module))
        if server is None or not server.is_alive():
            server = self.served[threads, module] = self.preloaded(base, module)
        return server

    def preloaded(self, base: Server, module: str) -> Server:
        """Fork a server that has imported a module; where the import kills or holds it, the base serves instead."""
        pid, channel, log = base.fork(preload=[module])
        server = Server(channel, log)
        if server.receive(time.monotonic() + PRELOAD_SECONDS, "serving"):
            return server
        with contextlib.suppress(OSError):
            send(base.channel, {"kill": pid})
        server.close()
        return base

    def kill(self) -> None:
        """Kill all servers, and with them everything that they forked, without waiting; another thread may do it."""
        for base in list(self.bases.values()):
            if base.process:
                base.process.kill()

    def close(self) -> None:
        """End all servers, and with them everything that they forked, and forget what was compiled."""
        for server in {id(s): s for s in (*self.served.values(), *self.bases.values())}.values():
            server.close()
        if self.compiled:
            self.compiled.cleanup()


class Worker:
    """One worker, as the parent sees it."""

    def __init__(self, server: Server, on_progress: Callable[[str], None]) -> None:
        self.server, self.on_progress = server, on_progress
        self.pid, self.channel, self.log = server.fork()

    def prepare(
        self,
        phase: Phase,
        spec: ModelSpec,
        assignment: Assignment | None,
        case: Case,
        memory: int,
        deadline: float,
        known: Mapping[str, Any],
        cores: tuple[int, ...] = (),
    ) -> None:
        """Have it prepare a phase of a case, with ``memory`` bytes above what it has now (0: no limit), on some cores.

        ``known`` is what it could not look up by itself: formulas of custom operators, and single-file plugins.
        """
        records = {
            "spec": to_json(spec),
            "case": to_json(case),
            "assignment": to_json(assignment) if assignment else None,
        }
        self.ask({"do": "prepare", "phase": phase, "memory": memory, "cores": cores, **records, **known}, deadline)

    def ask(self, command: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Send a command and wait for its answer. Died when the worker ends, fails or lets the deadline pass."""
        started = time.monotonic()
        try:
            send(self.channel, command)
        except OSError as error:
            if error.errno == errno.EMSGSIZE:
                raise Died("error", "what the case says of itself is too long to be handed to a process") from None
        while True:
            ready = wait([self.channel, self.server.channel], deadline)
            if not ready:
                raise Died(
                    "timeout",
                    f"no answer within {max(0.0, deadline - started):.0f} s, in {describe(command)}",
                )
            if self.channel in ready:
                try:
                    packet = self.channel.recv(PACKET)
                except OSError:
                    packet = b""
                if packet:
                    reply = read_reply(packet, command)
                    if "progress" in reply:
                        self.on_progress(reply["progress"])
                        continue
                    if "failed" in reply:
                        raise Died(reply["failed"], reply["reason"])
                    if ANSWERS[command["do"]] not in reply:
                        raise Died("error", f"the process gave another answer than asked for in {describe(command)}")
                    return reply
                raise self.obituary(command)
            self.server.take()
            if not self.server.alive or self.pid in self.server.exits:
                raise self.obituary(command)

    def obituary(self, command: dict[str, Any]) -> Died:
        """Say how the worker ended: its exit code or signal, and its last words."""
        code = self.exit_code(CLOSING_SECONDS)
        how = "its process is gone" if code is None else f"signal {-code}" if code < 0 else f"exit code {code}"
        said = tail(self.log)
        status: Status = "oom" if any(w in said for w in ("MemoryError", "bad_alloc")) else "killed"
        return Died(status, f"the process ended with {how} in {describe(command)}" + (f": {said}" if said else ""))

    def exit_code(self, seconds: float) -> int | None:
        """Wait for the worker's end; None when it did not end in time."""
        deadline = time.monotonic() + seconds
        while self.pid not in self.server.exits and wait([self.server.channel], deadline):
            if self.server.take() is None:
                return None
        return self.server.exits.get(self.pid)

    def close(self) -> None:
        """Ask the worker to close, end it if it does not, and wait until it and all that it started are gone."""
        with contextlib.suppress(OSError):
            send(self.channel, {"do": "close"})
        if self.server.alive and self.exit_code(1.0) is None and self.server.alive:
            with contextlib.suppress(OSError):
                send(self.server.channel, {"kill": self.pid})
            self.exit_code(CLOSING_SECONDS)
        self.channel.close()
        self.log.close()


def read_reply(packet: bytes, command: Mapping[str, Any]) -> dict[str, Any]:
    """Return a worker's answer. Died when it is none: a model may have written to a file that is not its own."""
    try:
        reply = json.loads(packet)
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        raise Died("error", f"the process answered with something that is no message in {describe(command)}")
    return reply


def describe(command: Mapping[str, Any]) -> str:
    """Say in words what a worker was asked to do."""
    said = {"prepare": "building the model", "ceilings": "measuring what the machine does at most"}
    doing = "measuring" if command["do"] == "measure" else "sampling"
    return said.get(command["do"], f"{doing} {command.get('metric')}")
