"""An app is a namespace: two on one file know nothing of each other."""

from pathlib import Path

import pytest

from dynatask import App, NotFound


def test_two_apps_on_one_file(sqlite_url: str) -> None:
    a, b = App("a", sqlite_url), App("b", sqlite_url)

    @a.task(name="f")
    def fa(n: int) -> int:
        return n

    @b.task(name="f")
    def fb(word: str, times: int) -> str:  # another signature under the same name
        return word * times

    with a.worker(slots=1), b.worker(slots=1):
        ja, jb = fa.using(id="same").start(1), fb.using(id="same").start("x", 3)
        assert (ja.result(), jb.result()) == (1, "xxx")
        assert [j.id for j in a.jobs()] == ["same"] == [j.id for j in b.jobs()]
        only = fa.using(id="only-a").start(2)
        only.result()
        with pytest.raises(NotFound):
            fb.job("only-a").info()


def test_a_worker_of_one_app_leaves_the_others_tasks(sqlite_url: str) -> None:
    a, b = App("a", sqlite_url), App("b", sqlite_url)

    @a.task(name="f")
    def fa() -> str:
        return "a"

    @b.task(name="f")
    def fb() -> str:
        return "b"

    waiting = fb.start()
    with a.worker(slots=1):
        assert fa.start().result() == "a"
        assert waiting.info().counts.ready == 1
    with b.worker(slots=1):
        assert waiting.result() == "b"


def test_two_objects_of_one_app(sqlite_url: str) -> None:
    one, two = App("same", sqlite_url), App("same", sqlite_url)

    @one.task
    def f(n: int) -> int:
        return n

    @two.extern("f")
    def g(n: int) -> int: ...

    with one.worker(slots=1):
        assert g.start(5).result() == 5
        assert [j.type for j in two.jobs()] == ["f"]


@pytest.mark.parametrize("name", ["with space.db", "ü.db", "a?b.db", "a#b.db", "a%41.db", "deep/../jobs.db", "-x.db", "memory", ":memory:"])
def test_file_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What a person may call a file; `?` begins parameters, in a file name it is written %3F."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    app = App("x", "sqlite:" + name.replace("?", "%3F"))

    @app.task
    def f() -> int:
        return 1

    from dynatask import BadArguments, EngineError

    try:
        with app.worker(slots=1):
            assert f.start().result() == 1
    except (BadArguments, EngineError):
        assert name in ("a?b.db", ":memory:", "a%41.db")
        return
    assert any(p.name.endswith((".db", "memory", ":memory:")) for p in tmp_path.iterdir())


def test_relative_and_absolute_paths_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to(tmp_path / "jobs.db")
    apps = [App("x", u) for u in ("sqlite:jobs.db", f"sqlite:{tmp_path}/jobs.db", "sqlite:./jobs.db", "sqlite:link.db")]

    def f(n: int) -> int:
        return n

    tasks = [a.task(f) for a in apps]
    with apps[0].worker(slots=1):
        assert [t.start(i).result() for i, t in enumerate(tasks)] == [0, 1, 2, 3]
