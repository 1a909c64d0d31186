"""Peers with the same weights, one after the other, each in a separate process with limited time."""

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from peer import Contestant, Peer, PeerError, Round, Skipped
from workload import Workload

from card.row import CONTINUOUS, STATIC, TUTORIAL, Row
from card.sizes import Sizes
from index_grpc.text.tokenizer import Tokenizer

LEVELS: dict[str, Callable[[Sizes], tuple[int, ...]]] = {
    TUTORIAL: lambda sizes: (1,),
    STATIC: lambda sizes: (8, sizes.long_level),
    CONTINUOUS: lambda sizes: (sizes.long_level,),
}
"""The pipeline answers one request at a time, so more requests at once get no more tokens a second."""

WARMUP_TOKENS = 8
NUM_ROUNDS = 2
THREADS = 1
"""Threads of a peer on the processor; a peer that computes on the GPU needs no more."""


def rows(directory: Path, names: tuple[str, ...], sizes: Sizes, seconds: float) -> Iterator[Row | str]:
    """Yields each row when it is measured, or a sentence that says why a peer has none."""
    tokens = sizes.mean_answer_tokens
    workload = Workload(Tokenizer.load(directory), sizes.prompt_tokens, tokens, sampled=True, seed=0)
    for name in names:
        contestant = Contestant(name, name, directory)
        try:
            with Peer(contestant, THREADS, until=time.monotonic() + seconds) as peer:
                for level in LEVELS[name](sizes):
                    yield _row(peer, workload, level)
        except (Skipped, PeerError) as error:
            yield f"{name} is absent: {' '.join(str(error).split())[-300:]}"


def _row(peer: Peer, workload: Workload, level: int) -> Row:
    """The medians of rounds, after a short one to warm up. Raises PeerError."""
    peer.round(replace(workload, max_tokens=WARMUP_TOKENS).round(f"{peer.name}/{level}/warm-up", level))
    found = [peer.round(workload.round(f"{peer.name}/{level}/{number}", level)) for number in range(NUM_ROUNDS)]
    steps = [step for one in found for step in one.step_s]
    return Row(
        peer.name,
        level,
        tokens_per_s=statistics.median(map(_tokens_per_s, found)),
        first_token_s=statistics.median(first for one in found for first in one.first_token_s),
        step_s=statistics.median(steps) if steps else None,
    )


def _tokens_per_s(found: Round) -> float:
    return sum(found.num_tokens) / found.seconds
