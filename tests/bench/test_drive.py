"""How workers share the requests, and how long they wait after a refusal."""

from collections.abc import Awaitable

import grpc
import pytest
from index_grpc_client import IndexGrpcError, InvalidRequestError, UnavailableError
from index_grpc_client.status import StatusDetails

from index_grpc.bench.drive import pause_after


async def asked(error: IndexGrpcError | None) -> None:
    if error:
        raise error


def refused(retry_after: float | None) -> Awaitable[None]:
    details = StatusDetails(retry_after=retry_after)
    return asked(UnavailableError("full", grpc.StatusCode.UNAVAILABLE, details))


@pytest.mark.parametrize(("asks", "pauses"), [(None, 0.1), (0.01, 0.1), (2.5, 2.5), (30.0, 5.0)])
async def test_a_refused_worker_pauses_as_long_as_it_is_asked_to(asks: float | None, pauses: float) -> None:
    assert await pause_after(refused(asks)) == pauses


async def test_workers_that_are_not_told_to_retry_go_on_at_once() -> None:
    assert await pause_after(asked(None)) == 0
    assert await pause_after(asked(InvalidRequestError("wrong"))) == 0


async def test_exceptions_that_are_not_the_servers_are_raised() -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await pause_after(broken())
