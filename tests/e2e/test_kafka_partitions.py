"""Partitions that are added to a topic while workers run: what lies in them is taken in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from servers import Kafka, Redis

from dynatask import App, Job

TOTAL = 12  # partitions in the end


def serving(url: str, name: str) -> App:
    """Serves one type of its own."""
    app = App("added", url, slots=2)

    @app.task(name=name)
    def echo(n: int) -> int:
        return n

    return app


@pytest.mark.parametrize("member", ["", "&member=one"])
@pytest.mark.parametrize("leader", ["other", "same"])
def test_what_lies_in_added_partitions_is_taken_in(
    leader: str, member: str, new_kafka: Callable[..., Kafka], new_redis: Callable[..., Redis]
) -> None:
    """Who leads the group divides the partitions, and need not serve their type: it is the first that joined."""
    kafka = new_kafka()
    url = f"kafka://{kafka.address}?store={new_redis().url}"
    topic = "added.late.intake"

    def start(app: App, name: str, n: int) -> Job[int]:
        @app.extern(name)
        def echo(n: int) -> int: ...

        return echo.start(n)

    name = "early" if leader == "other" else "late"
    first = serving(url, name)
    with first.worker():
        assert start(first, name, 1).result(timeout=30) == 1  # it is in the group
        with serving(url + member, "late").worker():
            assert start(App("added", url), "late", 2).result(timeout=30) == 2
            kafka.add_partitions(topic, TOTAL)
            kafka.until(lambda: len(kafka.metadata().topics[topic]) == TOTAL, "the broker tells of them")
            knows = App("added", url)  # of the added ones, for it is new
            jobs = [start(knows, "late", n) for n in range(8 * TOTAL)]
            assert [job.result(timeout=45) for job in jobs] == list(range(8 * TOTAL))
