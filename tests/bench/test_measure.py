"""The figures computed from records that the tests make."""

from index_grpc_client import Finish, FinishReason, Timing, Usage

from index_grpc.bench.measure import Spread, figures
from index_grpc.bench.plan import Mode, Plan
from index_grpc.bench.record import Measurement, Record
from index_grpc.bench.report import notes


def answered(
    due: float, messages: list[float], tokens: int, *, turn: int = 1, prompt: int = 60, cached: int = 0
) -> Record:
    """An answer whose messages came the given numbers of seconds after it was due."""
    usage, timing = Usage(prompt, tokens, prompt + tokens, cached), Timing(0.25, 0.5, 1.0)
    finish = Finish(FinishReason.STOP, "", usage, timing)
    instants = [due + message for message in messages]
    return Record(due, due, turn=turn, messages=instants, finish=finish, ended=instants[-1])


def failed(due: float, ended: float, error: str, details: str) -> Record:
    return Record(due, due, messages=[due + 0.5], ended=ended, error=error, details=details)


def measured(*records: Record, started: float = 100.0, **more: float) -> Measurement:
    measurement = Measurement(4, started, list(records))
    for name, value in more.items():
        setattr(measurement, name, value)
    return measurement


def test_percentiles_are_interpolated_linearly() -> None:
    spread = Spread.of([float(value) for value in range(101)])
    assert spread == Spread(mean=50.0, p50=50.0, p95=95.0, p99=99.0, max=100.0)
    assert Spread.of([5.0, 1.0]) == Spread(3.0, 3.0, 4.8, 4.96, 5.0)
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0, 3.0, 3.0)
    assert Spread.of([]) is None


def test_one_answer() -> None:
    level = figures(measured(answered(100.0, [1.0, 1.5, 3.5, 4.0], tokens=7, cached=32)))
    assert (level.level, level.num_requests, level.num_completed, level.num_unfinished) == (4, 1, 1, 0)
    assert level.time_to_first_token_s == Spread(1.0, 1.0, 1.0, 1.0, 1.0)
    assert level.end_to_end_s == Spread(4.0, 4.0, 4.0, 4.0, 4.0)
    assert level.gap_s is not None
    assert (level.gap_s.mean, level.gap_s.p50, level.gap_s.max) == (1.0, 0.5, 2.0)
    assert level.time_per_token_s == Spread(0.5, 0.5, 0.5, 0.5, 0.5)  # (4 - 1) / (7 - 1)
    assert level.tokens_per_message == 7 / 4
    assert (level.duration_s, level.output_tokens_per_s, level.requests_per_s) == (4.0, 7 / 4, 1 / 4)
    assert (level.completion_tokens, level.cached_prompt_tokens) == (7, 32)
    assert level.queue_s == Spread(0.25, 0.25, 0.25, 0.25, 0.25)
    assert level.finish_reasons == {"stop": 1}
    assert level.turns == ()
    assert not level.interrupted


def test_throughput_is_over_the_whole_level() -> None:
    level = figures(measured(answered(100.0, [1.0, 2.0], 10), answered(102.0, [1.0, 6.0], 30), cpu_s=2.0, most_open=2))
    assert level.duration_s == 8.0
    assert level.output_tokens_per_s == 5.0
    assert level.requests_per_s == 0.25
    assert (level.cpu_share, level.most_open) == (0.25, 2)


def test_failed_requests_count_in_no_latency() -> None:
    whole = answered(100.0, [1.0, 2.0], 3)
    refusals = [failed(100.0, 100.1, "UNAVAILABLE", "full"), failed(101.0, 101.1, "UNAVAILABLE", "still full")]
    level = figures(measured(whole, *refusals, failed(101.0, 104.0, "INTERNAL", "broke")))
    assert (level.num_requests, level.num_completed) == (4, 1)
    assert level.errors == {"UNAVAILABLE": 2, "INTERNAL": 1}
    assert level.error_examples == {"UNAVAILABLE": "full", "INTERNAL": "broke"}
    assert level.time_to_first_token_s == Spread(1.0, 1.0, 1.0, 1.0, 1.0)
    assert level.duration_s == 4.0  # the failures count for the duration


def test_an_answer_of_one_token_has_no_time_per_token() -> None:
    level = figures(measured(answered(100.0, [1.0], 1)))
    assert level.time_per_token_s is None
    assert level.gap_s is None


def test_late_sending_counts_as_latency() -> None:
    late = answered(100.0, [1.0, 2.0], 2)
    late.sent = 100.75
    level = figures(measured(late))
    assert level.time_to_first_token_s == Spread(1.0, 1.0, 1.0, 1.0, 1.0)
    assert level.send_delay_s == Spread(0.75, 0.75, 0.75, 0.75, 0.75)


def test_an_interrupted_level_lasts_until_the_interruption() -> None:
    level = figures(measured(answered(100.0, [1.0, 2.0], 10), num_open=3, interrupted_at=105.0))
    assert (level.num_requests, level.num_completed, level.num_unfinished) == (4, 1, 3)
    assert (level.duration_s, level.output_tokens_per_s) == (5.0, 2.0)
    assert level.interrupted


def test_a_level_without_requests_has_no_figures() -> None:
    level = figures(measured())
    assert (level.num_requests, level.duration_s, level.output_tokens_per_s, level.requests_per_s) == (0, 0.0, 0.0, 0.0)
    assert level.end_to_end_s is None
    assert level.tokens_per_message is None


def test_turns() -> None:
    records = [
        answered(100.0, [1.0, 2.0], 5, turn=1, prompt=10),
        answered(100.0, [2.0, 3.0], 5, turn=1, prompt=20),
        answered(103.0, [0.5, 1.0], 5, turn=2, prompt=40, cached=16),
    ]
    first, second = figures(measured(*records)).turns
    assert (first.turn, first.num_completed, first.prompt_tokens, first.cached_prompt_tokens) == (1, 2, 15.0, 0.0)
    assert first.time_to_first_token_s.p50 == 1.5
    assert (second.turn, second.num_completed, second.prompt_tokens, second.cached_prompt_tokens) == (2, 1, 40.0, 16.0)


def test_a_measurement_counts_what_is_open() -> None:
    measurement, record = measured(), answered(100.0, [1.0], 1)
    measurement.opened()
    measurement.opened()
    measurement.closed(record)
    measurement.opened()
    assert (measurement.num_open, measurement.most_open, measurement.records) == (2, 2, [record])


def test_a_note_says_that_first_turns_were_cached() -> None:
    later = answered(102.0, [1.0], 5, turn=2, cached=50)
    rightly = figures(measured(answered(100.0, [1.0], 5), later))
    talks = Plan(Mode.CONVERSATIONS, (4,))
    assert not notes(talks, [rightly])
    known = figures(measured(answered(100.0, [1.0], 5, cached=40), later))
    told = "the server knew 40 tokens of the first turns from before; another --seed asks anew"
    assert notes(talks, [known]) == [f"at concurrency 4 {told}"]
    assert notes(Plan(Mode.OPEN, (4,)), [known]) == [f"at 4 requests/s {told}"]
