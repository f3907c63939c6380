"""What a callback of on_complete is given: the job's end, never a job that still runs."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from dynatask import Retry
from dynatask.app import _of_job  # pyright: ignore[reportPrivateUsage]


def job_of(state: str) -> Any:
    """As much of a Job as a callback asks for."""
    info = SimpleNamespace(id="j", state=state)

    async def ainfo() -> Any:
        return info

    return SimpleNamespace(info=lambda: info, ainfo=ainfo)


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_it_is_given_a_job_that_has_ended(state: str) -> None:
    called: list[str] = []

    async def coroutine(info: Any) -> None:
        called.append(info.state)

    _of_job(lambda info: called.append(info.state))(job_of(state))
    asyncio.run(_of_job(coroutine)(job_of(state)))
    assert called == [state, state]


def test_it_is_not_called_of_a_job_that_the_store_runs_again() -> None:
    called: list[Any] = []

    async def coroutine(info: Any) -> None:
        called.append(info)

    with pytest.raises(Retry) as plain:
        _of_job(called.append)(job_of("running"))
    with pytest.raises(Retry):
        asyncio.run(_of_job(coroutine)(job_of("running")))
    assert not called and not plain.value.counted
