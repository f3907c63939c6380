"""Bad input is an error with a name and one sentence, before anything changed."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynatask import (
    App,
    BadArguments,
    Conflict,
    DynataskError,
    EngineError,
    TaskFailed,
    TooBig,
    UsageError,
    VersionError,
)


def touch(app: App) -> None:
    """The first use, for those who open late."""

    @app.task
    def touch() -> None: ...

    touch.using(delay=3600).start()


def said(error: BaseException, *words: str) -> None:
    """One sentence that names what is wrong."""
    text = str(error)
    assert len(text) > 10 and "\n" not in text, text
    for word in words:
        assert word.lower() in text.lower(), (word, text)


# ---- arguments ---------------------------------------------------------------


def nothing_is_stored(app: App) -> None:
    assert app.jobs() == []


@pytest.mark.parametrize(
    ("args", "kwargs", "word"),
    [
        ((), {}, "n"),
        (("x",), {}, "n"),
        ((1.5,), {}, "n"),
        ((None,), {}, "n"),
        ((1, 2, 3), {}, ""),
        ((1,), {"colour": 1}, "colour"),
        ((1,), {"n": 1}, "n"),
        ((1, ["a", 5]), {}, "words"),
        ((1, {"a": 1}), {}, "words"),
    ],
)
def test_wrong_or_missing_arguments(app: App, args: Any, kwargs: Any, word: str) -> None:
    @app.task
    def f(n: int, words: list[str] = []) -> int:  # noqa: B006
        return n

    with pytest.raises(BadArguments) as caught:
        f.start(*args, **kwargs)
    said(caught.value, word)
    assert isinstance(caught.value, TypeError) and caught.value.code == "EARGS"
    nothing_is_stored(app)


def test_wrong_arguments_in_a_handler(app: App) -> None:
    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root() -> int:
        for wrong in (lambda: leaf.spawn("x"), lambda: leaf.spawn(), lambda: leaf.map([1, "x"])):  # type: ignore[arg-type, call-arg]
            with pytest.raises(BadArguments):
                wrong()
        return 1

    with app.worker(slots=1):
        job = root.start()
        assert job.result() == 1
        assert job.info().counts.added == 1


@pytest.mark.parametrize("value", [object(), lambda: 1, open(os.devnull), 2**64, -(2**63) - 1, [object()], {"a": {1: object()}}])
def test_unencodable_argument(app: App, value: Any) -> None:
    @app.task
    def f(v: Any) -> None: ...

    with pytest.raises(BadArguments) as caught:
        f.start(value)
    said(caught.value)
    nothing_is_stored(app)


def test_value_that_contains_itself(app: App) -> None:
    @app.task
    def f(v: Any) -> None: ...

    loop: list[Any] = []
    loop.append(loop)
    deep: Any = None
    for _ in range(100_000):
        deep = [deep]
    for value in (loop, deep):
        with pytest.raises((BadArguments, TooBig)) as caught:
            f.start(value)
        said(caught.value)
    nothing_is_stored(app)
    while deep:  # taken apart by hand: its own end would recurse
        deep = deep[0]


def test_lone_surrogate(app: App) -> None:
    @app.task
    def f(v: str) -> str:
        return v

    with pytest.raises(BadArguments):
        f.start("\ud800")


@pytest.mark.parametrize("value", ["text", None, [1], 1.5, object(), b"x"])
def test_result_that_does_not_fit_its_annotation(app: App, value: Any) -> None:
    @app.task(retries=1, backoff=0)
    def f() -> int:
        return value  # type: ignore[no-any-return]

    with app.worker(slots=1):
        error = f.start().error()
        assert isinstance(error, TaskFailed)
        assert error.type in ("BadArguments", "TypeError")
        said(error, "f", "int")


def test_unencodable_result(app: App) -> None:
    @app.task
    def f() -> Any:
        return object()

    @app.task
    async def g() -> Any:
        return {"x": lambda: 1}

    with app.worker(slots=1):
        for t in (f, g):
            error = t.start().error()
            assert error is not None and error.type in ("BadArguments", "TypeError")


def test_a_value_nested_deeper_than_a_payload_may_be(app: App) -> None:
    def nested(n: int) -> Any:
        value: Any = 1
        for _ in range(n):
            value = [value]
        return value

    @app.task
    def f(v: Any) -> int:
        return 1

    @app.task
    def g(n: int) -> Any:
        return nested(n)

    with pytest.raises((BadArguments, TooBig)):
        f.start(nested(500))
    with app.worker(slots=1):
        assert f.start(nested(20)).result() == 1
        assert g.start(20).result() == nested(20)
        error = g.start(500).error()
        assert error is not None
        assert f.start(1).result() == 1  # the worker lives


def test_a_handler_that_returns_a_coroutine_or_generator(app: App) -> None:
    @app.task
    def f() -> Any:
        async def later() -> int:
            return 1

        return later()

    @app.task
    def g() -> Any:
        yield 1

    with app.worker(slots=1):
        for t in (f, g):
            assert t.start().error() is not None


def test_annotations_that_no_codec_knows(app: App) -> None:
    class Mystery: ...

    def f(m: Mystery) -> None: ...

    with pytest.raises(BadArguments) as caught:
        app.task(f).start(Mystery())
    said(caught.value, "Mystery")


# ---- bounds -------------------------------------------------------------------


def test_payload_too_big(new_app: Callable[..., App]) -> None:
    app = new_app(max_payload="64KiB")

    @app.task
    def f(v: bytes) -> int:
        return len(v)

    with pytest.raises(TooBig) as caught:
        f.start(b"x" * 70_000)
    said(caught.value, "max_payload")
    assert caught.value.code == "ETOOBIG"
    nothing_is_stored(app)
    with app.worker(slots=1):
        assert f.start(b"x" * 60_000).result() == 60_000


def test_payload_too_big_in_a_handler(new_app: Callable[..., App]) -> None:
    app = new_app(max_payload="64KiB")

    @app.task
    def f(v: bytes) -> int:
        return len(v)

    @app.task
    def root() -> bytes:
        with pytest.raises(TooBig):
            f.spawn(b"x" * 70_000)
        return b"x" * 70_000  # and its own result

    with app.worker(slots=1):
        job = root.start()
        error = job.error()
        assert error is not None and error.type == "TooBig"
        assert job.info().counts.added == 1


def test_too_deep(new_app: Callable[..., App]) -> None:
    app = new_app(max_depth=5)

    @app.task
    def down(n: int) -> int:
        try:
            return down.spawn(n + 1).result()
        except TooBig as e:
            said(e, "max_depth")
            return n

    with app.worker(slots=1):
        job = down.start(0)
        assert job.result() in (4, 5)
        assert job.info().state == "succeeded"


def test_too_many_tasks(new_app: Callable[..., App]) -> None:
    app = new_app(max_tasks=50)

    @app.task
    def leaf(n: int) -> int:
        return n

    @app.task
    def root(n: int) -> int:
        return len(leaf.map(range(n)).result())

    with app.worker(slots=1):
        assert root.start(40).result() == 40
        job = root.start(100)
        error = job.error()
        assert error is not None and error.type == "TooBig"
        info = job.info()
        assert info.state == "failed" and info.counts.added <= 50


def test_an_id_that_is_too_long(app: App) -> None:
    @app.task
    def f() -> None: ...

    with pytest.raises(DynataskError):
        f.using(id="x" * 100_000).start()
    with pytest.raises(DynataskError):
        f.using(tags={"k": 1}).start()  # type: ignore[dict-item]


# ---- where it lives --------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "nonsense", "", "sqlite", "sqlite:", "memory", "http://host/x", "sqlite:a.db?nosuch=1", "memory:?slots=many",
        "memory:?lease=-1", "sqlite:a\x00b.db", "sqlite:a.db?durability=maybe", "memory:?slots", "kafka://h1",
    ],
)  # fmt: skip
def test_malformed_url(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DynataskError) as caught:
        touch(App("bad-url", url))
    assert isinstance(caught.value, (BadArguments, EngineError, VersionError))
    said(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 101, "ü"])
def test_malformed_app_name(name: str) -> None:
    with pytest.raises(BadArguments) as caught:
        touch(App(name, "memory:"))
    said(caught.value)


@pytest.mark.parametrize("options", [{"nosuch": 1}, {"lease": "soon"}, {"slots": -1}, {"keep": "some"}, {"max_payload": "1XiB"}])
def test_malformed_app_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadArguments) as caught:
        touch(App("bad-options", "memory:", **options))
    said(caught.value, next(iter(options)))


def test_malformed_worker_options(app: App) -> None:
    for options in ({"nosuch": 1}, {"slots": 0}, {"types": ["nobody"]}, {"plugins": ["/nowhere/x.so"]}):
        with pytest.raises(DynataskError):
            with app.worker(**options):  # type: ignore[arg-type]
                pass


@pytest.mark.parametrize("name", ["retain", "max_payload", "engine_timeout", "log", "inline"])
def test_an_option_of_the_app_given_to_a_worker(app: App, name: str) -> None:
    with pytest.raises(BadArguments) as caught, app.worker(**{name: "1"}):
        pass
    said(caught.value, name, "the app's", "slots prefetch lease grace max_parked types")


MANY = """
import resource, sys
from dynatask import App, DynataskError

