"""The Python half of the crash rounds' tree: p_node(path, n) is a subtree of n
tasks, as c_node is (tree.c). Run as a program it is a Python worker; its URL
is DYNATASK_URL, its log of effects EFFECTS."""

import asyncio
import os

from dynatask import App, JobInfo, children, context, then

FAN = 27
app = App("rounds")


def note(line: str) -> None:
    """One write. A kill may cut it where a page ends; so it begins a line of its
    own, and is whole if it has its closing mark."""
    fd = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.write(fd, f"\n{line};\n".encode())
    os.close(fd)


def parts(path: str, n: int) -> list[tuple[str, int, bool]]:
    """The children of a node: path, size, whether C runs it."""
    left = n - 1
    k = min(left, FAN)
    return [(f"{path}.{i}", left // k + (i < left % k), bool((i + len(path)) % 2)) for i in range(k)]


@app.extern()
def c_node(path: str, n: int) -> int: ...


@app.task(crashes=20)
def p_node(path: str, n: int) -> int:
    note(f"{path} p {context().attempt}")
    hs = [(c_node if c else a_node if i % 5 == 2 else p_node).spawn(p, m) for i, (p, m, c) in enumerate(parts(path, n))]
    way = len(path) % 4
    if way == 0:
        return n  # its descendants go on without it
    if way == 1:
        return then(p_last, path, n)
    return 1 + sum(h.result() for h in hs)


@app.task(crashes=20)
def p_last(path: str, n: int) -> int:
    note(f"{path} p {context().attempt}")
    return n


@app.task(crashes=20)
async def a_node(path: str, n: int) -> int:
    note(f"{path} a {context().attempt}")
    if len(path) % 2:
        async with children():
            for p, m, c in parts(path, n):
                (c_node if c else p_node).spawn(p, m)
        return n
    return 1 + sum(await asyncio.gather(*[(c_node if c else p_node).spawn(p, m) for p, m, c in parts(path, n)]))


@app.on_complete(p_node)
def ended(info: JobInfo) -> None:
    note(f"ended {info.id} {info.state} {info.counts.added} {info.counts.succeeded}")


if __name__ == "__main__":
    app.worker(slots=2).run()
