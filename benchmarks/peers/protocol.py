"""The protocol between a peer's process and its driver: one JSON object on each line.

The peer writes {"ready": true, "name": …, "versions": {…}} to standard output when the model is loaded. Then each line
of standard input is a round, with the fields of Work, and the peer answers with a line of figures, or with
{"error": …}. The process ends when its input ends.

This module imports only the standard library, since a peer runs in a separate environment.
"""

import argparse
import json
import os
import platform
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TextIO

TOP_K = 5
TOP_P = 0.7
TEMPERATURE = 0.95
REPETITION_PENALTY = 1.1
"""The sampling values of a sampled round: the defaults of the tutorials for this model, and of our server."""


@dataclass(frozen=True)
class Options:
    """The command line of a peer."""

    checkpoint: Path
    threads: int
    flags: list[str]
    """The arguments after `--`; only some peers accept any."""


@dataclass(frozen=True)
class Work:
    """A round: prompts that come all at once, each to be answered with exactly `max_tokens` tokens."""

    prompts: list[list[int]]
    texts: list[str]
    """The same prompts as text, for peers that apply the layout and the tokenizer themselves."""
    max_tokens: int
    sampled: bool
    """Whether tokens are drawn with the values above; if not, always the likeliest token is taken."""


@dataclass(frozen=True)
class Answer:
    """The answer to one prompt."""

    instants: list[float]
    """`time.perf_counter()` when each part of the answer came: a token, or several that the peer sends together."""
    num_tokens: int
    ids: Sequence[int] = ()
    text: str = ""
    """The answer as text, if the peer gives no ids."""


class Engine(Protocol):
    """What a peer implements."""

    def prepare(self, work: Work) -> None:
        """Does what a server would have done before; it is not timed."""

    def answer(self, work: Work) -> list[Answer]:
        """Answers all prompts at once."""


def serve(name: str, packages: Sequence[str], open_engine: Callable[[Options], AbstractContextManager[Engine]]) -> None:
    """Runs a peer until its input ends. Exits with 1 if it cannot be loaded."""
    out = _claim_stdout()
    with suppress(OSError):  # if memory runs out, the system should end the peer and nothing else
        Path("/proc/self/oom_score_adj").write_text("1000")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as an exception, so that started processes are stopped
    try:
        with open_engine(_options(name)) as engine:
            versions = {"python": platform.python_version()} | {package: version(package) for package in packages}
            _say(out, {"ready": True, "name": name, "versions": versions})
            for line in sys.stdin:
                _say(out, _round(engine, line))
    except Exception as error:
        traceback.print_exc()
        _say(out, {"error": f"{type(error).__name__}: {error}"})
        sys.exit(1)


def greedy_or_sampled(work: Work) -> dict[str, float]:
    """The sampling arguments, with the names that most libraries use; empty for a greedy round."""
    if not work.sampled:
        return {}
    return {"top_k": TOP_K, "top_p": TOP_P, "temperature": TEMPERATURE, "repetition_penalty": REPETITION_PENALTY}


def steps_together(answers: Sequence[Answer]) -> list[float]:
    """The seconds between tokens while all answers decode: those of the last one to begin, until the first one ends."""
    last = max(answers, key=lambda answer: answer.instants[0]).instants
    until = min(answer.instants[-1] for answer in answers)
    return [after - before for before, after in pairwise(last) if after <= until]


def _round(engine: Engine, line: str) -> dict[str, object]:
    try:
        work = Work(**json.loads(line))
        engine.prepare(work)
        started = time.perf_counter()
        answers = engine.answer(work)
        seconds = time.perf_counter() - started
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}
    counts = [answer.num_tokens for answer in answers]
    if counts != [work.max_tokens] * len(work.prompts):
        return {"error": f"answers have {counts} tokens; each should have {work.max_tokens}, or peers differ in work"}
    return {
        "seconds": seconds,
        "first_token_s": [answer.instants[0] - started for answer in answers],
        "end_s": [answer.instants[-1] - started for answer in answers],
        "num_tokens": counts,
        "step_s": steps_together(answers),
        "ids": [list(answer.ids) for answer in answers],
        "texts": [answer.text for answer in answers],
    }


def _options(name: str) -> Options:
    arguments, flags = sys.argv[1:], []
    if "--" in arguments:
        place = arguments.index("--")
        arguments, flags = arguments[:place], arguments[place + 1 :]
    parser = argparse.ArgumentParser(description=f"Answers rounds of prompts with {name}; see protocol.py.")
    parser.add_argument("checkpoint", type=Path, help="what convert.py wrote for this peer")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads to compute with")
    parsed = parser.parse_args(arguments)
    return Options(parsed.checkpoint, parsed.threads, flags)


def _claim_stdout() -> TextIO:
    """Keeps standard output for the protocol; what libraries and child processes print there goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return out


def _say(out: TextIO, message: dict[str, object]) -> None:
    print(json.dumps(message), file=out, flush=True)
