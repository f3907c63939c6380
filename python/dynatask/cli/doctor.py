"""`dynatask doctor`: looks at everything that a job needs, from the file up to the workers.

Each check is a line: ok, warn or bad, what was found, and for the last two
what to do. Looks only; the one thing that it may make is the file itself, as
opening an app does.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from dynatask import App, DynataskError, EngineError, VersionError

from . import failures, out, read, target

LOW = 256 << 20  # bytes free on the disk, below which it warns
WAL_HIGH = 256 << 20
NETWORK = {"nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "fuse.sshfs", "afs", "ceph"}


class Check(NamedTuple):
    name: str
    level: str  # ok, warn, bad
    text: str
    try_: str = ""


def run(open_app: Callable[[], App], as_json: bool) -> int:
    checks: list[Check] = []
    code = examine(open_app, checks)
    if as_json:
        out.json({"checks": [check._asdict() for check in checks]})
    else:
        out.say(*(line for check in checks for line in lines(check)))
    return code or (failures.FAILED if any(check.level == "bad" for check in checks) else failures.OK)


def examine(open_app: Callable[[], App], checks: list[Check]) -> int:
    """The code of what keeps it from looking further; 0: nothing."""
    try:
        app = open_app()
    except failures.Failure as error:  # there is no app, or its file cannot be imported
        checks.append(Check("app", "bad", error.message, error.try_))
        return error.code
    checks.append(Check("app", "ok", app.name))
    try:
        app.engine
    except (EngineError, VersionError) as error:
        wrong = error
    except DynataskError as error:  # the URL, or another option
        checks.append(Check("options", "bad", str(error), "dynatask config --help"))
        return failures.USAGE
    else:
        wrong = None
    url, source = target.address(app)
    checks.append(Check("url", "ok", f"{url} (from {source})"))
    if url.startswith("sqlite:"):
        checks += of_file(Path(url.removeprefix("sqlite:").partition("?")[0]))
    try:
        if wrong is not None:
            raise wrong
        if server := read.server(app):
            checks += of_server(server)
        checks += of_store(app, shared=not url.startswith("memory:"))
    except (EngineError, VersionError) as error:
        checks.append(Check("engine", "bad", str(error), "dynatask config"))
        return failures.ENGINE
    return failures.OK


def lines(check: Check) -> Iterator[Any]:
    from rich.text import Text

    style = {"ok": "green", "warn": "yellow", "bad": "bold red"}[check.level]
    yield Text.assemble((f"{check.level:4}", style), f"  {check.name:8}  {check.text}")
    if check.try_:
        yield f"                try: {check.try_}"


# ---- the file and its folder ------------------------------------------------------------
def of_file(file: Path) -> Iterator[Check]:
    folder = file.parent.resolve()
    if not folder.is_dir():
        yield Check("folder", "bad", f"{folder} does not exist", f"mkdir -p {folder}")
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        yield Check("folder", "bad", f"{folder} cannot be written; SQLite makes files beside its own", f"ls -ld {folder}")
    elif folder.stat().st_mode & stat.S_IWOTH and not folder.stat().st_mode & stat.S_ISVTX:
        yield Check("folder", "warn", f"{folder} can be written by everyone", f"chmod o-w {folder}")
    else:
        yield Check("folder", "ok", f"{folder} can be written")
    kind = file_system(folder)
    if kind in NETWORK:
        yield Check("disk", "bad", f"{folder} is on {kind}: locks and shared memory do not work there", "dynatask config")
    else:
        free = shutil.disk_usage(folder).free
        text = f"{kind}, {free >> 20} MiB free"
        yield Check("disk", "warn" if free < LOW else "ok", text, f"df -h {folder}" if free < LOW else "")
    if file.exists():
        if not os.access(file, os.R_OK | os.W_OK):
            yield Check("file", "bad", f"{file} cannot be read and written by this user", f"ls -l {file}")
        else:
            yield Check("file", "ok", f"{file}, {size(file)}")
        yield of_bells(file)
        wal = Path(f"{file}-wal")
        if wal.exists() and wal.stat().st_size > WAL_HIGH:
            yield Check("wal", "warn", f"{wal} has {size(wal)}: some process reads for long", f"fuser -v {file}")


def of_bells(file: Path) -> Check:
    """The file by which processes see each other's life, and the folder of their sockets."""
    for path, mode in ((Path(f"{file}-bell"), 0o600), (Path(f"{file}-bells"), 0o700)):
        if not path.exists():
            return Check("bells", "ok", f"{path} is not there yet; the next process makes it")
        found = path.stat()
        if found.st_uid != file.stat().st_uid:
            return Check("bells", "bad", f"{path} belongs to another user than {file}", f"ls -ld {file}*")
        if stat.S_IMODE(found.st_mode) & 0o077:
            return Check("bells", "bad", f"{path} is open to other users", f"chmod {mode:o} {path}")
    return Check("bells", "ok", f"{file}-bell and {file}-bells are closed to others")


def size(file: Path) -> str:
    return f"{file.stat().st_size / (1 << 20):.1f} MiB"


def file_system(folder: Path) -> str:
    """The kind of the mount that the folder is on."""
    best, kind = "", "unknown"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        mount = fields.split()[4].encode().decode("unicode_escape")
        inside = folder == Path(mount) or Path(mount) in folder.parents
        if inside and len(mount) >= len(best):
            best, kind = mount, rest.split()[0]
    return kind


