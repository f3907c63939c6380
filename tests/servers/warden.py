"""The process that owns the servers of one test process: no server outlives it.

Run as a program by `process.Guard`. It starts what it is told to start, each in
a process group of its own, and ends when its parent closes the pipe, or dies in
whatever way (it holds the parent's pidfd, so a pipe end inherited by somebody
else does not keep it alive). Its end kills every server and removes the folder;
and should it be killed itself, the kernel kills its children (PDEATHSIG).

Requests and answers are lines of JSON:
    {"start": [ARGV ..], "cwd": DIR, "env": {..}, "log": FILE}  ->  {"pid": N} or {"error": TEXT}
    {"reap": N}   (N has ended)                                 ->  {"status": exit code or -signal}

It uses the standard library alone, so that it starts within 20 ms (python -I -S).
"""

import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from typing import Any

PR_SET_PDEATHSIG = 1


def main(parent: int, folder: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    me = os.getpid()

    def die_with_me() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != me:
            os._exit(1)

    running: dict[int, subprocess.Popen[bytes]] = {}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if "reap" in request:
            return {"status": running.pop(request["reap"]).wait()}
        try:
            with open(request["log"], "ab") as log:
                process = subprocess.Popen(
                    request["start"], cwd=request["cwd"], env=request["env"], stdin=subprocess.DEVNULL,
                    stdout=log, stderr=log, start_new_session=True, preexec_fn=die_with_me,
                )  # fmt: skip
        except OSError as error:
            return {"error": str(error)}
        running[process.pid] = process
        return {"pid": process.pid}

    try:
        events = select.poll()
        events.register(0, select.POLLIN)
        events.register(os.pidfd_open(parent), select.POLLIN)
        pending = b""
        while os.getppid() == parent:
            ready = dict(events.poll())
            if 0 not in ready:
                break  # the parent is dead
            more = os.read(0, 65536)
            if not more:
                break
            *lines, pending = (pending + more).split(b"\n")
            for line in lines:
                print(json.dumps(answer(json.loads(line))), flush=True)
    finally:
        for process in running.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)  # and what it forked
            except ProcessLookupError:
                pass
        for process in running.values():
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
