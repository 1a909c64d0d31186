"""Bytes to send as requests: valid ones with extreme values, nearly valid ones, and arbitrary ones."""

import random
import struct
from typing import Any

from google.protobuf.message import Message
from index_grpc_client.v1 import chat_pb2 as pb

REQUESTS: dict[str, type[Message]] = {
    "Chat": pb.ChatRequest,
    "ChatStream": pb.ChatRequest,
    "CountTokens": pb.CountTokensRequest,
    "GetModel": pb.GetModelRequest,
}

FLOATS = [0.0, -0.0, 1.0, 2.0, 10.0, 1e-45, 1e-7, -1e-7, 3.4e38, float("nan"), float("inf"), float("-inf")]
NUMBERS = [0, 1, 2, 5, 16, 20, 21, 2**7, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
SIGNED = [*NUMBERS[:-2], -1, -(2**31)]
TEXTS = [
    "",
    "Hi",
    "你好",
    "\0",
    "\ufffe\uffff",
    "👩\u200d👩\u200d👧",
    "\u202e" * 40,
    "<unk><s></s>reserved_0",
    "\r\n",
    "%s{0}\\x",
]
LONGEST_TEXT = 20_000
LONGEST_JUNK = 300
LONGEST_STOP = 300
LONGEST_DATA = 2**18
VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)


class Mutator:
    """Makes random requests from a seed."""

    def __init__(self, seed: str) -> None:
        self._draw = random.Random(seed)

    def method_and_data(self) -> tuple[str, bytes]:
        """A method, and the bytes to send to it."""
        draw = self._draw
        method = draw.choice(list(REQUESTS))
        kind = draw.random()
        if kind < 0.1:
            return method, draw.randbytes(draw.randrange(LONGEST_JUNK))
        if kind < 0.3:
            return method, self._junk_fields(depth=0)
        data: bytes = self._message(REQUESTS[draw.choice([method, "Chat"])]).SerializeToString()
        for _ in range(draw.choice([0, 0, 1, 1, 2, 5])):
            data = self._mutated(data)[:LONGEST_DATA]
        return method, data

    def _message(self, kind: type[Message]) -> Any:
        message: Any = kind()
        if kind is pb.GetModelRequest:
            return message
        message.prompt = self._text()
        for _ in range(self._draw.choice([0, 0, 1, 3])):
            message.history.add(role=self._draw.choice([0, 1, 2, 2, 2, 2, 3, 3, 3, 3, 17, -1]), content=self._text())
        if kind is pb.ChatRequest:
            self._fill(message)
        return message

    def _fill(self, message: pb.ChatRequest) -> None:
        draw = self._draw
        for field in pb.SamplingParams.DESCRIPTOR.fields:
            if draw.random() < 0.05:
                values = FLOATS if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE) else NUMBERS
                setattr(message.sampling, field.name, draw.choice(values))
        if draw.random() < 0.5:
            message.max_tokens = draw.choice(NUMBERS)
        if draw.random() < 0.2:
            message.stop.extend(self._text()[:LONGEST_STOP] for _ in range(draw.choice([1, 2, 16, 17, 200])))
        if draw.random() < 0.2:
            message.time_limit.seconds = draw.choice([0, 0, 0, *SIGNED, 2**63 - 1, -(2**63)])
            message.time_limit.nanos = draw.choice([1, 1, *SIGNED])
        if draw.random() < 0.2:
            message.logprobs, message.top_logprobs = draw.random() < 0.8, draw.choice(NUMBERS)
        if draw.random() < 0.1:
            message.model = self._text()

    def _text(self) -> str:
        draw = self._draw
        text = draw.choice(TEXTS) * draw.choice([1, 1, 1, 3, 300, 3000])
        if draw.random() < 0.3:
            text += "".join(
                chr(draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)])) for _ in range(9)
            )
        return text[:LONGEST_TEXT]

    def _mutated(self, data: bytes) -> bytes:
        draw = self._draw
        place = draw.randrange(len(data) + 1)
        ways = [
            lambda: data[:place],
            lambda: data[place:],
            lambda: data[:place] + draw.randbytes(draw.randrange(1, 9)) + data[place:],
            lambda: data[:place] + data[place + draw.randrange(1, 9) :],
            lambda: data[:place] + self._junk_fields(depth=0) + data[place:],
            lambda: data + self._junk_fields(depth=0),
            lambda: data * draw.randrange(2, 5),
            lambda: self._flipped(data, place),
            lambda: self._flipped(data, place),
        ]
        return draw.choice(ways)()

    def _flipped(self, data: bytes, place: int) -> bytes:
        if place == len(data):
            return data
        return data[:place] + bytes([data[place] ^ (1 << self._draw.randrange(8))]) + data[place + 1 :]

    def _junk_fields(self, depth: int) -> bytes:
        """Well-formed fields: some with known numbers but wrong types, and nested groups and messages."""
        return b"".join(self._junk_field(depth) for _ in range(self._draw.choice([1, 2, 5])))

    def _junk_field(self, depth: int) -> bytes:
        draw = self._draw
        number = draw.choice([*range(1, 12), 15, 1000, 2**29 - 1])
        wire = draw.choice([VARINT, FIXED64, BYTES, BYTES, GROUP, FIXED32])
        tag = varint(number << 3 | wire)
        if wire == VARINT:
            return tag + draw.choice(
                [varint(draw.getrandbits(64)), b"\xff" * 9 + b"\x01", b"\xff" * 11, b"\x80" * 4 + b"\x00"]
            )
        if wire == FIXED64:
            return tag + struct.pack("<d", draw.choice(FLOATS))
        if wire == FIXED32:
            return tag + struct.pack("<f", draw.choice(FLOATS) if draw.random() < 0.5 else draw.random())
        if wire == GROUP:
            depth_here = draw.choice([1, 5, 99, 101, 2000])
            return tag * depth_here + varint(number << 3 | END_GROUP) * (depth_here - (draw.random() < 0.1))
        inner = (
            self._junk_fields(depth + 1) if depth < 4 and draw.random() < 0.6 else draw.randbytes(draw.randrange(40))
        )
        length = len(inner) if draw.random() < 0.9 else draw.choice([0, 2**31 - 1, 2**32, 2**64 - 1])
        return tag + varint(length) + inner


def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    parts = []
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])
