"""A request over HTTP has arrived once its body has come whole: its time limit and its times count from then."""

import json
import time

import pytest

from index_grpc.server.call import Call
from index_grpc.server.observer import Observer
from tests.http.asking import COMPLETIONS, Json, asking
from tests.http.test_timeouts import connected
from tests.server.asking import until
from tests.server.fake_runner import fake_server

LIMIT_SECONDS = 30.0


class Arrivals(Observer):
    """Notes when calls arrived, by both clocks."""

    def __init__(self) -> None:
        self.found: list[tuple[float, float]] = []

    def call_ended(self, call: Call) -> None:
        """See Observer."""
        self.found.append((call.arrival, call.created))


@pytest.mark.parametrize(
    ("path", "body"),
    [("/", {"prompt": "Hi", "max_length": 5}), (COMPLETIONS, asking(time_limit=LIMIT_SECONDS))],
    ids=["tutorial", "completions"],
)
async def test_a_body_that_is_slow_to_come_takes_nothing_of_the_time(path: str, body: Json) -> None:
    arrivals, data = Arrivals(), json.dumps(body).encode()
    async with fake_server(observers=[arrivals], http_port=0) as server:
        reader, writer = await connected(server.app)
        head = b"POST %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % (path.encode(), len(data)) + data[:1])
        await until(lambda: server.app.calls.num_open == 1)
        before = time.monotonic(), time.time()
        writer.write(data[1:])
        assert b"200 OK" in await reader.readline()
        await reader.read()
        writer.close()
        await until(lambda: len(arrivals.found) == 1)
        asked = server.runner.last_request
    assert asked is not None
    arrival, created = arrivals.found[0]
    assert arrival >= before[0]
    assert created >= before[1]
    assert asked.arrival == arrival
    if asked.deadline is not None:
        assert asked.deadline.instant == asked.arrival + LIMIT_SECONDS