# ---- the server -----------------------------------------------------------------------------
def of_server(server: dict[str, Any]) -> Iterator[Check]:
    """Version, role, policy and rights were judged as it was opened and asked; what is left is what may hurt later."""
    if "kafka" in server:
        yield from of_kafka(server)
    yield Check("server", "ok", f"Redis {server['version']} at {server['address']}, {server['policy']}; all that is needed is allowed")
    if server["persistence"] == "append-only file":
        yield Check("disk", "ok", "it keeps an append-only file")
    else:
        text = f"what was accepted may die with the server ({server['persistence']})"
        yield Check("disk", "warn", text, "redis-cli CONFIG SET appendonly yes")
    used, most = server["used_memory"], server["maxmemory"]
    text = f"{used >> 20} MiB used of {f'{most >> 20} MiB' if most else 'no limit (maxmemory 0)'}"
    full = most and used > most * 0.8
    yield Check("memory", "warn" if full else "ok", text, "redis-cli CONFIG SET maxmemory MORE" if full else "")
    ahead = server["clock_ahead_us"] / 1e6
    if abs(ahead) > 1:
        yield Check("clock", "warn", f"its clock differs from ours by {ahead:+.1f} s: delays are off by as much", "chronyc tracking")
    else:
        yield Check("clock", "ok", "its clock is ours to a second")


def of_kafka(server: dict[str, Any]) -> Iterator[Check]:
    yield Check("kafka", "ok", f"{server['kafka']} answers, brokers: {server['kafka_brokers']} (librdkafka {server['librdkafka']})")
    missing = server["missing"]
    if missing:
        yield Check("rights", "bad", f"missing, for this user: {'; '.join(missing)}", "kafka-acls.sh --add; docs/kafka.md has the list")
    else:
        yield Check("rights", "ok", "topics can be made, written and read, and the group")
    if absent := server["absent"]:
        text = f"not there, though the store knows them: {some(absent)}; if they were deleted, the starts that lay in them are lost"
        yield Check("topics", "warn", text, "dynatask worker APP, which makes them")
    yield from of_topics(server["topics"], server["unseen"])
    if server["strangers"]:
        text = f"{server['strangers']} workers take this app's starts into another store: two apps of one name and prefix"
        yield Check("group", "bad", text, "another prefix=, or the same store=")
    held, topic = server["quarantined"], server["quarantine"]
    if held:
        text = f"{held} records lie in {topic}, that no worker could take in; the latest: {server['quarantined_why']}"
        yield Check("held", "warn", text, f"kcat -C -e -b {server['kafka']} -t {topic}")
    else:
        yield Check("held", "ok", "no records in quarantine")


def of_topics(topics: list[tuple[str, int, dict[str, str]]], unseen: int) -> Iterator[Check]:
    """What the topics that starts lie in are set to."""
    found: dict[tuple[str, str, str], list[str]] = {}
    for topic, replicas, settings in topics:
        for told in wrong_settings(replicas, settings):
            found.setdefault(told, []).append(topic)
    for (level, text, setting), names in sorted(found.items()):
        try_ = f"kafka-configs.sh --alter --entity-type topics --entity-name {names[0]} --add-config {setting}"
        yield Check("settings", level, f"{text}: {some(names)}", try_)
    if unseen:
        yield Check("settings", "ok", f"of {unseen} topics they are not to be seen: this user lacks the right DescribeConfigs")
    elif topics and not found:
        yield Check("settings", "ok", f"{len(topics)} topics of starts keep their records for ever")


def wrong_settings(replicas: int, settings: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Level, text, and what it should be."""
    if "compact" in settings.get("cleanup.policy", ""):
        yield "bad", "cleanup.policy is compact, which takes starts away before a worker has them", "cleanup.policy=delete"
    kept = int(settings.get("retention.ms", -1))
    if kept >= 0:
        yield "warn", f"retention.ms is {kept}: a start that no worker takes in within {span(kept / 1000)} is lost", "retention.ms=-1"
    most = int(settings.get("retention.bytes", -1))
    if most >= 0:
        yield "warn", f"retention.bytes is {most}: of a longer backlog the oldest starts are lost", "retention.bytes=-1"
    least = int(settings.get("min.insync.replicas", 1))
    if least > replicas:
        yield "bad", f"min.insync.replicas is {least} of {replicas} copies: no start can be written", f"min.insync.replicas={max(1, replicas - 1)}"
    elif least == replicas > 1:
        yield "warn", f"min.insync.replicas is {least} of {replicas} copies: no start can be written while one is away", f"min.insync.replicas={replicas - 1}"
    elif least == 1 < replicas - 1:
        yield "warn", f"min.insync.replicas is 1 of {replicas} copies: a start may lie on a single broker, and die with it", "min.insync.replicas=2"


def span(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds:.3g} s"


# ---- what is in it -------------------------------------------------------------------------
def of_store(app: App, *, shared: bool) -> Iterator[Check]:
    workers, types = read.workers(app), read.types(app)
    yield Check("engine", "ok", "opened; its schema is this version's")
    live = [worker.name for worker in workers if not worker.dead and lives(worker.name)]
    if not shared:
        yield Check("workers", "ok", "memory: has those of its own process alone")
    elif live:
        yield Check("workers", "ok", f"{len(live)} alive: {some(live)}")
    else:
        yield Check("workers", "warn", "none is alive: tasks wait", "dynatask worker APP")
    own = [t for t in types if not t.system]
    unserved = [t.name for t in own if not t.workers]
    if unserved and live:
        text = f"served by no worker now: {some(unserved)}"
        yield Check("types", "warn", text, "dynatask worker APP, or with --plugin X.so")
    else:
        yield Check("types", "ok", f"{len(own)} known: {some([t.name for t in own])}" if own else "none known yet")


def lives(worker: str) -> bool:
    """Whether a worker named host:pid:nonce may be alive; of another host that cannot be told."""
    host, _, rest = worker.partition(":")
    return host != socket.gethostname() or Path("/proc", rest.partition(":")[0]).exists()


def some(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
