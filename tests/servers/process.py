"""Processes and ports that the servers are made of.

`Guard` is a temporary folder and the processes in it; both are gone when it is
closed and when the process that made it dies, even by SIGKILL (`warden.py`).
`Process` is one of them, held by pidfd: a signal never meets a recycled pid.
`Server` is what all servers can do: be killed, paused, stopped, started again.

Ports lie outside the kernel's range for outgoing connections. Inside it, a client
that keeps dialling a dead server's port is one day given that very port as its own,
talks to itself, and the server cannot come back. A port stays its owner's until the
guard is closed, across restarts: an abstract unix socket is the mark.
"""

from __future__ import annotations

import functools
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
WARDEN = Path(__file__).with_name("warden.py")


class ServerError(RuntimeError):
    """A server did not start, died, or did not come to a state in time; the text ends with its log."""


class Process:
    """A server's process. Made by Guard.spawn."""

    def __init__(self, guard: Guard, pid: int, log: Path) -> None:
        self.guard, self.pid, self.log = guard, pid, log
        self.status: int | None = None  # exit code, or -signal, once it has ended
        self._fd = os.pidfd_open(pid)  # the warden reaps only when told to, so it is still this one

    def signal(self, number: int) -> None:
        """Sends a signal; nothing if it has ended."""
        if self.status is None:
            try:
                signal.pidfd_send_signal(self._fd, number)
            except ProcessLookupError:
                pass

    def wait(self, seconds: float = 30) -> int:
        """Blocks until it has ended: exit code or -signal. TimeoutError after `seconds`."""
        if self.status is not None:
            return self.status
        if not self._ended(seconds):
            raise TimeoutError(f"process {self.pid} did not end in {seconds} s; its log:\n{self.tail()}")
        self.status = status = int(self.guard.ask(reap=self.pid)["status"])
        os.close(self._fd)
        return status

    @property
    def alive(self) -> bool:
        return self.status is None and not self._ended(0)

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def _ended(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))


class Guard:
    """A folder, ports and processes that end with it. Usable from any thread; a context manager."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="dynatask-servers-"))
        self._lock = threading.Lock()
        self._names: dict[str, int] = {}
        self._marks: list[socket.socket] = []
        # A session of its own: Ctrl-C ends this process, whose end the warden sees.
        self._warden = subprocess.Popen(
            [sys.executable, "-I", "-S", str(WARDEN), str(os.getpid()), str(self.folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kills every process and removes the folder; returns once that is done. May be called again."""
        assert self._warden.stdin and self._warden.stdout
        self._warden.stdin.close()
        self._warden.wait()
        self._warden.stdout.close()
        shutil.rmtree(self.folder, ignore_errors=True)  # it is still there if somebody killed the warden
        while self._marks:
            self._marks.pop().close()

    def ask(self, **request: object) -> dict[str, Any]:
        """One request to the warden, and its answer."""
        assert self._warden.stdin and self._warden.stdout
        with self._lock:
            self._warden.stdin.write(json.dumps(request).encode() + b"\n")
            self._warden.stdin.flush()
            line = self._warden.stdout.readline()
        if not line:
            raise ServerError("the warden of the servers is dead")
        return json.loads(line)

    def spawn(self, argv: Sequence[str | Path], folder: Path, env: Mapping[str, str] | None = None) -> Process:
        """Starts a process in `folder`; its output is appended to `folder`/log. ServerError if it cannot be executed."""
        log = folder / "log"
        answer = self.ask(start=[str(a) for a in argv], cwd=str(folder), env={**os.environ, **(env or {})}, log=str(log))
        if "error" in answer:
            raise ServerError(answer["error"])
        return Process(self, answer["pid"], log)

    def make_folder(self, name: str) -> Path:
        """A new folder, named after `name`."""
        with self._lock:
            self._names[name] = number = self._names.get(name, 0) + 1
        folder = self.folder / f"{name}-{number}"
        folder.mkdir()
        return folder

    def port(self) -> int:
        """A free TCP port of the loopback, this guard's until it is closed."""
        for port in random.sample(_candidates(), 200):
            mark = socket.socket(socket.AF_UNIX)
            probe = socket.socket()
            try:
                mark.bind(f"\0dynatask-test-port-{port}")
                probe.bind(("127.0.0.1", port))
            except OSError:
                mark.close()
                continue
            finally:
                probe.close()
            with self._lock:
                self._marks.append(mark)
            return port
        raise ServerError("200 ports tried, none of them free")


@functools.cache
def _candidates() -> Sequence[int]:
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    outside = [port for port in range(10000, 65536) if not low <= port <= high]
    return outside if len(outside) >= 1000 else range(10000, 65536)


class Server:
    """One server: a process, its folder, its port. Subclasses say how it is started and when it is ready.

    The constructor of a subclass returns once the server answers; so do `start` and `restart`.
    """

    def __init__(self, guard: Guard, name: str) -> None:
        self.guard = guard
        self.name = name
        self.folder = guard.make_folder(name)
        self.port = guard.port()
        self.process: Process | None = None

    def command(self) -> Sequence[str | Path]:
        """The command line that starts it."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Is it ready? False or OSError: not yet."""
        raise NotImplementedError

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> Path:
        """What it has written, over all its lives."""
        return self.folder / "log"

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.alive

    def start(self, wait: bool = True) -> None:
        """Starts it on the data it has. Without `wait` returns before it answers: then `ready()`."""
        assert not self.alive, f"{self.name} runs already"
        self.process = self.guard.spawn(self.command(), self.folder)
        if wait:
            self.ready()

    def ready(self, seconds: float = 60) -> None:
        """Blocks until it answers. ServerError if it dies, or does not in `seconds`."""

        def answers() -> bool:
            try:
                return self.answers()
            except OSError:
                return False

        self.until(answers, "answers", seconds)

    def until(self, condition: Callable[[], T], what: str, seconds: float = 30) -> T:
        """Blocks until `condition()` is true, asked every few milliseconds while the process lives; its value."""
        process = self._running()
        end = time.monotonic() + seconds
        while not (value := condition()):
            if process._ended(0.004):  # pyright: ignore[reportPrivateUsage]
                raise ServerError(f"{self.name} has ended with {process.wait()}; its log:\n{process.tail()}")
            if time.monotonic() > end:
                raise ServerError(f"{self.name}: not within {seconds} s: {what}; its log:\n{process.tail()}")
        return value

    def kill(self) -> None:
        """SIGKILL; returns once it is dead."""
        self._running().signal(signal.SIGKILL)
        self._running().wait()

    def pause(self) -> None:
        """SIGSTOP: connections stay open and nothing answers. Returns once it stands still."""
        process = self._running()
        process.signal(signal.SIGSTOP)
        stat = Path(f"/proc/{process.pid}/stat")
        self.until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "stopped")

    def resume(self) -> None:
        """SIGCONT."""
        self._running().signal(signal.SIGCONT)

    def stop(self) -> int:
        """Ends it in good order (SIGTERM), also when paused; the exit code. TimeoutError after 60 s."""
        process = self._running()
        process.signal(signal.SIGTERM)
        process.signal(signal.SIGCONT)
        return process.wait(60)

    def restart(self) -> None:
        """`kill`, then `start`."""
        if self.alive:
            self.kill()
        self.start()

    def _running(self) -> Process:
        if self.process is None:
            raise ServerError(f"{self.name} was never started")
        return self.process
