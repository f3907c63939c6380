"""A raw Redis client of the tests: sends commands, returns replies as they came.

Written out rather than taken from PyPI: it must show what servers say (MOVED, ASK, LOADING) instead of following or
retrying it, it must not share a parser with the library under test, and it is less text than the wrapper would be.

Replies: bulk strings are bytes, simple strings str, integers int, arrays lists, nil None. An error is raised, and returned inside an
array or by `pipeline`. Not safe for use by two threads at once; blocks up to `timeout`, then OSError.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

Argument = Union[str, bytes, int, float]


class RespError(Exception):
    """An error reply; the text begins with its code: ERR, MOVED, NOAUTH .."""


class Resp:
    def __init__(self, address: tuple[str, int] | Path, tls: ssl.SSLContext | None = None, timeout: float = 10) -> None:
        if isinstance(address, Path):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(str(address))
        else:
            self.socket = socket.create_connection(address, timeout)
            if tls:
                self.socket = tls.wrap_socket(self.socket, server_hostname=address[0])
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Resp:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()
        self.socket.close()

    def __call__(self, *command: Argument) -> Any:
        """One command, its reply."""
        (reply,) = self.pipeline([command])
        if isinstance(reply, RespError):
            raise reply
        return reply

    def pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """All commands in one write, then all replies; errors are returned, not raised."""
        out = bytearray()
        for command in commands:
            out += b"*%d\r\n" % len(command)
            for argument in command:
                data = argument if isinstance(argument, bytes) else str(argument).encode()
                out += b"$%d\r\n%b\r\n" % (len(data), data)
        self.socket.sendall(out)
        return [self.reply() for _ in commands]

    def reply(self) -> Any:
        """The next reply, or a message of a subscription."""
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the server closed the connection")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return None if rest == b"-1" else self._file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return None if rest == b"-1" else [self.reply() for _ in range(int(rest))]
        if kind == b":":
            return int(rest)
        return RespError(rest.decode()) if kind == b"-" else rest.decode()


def fields(text: bytes) -> dict[str, str]:
    """The lines `name:value` of INFO and CLUSTER INFO."""
    return dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
