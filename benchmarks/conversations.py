"""Time to first token of each turn, with and without reuse of the earlier turns.

Two servers on the same checkpoint answer the same seeded conversations in turn.

    python benchmarks/conversations.py --turns 10 --rounds 3
"""

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import AsyncExitStack

from checkpoints import converted
from index_grpc_client import AsyncClient, Message
from report import Goal, Section, emit
from serving import in_process

from index_grpc.bench.workload import Workload, fit_words

ANSWER_TOKENS = 16
"""Answers of random weights are short texts or empty, so a turn consists mostly of its prompt."""


async def conversation(
    client: AsyncClient, workload: Workload, series: str, options: argparse.Namespace
) -> list[float]:
    """Holds a conversation and returns the seconds to the first token of each turn."""
    history: tuple[Message, ...] = ()
    firsts = []
    for turn in range(options.turns):
        prompt = workload.prompt(series, turn)
        started = time.perf_counter()
        stream = client.chat_stream(prompt.text, history=history, seed=prompt.seed, max_tokens=ANSWER_TOKENS)
        first = None
        async with stream:
            async for _ in stream:
                first = first or time.perf_counter() - started
        assert first is not None
        firsts.append(first)
        history = stream.result().history
    return firsts


async def measure(options: argparse.Namespace) -> Section:
    directory = converted("mid", gguf=()) / "checkpoint"
    rounds: list[tuple[list[float], list[float]]] = []
    async with AsyncExitStack() as stack:
        clients = []
        for prefix_reuse in (True, False):
            server = in_process(model=str(directory), max_sequences=4, prefix_reuse=prefix_reuse)
            _, address = await stack.enter_async_context(server)
            clients.append(await stack.enter_async_context(AsyncClient(address)))
        words = await fit_words(clients[0], 0, options.turn_tokens - ANSWER_TOKENS)
        workload = Workload(0, words)
        for number in range(options.rounds):
            pair = [await conversation(client, workload, f"conversation {number}", options) for client in clients]
            rounds.append((pair[0], pair[1]))
            print(
                f"round {number + 1}: last turn {pair[0][-1]:.3f} s with reuse, {pair[1][-1]:.3f} s without",
                file=sys.stderr,
            )
    return section(rounds, options)


def section(rounds: list[tuple[list[float], list[float]]], options: argparse.Namespace) -> Section:
    """The results: medians over the rounds for each turn."""
    turns = range(options.turns)
    reused = [statistics.median(pair[0][turn] for pair in rounds) for turn in turns]
    anew = [statistics.median(pair[1][turn] for pair in rounds) for turn in turns]
    ratios = [statistics.median(pair[0][turn] / pair[1][turn] for pair in rounds) for turn in turns]
    return Section(
        title="Conversations",
        about=f"One conversation of {options.turns} turns of about {options.turn_tokens} tokens each on the mid "
        "checkpoint: time to first token with the rows of earlier turns reused, and with --no-prefix-reuse.",
        command=f"python benchmarks/conversations.py --turns {options.turns} --rounds {options.rounds}",
        columns=["turn", *(str(turn + 1) for turn in turns)],
        rows=[
            ["reused, ms", *(f"{value * 1e3:.0f}" for value in reused)],
            ["anew, ms", *(f"{value * 1e3:.0f}" for value in anew)],
            ["share", *(f"{value:.0%}" for value in ratios)],
        ],
        goals=[Goal.at_most(f"first token of turn {options.turns} with reuse", 20, ratios[-1] * 100, " % of without")],
        data={"rounds": rounds, "ratios": ratios},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--turn-tokens", type=int, default=150, help="of a turn, in and out (default 150)")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts (default 3)")
    emit(asyncio.run(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
