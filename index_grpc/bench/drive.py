"""Sends requests to the server: in a closed loop, in an open loop or in conversations."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from index_grpc_client import AsyncClient, ChatResult, IndexGrpcError, LimitExceededError, Message, UnavailableError

from index_grpc.bench.plan import Plan
from index_grpc.bench.record import Measurement, Record
from index_grpc.bench.workload import Workload

SHORTEST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 5.0
"""The limits of how long a refused worker waits; between them it waits as long as the server asks."""


@dataclass
class Driver:
    """Sends the requests of one series and records their results."""

    client: AsyncClient
    workload: Workload
    plan: Plan
    series: str
    measurement: Measurement
    news: Callable[[Measurement], None]
    """Called at every message and at every end of a request."""

    async def ask(
        self, number: int, *, due: float | None = None, history: tuple[Message, ...] = (), turn: int = 1
    ) -> ChatResult:
        """Sends the series' request of this number; `due` is now unless given. Raises IndexGrpcError, also recorded."""
        prompt, now = self.workload.prompt(self.series, number), time.perf_counter()
        record = Record(due=now if due is None else due, sent=now, turn=turn)
        self.measurement.opened()
        try:
            result = await self._answer(prompt.text, prompt.seed, history, record)
        except IndexGrpcError as error:
            record.error, record.details = error.code().name, error.details()
            self._close(record)
            raise
        self._close(record)
        return result

    async def _answer(self, text: str, seed: int, history: tuple[Message, ...], record: Record) -> ChatResult:
        options = self.plan
        stream = self.client.chat_stream(
            text, history=history, seed=seed, temperature=options.temperature, max_tokens=options.max_tokens
        )
        finish = None
        async with stream:
            async for chunk in stream:
                record.messages.append(time.perf_counter())
                finish = chunk.finish
                self.measurement.num_messages += 1
                self.news(self.measurement)
        record.finish = finish
        return stream.result()

    def _close(self, record: Record) -> None:
        record.ended = time.perf_counter()
        self.measurement.closed(record)
        self.news(self.measurement)


async def closed_loop(driver: Driver, num_workers: int, num_requests: int) -> None:
    """Keeps `num_workers` requests open until `num_requests` are done."""
    await _share(num_workers, num_requests, driver.ask)


async def conversations(driver: Driver, num_workers: int, num_conversations: int, num_turns: int) -> None:
    """Keeps `num_workers` conversations open. An error ends one early, since its next turn would lack an answer."""

    async def hold(number: int) -> None:
        history: tuple[Message, ...] = ()
        for turn in range(num_turns):
            result = await driver.ask(number * num_turns + turn, history=history, turn=turn + 1)
            history = result.history

    await _share(num_workers, num_conversations, hold)


async def open_loop(driver: Driver, arrivals: Iterable[float]) -> None:
    """Sends requests at these instants, in seconds from now, however many are open, and waits for all to end."""
    started = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        for number, instant in enumerate(arrivals):
            due = started + instant
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            group.create_task(_send(driver, number, due))


async def _send(driver: Driver, number: int, due: float) -> None:
    with suppress(IndexGrpcError):  # it is recorded, and the next requests are sent all the same
        await driver.ask(number, due=due)


async def _share(num_workers: int, num_tasks: int, do: Callable[[int], Awaitable[object]]) -> None:
    """Does the tasks: each worker takes the next one that no other has taken."""
    numbers = iter(range(num_tasks))

    async def work() -> None:
        pause = 0.0
        for number in numbers:
            await asyncio.sleep(pause)
            pause = await pause_after(do(number))

    async with asyncio.TaskGroup() as group:
        for _ in range(min(num_workers, num_tasks)):
            group.create_task(work())


async def pause_after(task: Awaitable[object]) -> float:
    """Awaits a task; returns how many seconds to wait. Going on at once after refusals would use up all requests."""
    try:
        await task
    except (UnavailableError, LimitExceededError) as error:
        return min(max(error.retry_after or 0.0, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
    except IndexGrpcError:
        pass
    return 0.0
