"""`POST /` as common tutorials serve a chat model: a prompt and earlier turns in, the whole answer out."""

from typing import Annotated

from index_grpc_client.v1 import chat_pb2 as pb
from pydantic import ConfigDict, Field, StrictStr

from index_grpc.http.clock import clock_time
from index_grpc.http.endpoint import Exchange
from index_grpc.http.form import Form, UInt32, naming, read
from index_grpc.server.answering import Answering

Pair = Annotated[tuple[StrictStr, StrictStr], Field(strict=False)]
"""A question and its answer."""


class TutorialForm(Form):
    """The body. As in the tutorials, 0 and null mean the default, and unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore")
    conversation = "history"

    prompt: str = ""
    history: list[Pair] = Field([], fail_fast=True)
    max_length: UInt32 | None = None
    top_p: float | None = None
    top_k: UInt32 | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None

    @classmethod
    def is_absent(cls, value: object) -> bool:
        """See Form."""
        return not value

    @classmethod
    def num_history(cls, num_turns: int) -> int:
        """See Form."""
        return 2 * num_turns

    def proto(self) -> pb.ChatRequest:
        """Returns the same request for gRPC."""
        roles = (pb.ROLE_USER, pb.ROLE_ASSISTANT)
        turns = [(role, text) for pair in self.history for role, text in zip(roles, pair, strict=True)]
        return pb.ChatRequest(
            prompt=self.prompt,
            history=[pb.Message(role=role, content=text) for role, text in turns],
            max_tokens=self.max_length,
            sampling=pb.SamplingParams(
                top_p=self.top_p,
                top_k=self.top_k,
                temperature=self.temperature,
                repetition_penalty=self.repetition_penalty,
            ),
        )


class Tutorial:
    """Answers `POST /`."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering

    async def answer(self, exchange: Exchange) -> None:
        """Sends the whole answer, with the history to send in the next request."""
        call, backend = exchange.call, self._answering.ready(for_answer=True)
        form = read(TutorialForm, exchange.body, backend.model)
        with naming(_name), await self._answering.answer(form.proto(), call, backend, whole=True) as chunks:
            text = "".join([chunk.delta async for chunk in chunks])
        history = [*form.history, (form.prompt, text)]
        await exchange.writer.send_json({"response": text, "history": history, "status": 200, "time": clock_time()})


def _name(field: str) -> str:
    return "max_length" if field == "max_tokens" else field.removeprefix("sampling.")
