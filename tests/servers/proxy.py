"""A network between clients and a server, that can be cut.

`pause` is a cable that is pulled: connections stay, nothing comes through, until `resume`. `kill` is a firewall that refuses: all connections
break, and new ones are refused, until `start`.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from .process import Guard, Server

RELAY = Path(__file__).with_name("relay.py")


class Proxy(Server):
    """Carries bytes between its own port and `target`, a port of the loopback (0: told later, before `start`)."""

    def __init__(self, guard: Guard, target: int = 0) -> None:
        super().__init__(guard, "proxy")
        self.target = target
        if target:
            self.start()

    def command(self) -> Sequence[str | Path]:
        return [sys.executable, "-I", "-S", RELAY, str(self.port), "127.0.0.1", str(self.target)]

    def answers(self) -> bool:
        socket.create_connection(("127.0.0.1", self.port), 10).close()
        return True