app = App("many", sys.argv[1])

@app.task
def f() -> None: ...

if __name__ == "__main__":
    count, files = map(int, sys.argv[2:4])
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    try:
        app.worker(processes=count, **dict(word.split("=") for word in sys.argv[4:])).run()
    except DynataskError as error:
        print(error.code, error)
"""


@pytest.mark.parametrize(("count", "files", "code"), [(257, 40, "EARGS"), (20, 40, "EENGINE")])
def test_more_processes_than_there_can_be(count: int, files: int, code: str, tmp_path: Path, sqlite_url: str) -> None:
    """Those that were started are ended: the command must not wait for them for ever."""
    program = tmp_path / "many.py"
    program.write_text(MANY)
    command = [sys.executable, str(program), sqlite_url, str(count), str(files)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(code) and "process" in ran.stdout

@pytest.mark.parametrize(
    ("url", "option", "code", "says"),
    [
        ("sqlite:p.db", "retain=1h", "EARGS", "retain"),
        ("sqlite:p.db", "leese=1s", "EARGS", "leese"),
        ("sqlite:p.db", "lease=soon", "EARGS", "lease"),
        ("memory:", "lease=15", "EUSAGE", "processes=2 needs an engine that processes share"),
    ],
)
def test_what_child_processes_would_refuse(url: str, option: str, code: str, says: str, tmp_path: Path) -> None:
    """Before there is one: the parent made new ones for ever."""
    program = tmp_path / "many.py"
    program.write_text(MANY)
    ran = subprocess.run([sys.executable, str(program), url, "2", "100", option], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(code) and says in ran.stdout



@pytest.mark.parametrize("shape", [list, lambda names: dict.fromkeys(names, 1)], ids=["list", "slots of each"])
def test_types_that_a_worker_has_no_handler_for(shape: Callable[[list[str]], Any], plugin: Callable[..., str], tmp_path: Path) -> None:
    app = App("types", f"sqlite:{tmp_path}/jobs.db")

    @app.task
    def fetch() -> None: ...

    @app.extern()
    def elsewhere() -> None: ...

    for wrong, says in (("fecth", "write fetch"), ("elsewhere", "extern"), ("until_", "write until")):
        with pytest.raises(BadArguments) as caught:
            app.worker(types=shape(["fetch", wrong]), plugins=[plugin("host")])
        said(caught.value, repr(wrong), says, "it has fetch, until")
    assert not (tmp_path / "jobs.db").exists()
    with app.worker(types=shape(["fetch", "until"]), plugins=[plugin("host")]):
        fetch.start().result()


def test_types_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    app = App("types", f"sqlite:{tmp_path}/jobs.db")

    @app.task
    def fetch() -> None: ...

    monkeypatch.setenv("DYNATASK_TYPES", "fetch,parse")
    with pytest.raises(BadArguments) as caught, app.worker():
        pass
    said(caught.value, '"parse"', "it has fetch")
    assert not (tmp_path / "jobs.db").exists()
    touch(app)  # an open one
    with pytest.raises(BadArguments) as caught, app.worker():
        pass
    said(caught.value, '"parse"', "it has fetch")


def test_malformed_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNATASK_LEASE", "soon")
    with pytest.raises(BadArguments) as caught:
        touch(App("bad-env", "memory:"))
    said(caught.value, "lease")


def test_a_file_that_is_not_a_database(tmp_path: Path) -> None:
    file = tmp_path / "letter.txt"
    text = "Dear database,\n" * 1000
    file.write_text(text)
    with pytest.raises(EngineError) as caught:
        touch(App("x", f"sqlite:{file}"))
    said(caught.value, "letter.txt")
    assert file.read_text() == text


def test_a_folder_and_a_missing_folder(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "not" / "there" / "jobs.db"):
        with pytest.raises(EngineError) as caught:
            touch(App("x", f"sqlite:{path}"))
        said(caught.value)
    assert list(tmp_path.iterdir()) == []


SQL = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
print(db.execute(sys.argv[2]).fetchall())
db.commit()
"""


