"""Computes a level's figures from its records."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy

from index_grpc.bench.record import Measurement, Record


@dataclass(frozen=True)
class Spread:
    """The distribution of values; percentiles are interpolated linearly."""

    mean: float
    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Self | None:
        """Returns the distribution; None if there are no values."""
        found = list(values)
        if not found:
            return None
        p50, p95, p99 = (float(value) for value in numpy.percentile(found, (50, 95, 99)))
        return cls(sum(found) / len(found), p50, p95, p99, max(found))


@dataclass(frozen=True)
class TurnFigures:
    """The figures of answered requests that were turns of this number in their conversations."""

    turn: int
    num_completed: int
    prompt_tokens: float
    cached_prompt_tokens: float
    """This and `prompt_tokens` are means."""
    time_to_first_token_s: Spread


@dataclass(frozen=True)
class Figures:
    """A level's figures. Tokens and latencies are those of answers that came whole; times are in seconds."""

    level: float
    num_requests: int
    num_completed: int
    num_unfinished: int
    """Requests that were cut off by an interruption."""
    errors: dict[str, int]
    """Number of errors by status code."""
    error_examples: dict[str, str]
    finish_reasons: dict[str, int]
    duration_s: float
    """From the level's start to the end of its last request, or to the interruption."""
    requests_per_s: float
    output_tokens_per_s: float
    completion_tokens: int
    cached_prompt_tokens: int
    prompt_tokens: Spread | None
    tokens_per_message: float | None
    time_to_first_token_s: Spread | None
    gap_s: Spread | None
    time_per_token_s: Spread | None
    end_to_end_s: Spread | None
    queue_s: Spread | None
    """From arrival until computing began, by the server's clock."""
    send_delay_s: Spread | None
    """How much later than due the requests were sent, answered or not."""
    most_open: int
    cpu_share: float
    """Processor time of this process divided by the duration; near 1, the load generator itself is the bottleneck."""
    interrupted: bool
    turns: tuple[TurnFigures, ...]
    """Empty except for conversations."""


def figures(measurement: Measurement) -> Figures:
    """Returns a level's figures."""
    records = measurement.records
    whole = [record for record in records if record.finish]
    finishes = [record.finish for record in records if record.finish]
    failed = [record for record in records if record.error]
    ended = measurement.interrupted_at or max((record.ended for record in records), default=measurement.started)
    duration = ended - measurement.started
    tokens = sum(finish.usage.completion_tokens for finish in finishes)
    num_messages = sum(len(record.messages) for record in whole)
    return Figures(
        level=measurement.level,
        num_requests=len(records) + measurement.num_open,
        num_completed=len(whole),
        num_unfinished=measurement.num_open,
        errors=dict(Counter(record.error for record in failed)),
        error_examples={record.error: record.details for record in reversed(failed)},
        finish_reasons=dict(Counter(finish.reason.value for finish in finishes)),
        duration_s=duration,
        requests_per_s=len(whole) / duration if duration else 0.0,
        output_tokens_per_s=tokens / duration if duration else 0.0,
        completion_tokens=tokens,
        cached_prompt_tokens=sum(finish.usage.cached_prompt_tokens for finish in finishes),
        prompt_tokens=Spread.of(finish.usage.prompt_tokens for finish in finishes),
        tokens_per_message=tokens / num_messages if num_messages else None,
        time_to_first_token_s=Spread.of(record.messages[0] - record.due for record in whole),
        gap_s=Spread.of(gap for record in whole for gap in record.gaps),
        time_per_token_s=Spread.of(value for record in whole for value in record.seconds_per_token),
        end_to_end_s=Spread.of(record.messages[-1] - record.due for record in whole),
        queue_s=Spread.of(finish.timing.queue_s for finish in finishes),
        send_delay_s=Spread.of(record.sent - record.due for record in records),
        most_open=measurement.most_open,
        cpu_share=measurement.cpu_s / duration if duration else 0.0,
        interrupted=measurement.interrupted_at is not None,
        turns=tuple(_turns(whole)),
    )


def _turns(whole: Sequence[Record]) -> list[TurnFigures]:
    numbers, found = sorted({record.turn for record in whole}), []
    for turn in numbers if len(numbers) > 1 else []:
        records = [record for record in whole if record.turn == turn]
        usages = [record.finish.usage for record in records if record.finish]
        spread = Spread.of(record.messages[0] - record.due for record in records)
        assert spread is not None
        prompts = sum(usage.prompt_tokens for usage in usages) / len(usages)
        cached = sum(usage.cached_prompt_tokens for usage in usages) / len(usages)
        found.append(TurnFigures(turn, len(records), prompts, cached, spread))
    return found
