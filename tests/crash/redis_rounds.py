"""Crash rounds on real Redis servers.

    python tests/crash/redis_rounds.py --fault kill-always --rounds 20 --seed 1

The faults are below, in FAULTS; what each does stands in stores.py, what a round is and
what is checked after it stands in faults.py.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

import rounds
from faults import Fault, cut, freeze_worker, kill_all, kill_one, main
from servers import Guard, Proxy, Server
from stores import (
    Aof, StoreScene, cut_clients, fail_over, fill_server, flush_library, flush_server, freeze_server, kill_server, sleep_server,
)  # fmt: skip


class RedisScene(StoreScene):
    """The store alone, perhaps behind a network that can be cut."""

    def __init__(self, guard: Guard, aof: Aof = "none", pair: bool = False, proxy: bool = False) -> None:
        super().__init__(guard, aof, pair)
        self.proxy = Proxy(guard, self.store.port) if proxy else None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.proxy.port}/0" if self.proxy else self.store_url

    def servers(self) -> list[Server]:
        return [*self.stores()]

    def keep(self, folder: Path) -> None:
        for store in self.stores():
            if store.alive:
                store("SAVE")
        super().keep(folder)


def cut_network(scene: RedisScene) -> None:
    assert scene.proxy
    cut(scene, [scene.proxy])


NONE, EVERYSEC, ALWAYS = "no AOF", "AOF everysec", "AOF always"
always, everysec = partial(RedisScene, aof="always"), partial(RedisScene, aof="everysec")
FAULTS: dict[str, Fault[RedisScene]] = {
    "kill-always": Fault("SIGKILL of the server and restart, AOF synced always", kill_server, always, ALWAYS),
    "kill-everysec": Fault("SIGKILL of the server and restart, AOF synced each second", kill_server, everysec, EVERYSEC, "at most the last second", lossy=True),
    "kill-none": Fault("SIGKILL of the server and restart, nothing saved", kill_server, RedisScene, NONE, "what was there", lossy=True),
    "flush": Fault("FLUSHALL", flush_server, always, ALWAYS, "what was there", lossy=True),
    "failover-stale": Fault(
        "SIGKILL of the master, failover to a replica that was cut off", fail_over, partial(RedisScene, pair=True), NONE, "what the replica missed", True, kills=1
    ),
    "freeze-server": Fault("SIGSTOP of the server for 1.2 to 3 leases", freeze_server, RedisScene, NONE),
    "sleep-server": Fault("DEBUG SLEEP for 1.2 to 3 leases", sleep_server, RedisScene, NONE),
    "full": Fault("maxmemory reached, for up to 2 leases, then raised", fill_server, RedisScene, NONE, kills=1),
    "library-flushed": Fault("FUNCTION FLUSH", flush_library, RedisScene, NONE),
    "cut-clients": Fault("all connections cut by the server", cut_clients, RedisScene, NONE),
    "cut-network": Fault("the network cut for up to 2 leases, in silence or by refusing", cut_network, partial(RedisScene, proxy=True), NONE),
    "kill-c": Fault("SIGKILL of a C worker", kill_one("c"), RedisScene, NONE, charges=True),
    "kill-python": Fault("SIGKILL of a Python worker", kill_one("python"), RedisScene, NONE, charges=True),
    "kill-all": Fault("SIGKILL of all workers at once", kill_all, RedisScene, NONE, charges=True),
    "freeze-worker": Fault("SIGSTOP of a worker for 3 leases", freeze_worker, RedisScene, NONE, charges=True, kills=1),
}

if __name__ == "__main__":
    rounds.in_venv()
    sys.exit(main("Crash rounds on real Redis servers.", FAULTS))