def sql(file: Path, text: str) -> str:
    """In a process of its own: a second SQLite in this one would drop our locks."""
    return subprocess.run([sys.executable, "-c", SQL, str(file), text], check=True, capture_output=True, text=True).stdout


def test_a_database_of_something_else(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    sql(file, "CREATE TABLE customers (name TEXT)")
    with pytest.raises((EngineError, VersionError)) as caught:
        touch(App("x", f"sqlite:{file}"))
    said(caught.value, "other.db")
    assert "task" not in sql(file, "SELECT name FROM sqlite_master")


OPEN = """
import os, sys
from dynatask import App
if len(sys.argv) > 2:  # someone who may not write everywhere
    os.setgroups([]); os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
app = App("x", sys.argv[1])
@app.task
def f() -> None: ...
try:
    print(f.using(delay=3600).start().id)
except Exception as e:
    print(type(e).__name__, e)
"""


def opened(url: str, *user: str, **options: Any) -> str:
    """What another process says when it opens it."""
    return subprocess.run([sys.executable, "-c", OPEN, url, *user], check=True, capture_output=True, text=True, **options).stdout


def test_a_newer_schema(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    assert "Error" not in opened(f"sqlite:{file}")
    sql(file, "PRAGMA user_version=1000")
    with pytest.raises(VersionError) as caught:
        touch(App("x", f"sqlite:{file}"))
    said(caught.value, "jobs.db")


def test_a_network_file_system(tmp_path: Path, plugin: Callable[..., str]) -> None:
    text = opened(f"sqlite:{tmp_path}/jobs.db", env=os.environ | {"LD_PRELOAD": plugin("nfs")})
    assert text.startswith("EngineError") and tmp_path.name in text and "network" in text.lower()
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_database(tmp_path: Path) -> None:
    file = tmp_path / "jobs.db"
    opened(f"sqlite:{file}")
    with file.open("r+b") as f:
        f.seek(100)
        f.write(b"\xff" * 2000)
    with pytest.raises(DynataskError) as caught:
        touch(App("x", f"sqlite:{file}"))
    said(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become someone who may not write")
def test_a_read_only_folder() -> None:
    with tempfile.TemporaryDirectory(prefix="dynatask-") as folder:  # not in pytest's, which each run closes to others
        Path(folder).chmod(0o555)
        text = opened(f"sqlite:{folder}/jobs.db", "65534")
        assert text.startswith("EngineError") and folder in text and "written" in text, text
        assert list(Path(folder).iterdir()) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("needs root, to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    app = App("x", f"sqlite:{small_disk}/jobs.db", engine_timeout=1)

    @app.task
    def f(n: int, data: bytes) -> int:
        return n

    accepted: list[str] = []
    with pytest.raises(EngineError) as caught:
        for n in range(1000):
            accepted.append(f.using(id=f"j{n}").start(n, os.urandom(10_000)).id)
    said(caught.value)
    assert "full" in str(caught.value).lower() or "space" in str(caught.value).lower()
    assert accepted
    for n, i in enumerate(accepted):
        assert f.job(i).info().counts.added == 1, n  # accepted is kept
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    with app.worker(slots=1):
        assert [f.job(i).result() for i in accepted] == list(range(len(accepted)))


def test_a_disk_without_room_for_the_store(small_disk: Path) -> None:
    with (small_disk / "filler").open("wb") as f:
        with pytest.raises(OSError):
            while True:
                f.write(b"x" * 65536)
                f.flush()
    with pytest.raises(EngineError) as caught:
        touch(App("x", f"sqlite:{small_disk}/jobs.db", engine_timeout=1))
    said(caught.value)


# ---- plugins -------------------------------------------------------------------------


def test_plugin_of_another_abi(app: App, plugin: Callable[..., str]) -> None:
    with pytest.raises(VersionError) as caught:
        with app.worker(plugins=[plugin("other_abi")]):
            pass
    said(caught.value, "other_abi")


@pytest.mark.parametrize("name", ["no_plugin", "bad_signature"])
def test_no_plugin_and_a_bad_signature(app: App, plugin: Callable[..., str], name: str) -> None:
    with pytest.raises(BadArguments) as caught:
        with app.worker(plugins=[plugin(name)]):
            pass
    said(caught.value, name if name == "no_plugin" else "a:q")


def test_files_that_are_no_plugins(app: App, tmp_path: Path) -> None:
    text = tmp_path / "text.so"
    text.write_text("hello")
    for path in (text, tmp_path / "nowhere.so", tmp_path):
        with pytest.raises(BadArguments) as caught:
            with app.worker(plugins=[str(path)]):
                pass
        said(caught.value, path.name)


def test_a_plugin_that_others_can_write(app: App, plugin: Callable[..., str], tmp_path: Path) -> None:
    import shutil

    open_file = tmp_path / "open.so"
    shutil.copy(plugin("acc"), open_file)
    open_file.chmod(0o666)
    with pytest.raises(BadArguments) as caught:
        with app.worker(plugins=[str(open_file)]):
            pass
    said(caught.value, "open.so")


# ---- two workers that disagree ------------------------------------------------------------


def test_signature_that_differs_between_two_workers(sqlite_url: str) -> None:
    one, two = App("same", sqlite_url), App("same", sqlite_url)

    def first(n: int) -> int:
        return n

    def second(n: str, m: int) -> str:
        return n

    one.task(name="f")(first)
    two.task(name="f")(second)
    with one.worker(slots=1):
        with pytest.raises(Conflict) as caught:
            with two.worker(slots=1):
                pass
        said(caught.value, "f")


def test_the_same_signature_is_welcome(sqlite_url: str) -> None:
    def f(n: int) -> int:
        return n

    apps = [App("same", sqlite_url), App("same", sqlite_url)]
    tasks = [a.task(f) for a in apps]
    with apps[0].worker(slots=1), apps[1].worker(slots=1):
        assert tasks[0].start(1).result() == 1


# ---- the wrong place --------------------------------------------------------------------------


def test_a_fork_with_an_open_app(app: App) -> None:
    @app.task
    def f(n: int) -> int:
        return n

    with app.worker(slots=1):
        f.start(1).result()
        job = f.using(delay=3600).start(2)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            said_so: list[str] = []
            for use in (lambda: f.start(3), lambda: job.info(), lambda: job.cancel(), lambda: app.worker().stop()):
                try:
                    use()
                    said_so.append("nothing")
                except UsageError as e:
                    said_so.append(e.code)
                except BaseException as e:
                    said_so.append(repr(e))
            os.write(write, " ".join(said_so[:3]).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as answer:
            assert answer.read() == b"EUSAGE EUSAGE EUSAGE"
        assert os.waitpid(pid, 0)[1] == 0
        assert f.start(4).result() == 4  # the parent is as before
        assert job.cancel() is True


def test_a_child_that_a_handler_forked_and_let_return_is_ended(app: App) -> None:
    def forked() -> str:
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)  # it must not live on as half a worker
            return "the child's"
        return f"status {os.waitpid(pid, 0)[1]:#x}"

    @app.task
    def plain() -> str:
        return forked()

    @app.task
    async def coroutine() -> str:
        return forked()

    with app.worker(slots=1):
        assert plain.start().result() == "status 0x100"
        assert coroutine.start().result() == "status 0x100"


def test_a_fork_may_open_its_own_app(sqlite_url: str) -> None:
    app = App("x", sqlite_url)

    @app.task
    def f(n: int) -> int:
        return n

    with app.worker(slots=1):
        f.start(1).result()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                mine = App("x", sqlite_url)

                @mine.extern("f")
                def g(n: int) -> int: ...

                code = 0 if g.start(5).result(timeout=30) == 5 else 2
            finally:
                os._exit(code)
        assert os.waitpid(pid, 0)[1] == 0


def test_an_app_in_a_forked_multiprocessing_pool_of_a_handler(app: App) -> None:
    import multiprocessing

    @app.task
    def parallel(n: int) -> int:
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return sum(pool.map(abs, range(-n, 0)))

    with app.worker(slots=2):
        assert parallel.start(10).result() == 55
        assert parallel.start(11).result() == 66


def test_pickling_a_handle_or_an_app_is_refused_or_works(app: App) -> None:
    import pickle

    @app.task
    def f() -> None: ...

    for thing in (app, f.job("x")):
        try:
            pickle.loads(pickle.dumps(thing))
        except Exception as e:  # noqa: BLE001
            assert isinstance(e, (TypeError, AttributeError, pickle.PicklingError, DynataskError))
