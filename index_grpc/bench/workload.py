"""The workload: prompts and arrival times, all drawn from one seed."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

from index_grpc_client import AsyncClient

WORDS = """
    apple river house green stone music light paper winter summer garden window bridge silver golden forest ocean
    mountain village market teacher doctor farmer sister brother mother father friend child morning evening night
    story letter number picture colour water bread butter coffee sugar orange lemon cherry flower animal horse tiger
    monkey rabbit yellow purple simple happy quiet clever honest gentle strong little great early often never always
    under over between before after begin carry bring build break catch choose drink drive enter follow forget gather
    happen imagine keep learn listen manage notice open paint quick reach search think travel visit wonder write
""".split()  # noqa: SIM905 - read as text, not as a page of quotes
"""Common words, so that most are one token or two."""

SHORT_PROBE, LONG_PROBE = 1, 257
"""The lengths in words of the two prompts that show how many tokens a word takes."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One request's text, and the seed for sampling its answer."""

    text: str
    seed: int


@dataclass(frozen=True)
class Workload:
    """The prompts of a run. Each is drawn anew from (seed, series, number), so that no two begin alike."""

    seed: int
    num_words: int

    def prompt(self, series: str, number: int) -> Prompt:
        """Returns the prompt of this number in a series, which is a level's measurement or its warm-up."""
        draw = random.Random(f"{self.seed}/{series}/{number}")
        return Prompt(" ".join(draw.choices(WORDS, k=self.num_words)), draw.getrandbits(32))


async def fit_words(client: AsyncClient, seed: int, prompt_tokens: int) -> int:
    """Returns how many words make about `prompt_tokens` tokens by the service's own count, but at least one.

    The count includes control tokens.
    """
    short, long = [
        (await client.count_tokens(Workload(seed, num_words).prompt("probe", 0).text)).prompt_tokens
        for num_words in (SHORT_PROBE, LONG_PROBE)
    ]
    tokens_per_word = (long - short) / (LONG_PROBE - SHORT_PROBE)
    return max(1, round(SHORT_PROBE + (prompt_tokens - short) / tokens_per_word))


def poisson_arrivals(seed: str, rate: float) -> Iterator[float]:
    """Yields instants in seconds from 0, `rate` a second on average and independent of each other. Never ends."""
    draw, instant = random.Random(f"{seed}/arrivals"), 0.0
    while True:
        instant += draw.expovariate(rate)
        yield instant
