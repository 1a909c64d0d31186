"""What a run prints: tables for people, and one line of JSON with everything."""

import dataclasses
import json
from collections.abc import Callable, Iterable, Sequence

from index_grpc import __version__
from index_grpc.bench.measure import Figures, Spread, TurnFigures
from index_grpc.bench.plan import Mode, Plan
from index_grpc.bench.run import Run

BUSY_SHARE = 0.8
"""Above this share of a core, the load generator itself may be the bottleneck."""
NOTHING = "–"

Row = tuple[str, list[str]]


def number(value: float | None) -> str:
    """Returns a number with about three digits and no exponent."""
    if value is None:
        return NOTHING
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def heading(run: Run) -> str:
    """Returns two lines: the server, and the requests that it was sent."""
    plan, server = run.plan, run.server
    assert server is not None
    sampling = "default sampling" if plan.temperature is None else f"temperature {plan.temperature:g}"
    kind = ", ".join(filter(None, (server.dtype, server.quantization)))
    turns = f" · {plan.num_turns} turns" if plan.mode is Mode.CONVERSATIONS else ""
    return (
        f"{server.model} on {server.device} ({kind}), index-grpc {server.server_version}\n"
        f"about {plan.prompt_tokens} prompt tokens, at most {plan.max_tokens} new{turns} · {sampling}, seed {plan.seed}"
    )


def table(run: Run, levels: Sequence[Figures]) -> str:
    """Returns the levels side by side, one figure a row."""
    is_open = run.plan.mode is Mode.OPEN
    rows: list[Row] = [("requests/s asked for" if is_open else "concurrency", [f"{level.level:g}" for level in levels])]
    rows += [
        ("requests", [str(level.num_requests) for level in levels]),
        ("answers", [str(level.num_completed) for level in levels]),
        ("tokens/s out", [number(level.output_tokens_per_s) for level in levels]),
        ("requests/s", [number(level.requests_per_s) for level in levels]),
        ("tokens an answer", [number(_ratio(level.completion_tokens, level.num_completed)) for level in levels]),
        ("prompt tokens", [number(level.prompt_tokens.mean if level.prompt_tokens else None) for level in levels]),
        ("of them cached", [number(_ratio(level.cached_prompt_tokens, level.num_completed)) for level in levels]),
        *_spread("time to first token, ms", levels, lambda level: level.time_to_first_token_s),
        *_spread("gap between messages, ms", levels, lambda level: level.gap_s, worst=True),
        *_spread("time per token, ms", levels, lambda level: level.time_per_token_s),
        *_spread("end to end, ms", levels, lambda level: level.end_to_end_s),
    ]
    if is_open:
        rows.append(("most open at once", [str(level.most_open) for level in levels]))
    codes = sorted({code for level in levels for code in level.errors})
    rows += [(f"errors: {code}", [str(level.errors.get(code, 0)) for level in levels]) for code in codes]
    if any(level.num_unfinished for level in levels):
        rows.append(("cut off", [str(level.num_unfinished) for level in levels]))
    return _aligned(rows)


