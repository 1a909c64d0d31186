"""Reads a call's only message as bytes, and checks it before it is parsed."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from google.protobuf.message import DecodeError, Message
from index_grpc_client.v1 import chat_pb2 as pb

from index_grpc.errors import InvalidRequest, Violation
from index_grpc.server.status import Context
from index_grpc.server.validate import refuse_too_many_messages

MESSAGE_SECONDS = 60.0
"""How long a call may take to send its message. A body over HTTP has the same limit."""
CANCEL_SECONDS = 1.0
"""How long to wait for the cancel of a call that ended without a message, if the event loop keeps up."""
MOST_WAITS = 30
"""How often to wait for a cancel if the event loop is late."""

INCOMPLETE = f"no complete message arrived before the call ended or {MESSAGE_SECONDS:g} s had passed; send one"

HISTORY_TAG = pb.ChatRequest.DESCRIPTOR.fields_by_name["history"].number << 3 | 2
"""The tag of one message of the history; all requests with a history have the same."""
LONGEST_VARINT = 10
"""The most bytes of a 64-bit number."""
MOST_OTHER_FIELDS = 1_000
"""The most fields besides the history's messages. A field may be two bytes, and takes fifty once it is parsed."""

Parse: TypeAlias = Callable[[bytes], Message]


async def read_message(context: Context) -> bytes | None:
    """Returns a call's only message; None if it does not come whole. gRPC itself would leave such a call open for ever.

    The handler must be registered as one that takes a stream: only such a handler sees a call end without a message.
    """
    try:
        async with asyncio.timeout(MESSAGE_SECONDS):
            data: Any = await context.read()
    except TimeoutError:
        return None
    if isinstance(data, bytes):
        return data
    await _until_cancelled_if_left()
    return None


async def _until_cancelled_if_left() -> None:
    """Waits long enough for the call to be cancelled if its caller has left, which must not be reported as a mistake.

    Where thousands of callers leave at once, the cancels take some time.
    """
    for _ in range(MOST_WAITS):
        before = time.monotonic()
        await asyncio.sleep(CANCEL_SECONDS)
        if time.monotonic() - before < 1.5 * CANCEL_SECONDS:
            return


def parsed(parse: Parse, data: bytes | None, context_length: int) -> Message:
    """Returns the parsed message, for a model with `context_length` positions.

    Raises:
        InvalidRequest: the message did not come whole, does not parse, or has too many fields.
        PromptTooLong: the turn marks of the history's messages alone fill the context.
    """
    if data is None:
        raise InvalidRequest(Violation("request", INCOMPLETE))
    try:
        _require_few_fields(data, context_length)
        return parse(data)
    except (DecodeError, IndexError):
        problem = f"{len(data)} bytes that do not parse; send a message of index/v1/chat.proto, strings in UTF-8"
        raise InvalidRequest(Violation("request", problem)) from None


def _require_few_fields(data: bytes, context_length: int) -> None:
    """Refuses too many fields before they are parsed: megabytes of tiny ones would take gigabytes and seconds."""
    num_history = num_others = 0
    for tag in _tags(data):
        if tag == HISTORY_TAG:
            num_history += 1
            refuse_too_many_messages(num_history, context_length)
        else:
            num_others += 1
        if num_others > MOST_OTHER_FIELDS:
            problem = f"has over {MOST_OTHER_FIELDS} fields beside its history; send each once, and at most 16 stops"
            raise InvalidRequest(Violation("request", problem))


def _tags(data: bytes) -> Iterator[int]:
    """Yields each field's tag: its number and wire type. Raises IndexError if the bytes end within a number."""
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        yield tag
        match tag & 7:
            case 0:
                _, place = _varint(data, place)
            case 1:
                place += 8
            case 2:
                size, place = _varint(data, place)
                place += size
            case 5:
                place += 4
            # groups: their fields follow as usual; other wire types do not parse


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """Returns the number that begins at a place, and the place after it. Raises IndexError if it does not end."""
    value = data[place]
    if value < 0x80:  # as nearly all are
        return value, place + 1
    value = 0
    for shift in range(0, 7 * LONGEST_VARINT, 7):
        value |= (data[place] & 0x7F) << shift
        place += 1
        if data[place - 1] < 0x80:
            return value, place
    raise IndexError("no number is longer")
