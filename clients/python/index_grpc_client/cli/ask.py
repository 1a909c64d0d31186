"""The command `index-client ask`: answers one prompt."""

import asyncio
import codecs
import dataclasses
import json
import sys
from collections.abc import AsyncIterable
from datetime import datetime
from typing import Unpack

import click

from index_grpc_client.cli.answering import DEFAULTS, answer_options
from index_grpc_client.cli.checking import refusing
from index_grpc_client.cli.connection import Connection
from index_grpc_client.cli.failure import complain
from index_grpc_client.cli.interrupt import interruptible
from index_grpc_client.cli.output import CONTROLS, Command, put, require_output
from index_grpc_client.cli.reading import is_terminal, read_all
from index_grpc_client.options import AnswerOptions
from index_grpc_client.result import Chunk, FinishReason

CUT = {
    FinishReason.MAX_TOKENS: "the answer was cut at its limit of tokens; --max-tokens allows more",
    FinishReason.CONTEXT_LENGTH: "the answer was cut because prompt and answer fill the model's context",
    FinishReason.TIME_LIMIT: "the answer was cut by --time-limit or --timeout",
}


def read_prompt(words: tuple[str, ...]) -> str:
    """Returns the words of a prompt, joined. A word `-` is replaced by standard input, which is also the default.

    Raises click.UsageError if there is no prompt. White space from standard input is none: what should have written one
    has failed.
    """
    if not words and is_terminal():
        raise click.UsageError("no prompt: give one, or pipe one in")
    words = words or ("-",)
    prompt = " ".join(read_all() if word == "-" else word for word in words)
    if "-" in words and not prompt.strip():
        raise click.UsageError("no prompt: standard input is empty or holds only white space")
    return prompt


async def write(chunks: AsyncIterable[Chunk]) -> None:
    """Writes an answer to stdout as it arrives, and says on stderr if it was cut. The last line is always ended."""
    last, finish = "", None
    try:
        async for chunk in chunks:
            put(chunk.delta, nl=False)
            last, finish = chunk.delta or last, chunk.finish
    finally:
        if last and not last.endswith("\n"):
            put()
    if finish and (note := CUT.get(finish.reason)):
        complain("note", note)


def plain(value: object) -> object:
    """Returns a value that JSON lacks in a form that JSON has: bytes as a list of numbers, times in ISO 8601."""
    match value:
        case bytes():
            return list(value)
        case datetime():
            return value.isoformat()
    raise TypeError(f"no JSON for {value!r}")


def to_json(result: object) -> str:
    """Returns a result as one line of JSON."""
    if not dataclasses.is_dataclass(result) or isinstance(result, type):
        raise TypeError(f"not a result: {result!r}")
    holds_all = sys.stdout is not None and codecs.lookup(sys.stdout.encoding).name == "utf-8"
    line = json.dumps(dataclasses.asdict(result), default=plain, ensure_ascii=not holds_all)
    return line.translate({code: f"\\u{code:04x}" for code in CONTROLS})  # JSON itself leaves those above U+007E


@click.command(cls=Command, epilog=DEFAULTS)
@click.argument("prompt", nargs=-1)
@click.option("--system", help="Instructions for the model.")
@answer_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with the answer and all its details.")
@click.option("--logprobs", is_flag=True, help="Report the log-probability of each token; needs --json.")
@click.option("--top-logprobs", type=click.IntRange(0, 20), help="Report this many likeliest tokens; needs --logprobs.")
@click.pass_obj
def ask(
    connection: Connection,
    prompt: tuple[str, ...],
    system: str | None,
    as_json: bool,
    **options: Unpack[AnswerOptions],
) -> None:
    """Answer PROMPT and print the answer while it is generated.

    The words of PROMPT are joined. `-` stands for standard input, which is also used if there is no PROMPT. A terminal
    shows control characters of the answer, except newlines and tabs, in the form \\x1b. A file or pipe gets them as
    they are.
    """
    if options.get("logprobs") and not as_json:
        raise click.UsageError("--logprobs needs --json")
    if options.get("top_logprobs") is not None and not options.get("logprobs"):
        raise click.UsageError("--top-logprobs needs --logprobs")
    require_output()
    text = read_prompt(prompt)

    @interruptible
    async def answer() -> None:
        async with connection.client() as client:
            with refusing():
                asked = client.chat_stream(text, system=system, **options)
            async with asked as stream:
                if as_json:
                    async for _ in stream:
                        pass
                    put(to_json(stream.result()))
                else:
                    await write(stream)

    asyncio.run(answer())