def turns_table(label: str, turns: Sequence[TurnFigures]) -> str:
    """Returns a level's turns, one a row."""
    columns: list[Row] = [
        ("turn", [str(turn.turn) for turn in turns]),
        ("answers", [str(turn.num_completed) for turn in turns]),
        ("prompt tokens", [number(turn.prompt_tokens) for turn in turns]),
        ("cached", [number(turn.cached_prompt_tokens) for turn in turns]),
        ("first token, ms: p50", [number(turn.time_to_first_token_s.p50 * 1000) for turn in turns]),
        ("p95", [number(turn.time_to_first_token_s.p95 * 1000) for turn in turns]),
        ("p99", [number(turn.time_to_first_token_s.p99 * 1000) for turn in turns]),
    ]
    widths = [max(map(len, [name, *cells])) for name, cells in columns]
    lines = zip(*([name, *cells] for name, cells in columns), strict=True)
    aligned = ["   ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join([f"{label}, by turn", *aligned])


def notes(plan: Plan, levels: Iterable[Figures]) -> list[str]:
    """Returns what a reader should know before trusting the table."""
    found = []
    for level in levels:
        place = f"at {plan.label(level.level)}"
        found += [f"{code}: {details}" for code, details in level.error_examples.items()]
        if known := _known_before(level):
            which = "of the first turns" if level.turns else "of prompts"
            tokens = f"{place} the server knew {known} tokens {which} from before"
            found.append(f"{tokens}; another --seed asks anew")
        if level.cpu_share > BUSY_SHARE:
            busy = f"{place} the load generator itself was busy {level.cpu_share:.0%} of a core"
            found.append(f"{busy}; the server may be faster than this shows")
    return list(dict.fromkeys(found))


def _known_before(level: Figures) -> int:
    """Returns how many prompt tokens the server had computed before the level.

    Of conversations only the first turns count, since later turns reuse the tokens of earlier ones rightly.
    """
    if not level.turns:
        return level.cached_prompt_tokens
    return round(level.turns[0].cached_prompt_tokens * level.turns[0].num_completed)


def text(run: Run, levels: Sequence[Figures]) -> str:
    """Returns all text for people."""
    parts = [heading(run), table(run, levels)]
    parts += [turns_table(run.plan.label(level.level), level.turns) for level in levels if _has_turns(run, level)]
    parts += ["\n".join(f"note: {note}" for note in notes(run.plan, levels))]
    return "\n\n".join(part for part in parts if part)


def to_json(run: Run, levels: Sequence[Figures], *, interrupted: bool) -> str:
    """Returns everything in one line of JSON. Durations are seconds; what could not be measured is null."""
    everything = {
        "benchmark": "index-grpc bench",
        "version": __version__,
        "interrupted": interrupted,
        "settings": {"address": run.target.address, "timeout_s": run.target.timeout, **dataclasses.asdict(run.plan)},
        "words_per_prompt": run.num_words,
        "server": dataclasses.asdict(run.server) if run.server else None,
        "levels": [dataclasses.asdict(level) for level in levels],
    }
    return json.dumps(_rounded(everything), ensure_ascii=False, allow_nan=False)


def _has_turns(run: Run, level: Figures) -> bool:
    return run.plan.mode is Mode.CONVERSATIONS and bool(level.turns)


def _ratio(amount: float, count: int) -> float | None:
    return amount / count if count else None


def _spread(
    name: str, levels: Sequence[Figures], of: Callable[[Figures], Spread | None], *, worst: bool = False
) -> list[Row]:
    """Returns one row for each percentile, in milliseconds."""
    spreads = [of(level) for level in levels]
    fields = ["p50", "p95", "p99", *(["max"] if worst else [])]
    cells = [[number(getattr(spread, field) * 1000 if spread else None) for spread in spreads] for field in fields]
    return [
        (f"{name if place == 0 else ''}\t{field}", row)
        for place, (field, row) in enumerate(zip(fields, cells, strict=True))
    ]


def _aligned(rows: Sequence[Row]) -> str:
    """Returns lines with names at the left and cells at the right. The part of a name after a tab is aligned right."""
    names = [name.partition("\t") for name, _ in rows]
    left, right = max(len(name) for name, _, _ in names), max(len(field) for _, _, field in names)
    width = max(8, *(len(cell) for _, cells in rows for cell in cells))
    lines = zip(names, (cells for _, cells in rows), strict=True)
    return "\n".join(
        f"{name:<{left}}  {field:>{right}}" + "".join(f"  {cell:>{width}}" for cell in cells)
        for (name, _, field), cells in lines
    )


def _rounded(value: object) -> object:
    """Returns the value with its floats rounded to six decimals."""
    match value:
        case float():
            return round(value, 6)
        case dict():
            return {key: _rounded(item) for key, item in value.items()}
        case list() | tuple():
            return [_rounded(item) for item in value]
    return value
