"""The body of `POST /v1/chat/completions`: OpenAI's fields, and supported ones of other servers of open models."""

from typing import Annotated, ClassVar, Literal

from google.protobuf.duration_pb2 import Duration
from index_grpc_client.v1 import chat_pb2 as pb
from pydantic import AfterValidator, BeforeValidator, Field

from index_grpc.errors import InvalidRequest, Violation
from index_grpc.http.form import LARGEST, Form, UInt32
from index_grpc.server.validate import MOST_VIOLATIONS

ROLES = {
    "system": pb.ROLE_SYSTEM,
    "developer": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
}
MOST_PARTS = 1024


class TextPart(Form):
    """A part of a message's content."""

    type: Literal["text"]
    text: str = ""


def _as_parts(content: object) -> object:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_list(stop: object) -> object:
    return [stop] if isinstance(stop, str) else stop


def _off(top_k: int) -> int:
    return 0 if top_k == -1 else top_k


Parts = Annotated[list[TextPart], Field(max_length=MOST_PARTS, fail_fast=True), BeforeValidator(_as_parts)]
Stops = Annotated[list[str], Field(fail_fast=True), BeforeValidator(_as_list)]
TopK = Annotated[int, Field(ge=-1, le=LARGEST), AfterValidator(_off)]


class MessageForm(Form):
    """A turn of the conversation."""

    ignored = frozenset({"name"})

    role: Literal["system", "developer", "user", "assistant"]
    content: Parts = Field([])

    @property
    def text(self) -> str:
        """The text of all parts, each on a line of its own."""
        return "\n".join(part.text for part in self.content)


class StreamOptions(Form):
    """What a stream sends besides the text."""

    ignored = frozenset({"include_obfuscation"})

    include_usage: bool = False


class TextFormat(Form):
    """The only response format that answers can have."""

    type: Literal["text"]


class CompletionForm(Form):
    """The body. Unsupported fields that would change the answer are refused by name; hints and labels are ignored."""

    ignored: ClassVar[frozenset[str]] = frozenset(
        {
            "metadata",
            "parallel_tool_calls",
            "prompt_cache_key",
            "prompt_cache_retention",
            "safety_identifier",
            "service_tier",
            "store",
            "user",
        }
    )
    conversation = "messages"

    messages: list[MessageForm] = Field([], fail_fast=True)
    model: str = ""
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    max_tokens: UInt32 | None = None
    max_completion_tokens: UInt32 | None = None
    stop: Stops = Field([])
    temperature: float | None = None
    top_p: float | None = None
    top_k: TopK | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: UInt32 | None = None
    logprobs: bool = False
    top_logprobs: UInt32 | None = None
    time_limit: Annotated[float, Field(ge=0, le=1e9)] | None = None
    n: Literal[1] = 1
    modalities: list[Literal["text"]] = Field(["text"])
    response_format: TextFormat = TextFormat(type="text")

    @classmethod
    def num_history(cls, num_turns: int) -> int:
        """See Form. The last turn is the prompt."""
        return num_turns - 1

    def proto(self) -> pb.ChatRequest:
        """Returns the same request for gRPC. Raises InvalidRequest if the order of the messages is not allowed."""
        self._check_order()
        *history, last = self.messages
        return pb.ChatRequest(
            prompt=last.text,
            history=[pb.Message(role=ROLES[message.role], content=message.text) for message in history],
            sampling=self._sampling(),
            max_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            stop=self.stop,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs,
            time_limit=None if self.time_limit is None else _duration(self.time_limit),
            model=self.model,
        )

    def name(self, field: str) -> str:
        """Returns this form's name for a field of gRPC's request."""
        if field == "prompt":
            return f"messages[{len(self.messages) - 1}].content"
        if field == "max_tokens" and self.max_completion_tokens is not None:
            return "max_completion_tokens"
        return field.removeprefix("sampling.")

    def _check_order(self) -> None:
        if not self.messages:
            raise InvalidRequest(Violation("messages", "is missing or empty; send at least one message"))
        last = len(self.messages) - 1
        violations = [
            Violation(f"messages[{index}].role", f"is '{message.role}'; allowed only in messages[0]; move it there")
            for index, message in enumerate(self.messages)
            if index and ROLES[message.role] == pb.ROLE_SYSTEM
        ]
        if self.messages[last].role != "user" and not violations:
            remedy = "the last message should be the user's"
            violations = [Violation(f"messages[{last}].role", f"is '{self.messages[last].role}'; {remedy}")]
        if violations:
            raise InvalidRequest(*violations[:MOST_VIOLATIONS])

    def _sampling(self) -> pb.SamplingParams:
        return pb.SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            seed=self.seed,
        )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration
