"""The exception classes, and which of them a failed call raises."""

import gc
from contextlib import suppress
from typing import NamedTuple

import grpc
import index_grpc_client
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2
from index_grpc_client import (
    IncompleteAnswerError,
    IndexGrpcError,
    InternalError,
    InvalidRequestError,
    PromptTooLongError,
    UnavailableError,
    Violation,
)
from index_grpc_client.errors import ERRORS, ERRORS_BY_REASON, translate
from index_grpc_client.request import Call, CallBuilder
from index_grpc_client.status import DETAILS_KEY, StatusDetails, status_details
from index_grpc_client.translation import translated

from .either import EitherClient, drained, settled
from .fake_server import Failure, Script, bad_request

CODES_WITH_A_CLASS = {
    "INVALID_ARGUMENT",
    "UNAVAILABLE",
    "DEADLINE_EXCEEDED",
    "UNAUTHENTICATED",
    "RESOURCE_EXHAUSTED",
    "CANCELLED",
    "INTERNAL",
}

LOSSES = {"UNAVAILABLE", "INTERNAL", "UNKNOWN"}
"""The usual status codes of a call that had begun and was then cut off."""


def rpc_error(failure: Failure) -> grpc.RpcError:
    trailers = grpc.aio.Metadata(*failure.trailers())
    return grpc.aio.AioRpcError(failure.code, grpc.aio.Metadata(), trailers, failure.message, "")


def test_the_tables_contain_every_exception_class() -> None:
    assert {code.name for code in ERRORS} == CODES_WITH_A_CLASS
    exported = {value for value in vars(index_grpc_client).values() if isinstance(value, type)}
    family = {value for value in exported if issubclass(value, IndexGrpcError)}
    classes = [*ERRORS.values(), *ERRORS_BY_REASON.values()]
    assert set(classes) == family - {IndexGrpcError, IncompleteAnswerError}
    assert len(set(classes)) == len(classes), "two codes or reasons share a class"
    assert issubclass(IncompleteAnswerError, UnavailableError)
    assert issubclass(PromptTooLongError, InvalidRequestError)
    assert issubclass(IndexGrpcError, grpc.RpcError)


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_every_status_code_becomes_an_exception_of_the_client(code: grpc.StatusCode) -> None:
    error = translate(rpc_error(Failure(code, "why")), "r1")
    assert type(error) is ERRORS.get(code, IndexGrpcError)
    assert (error.code(), error.details(), error.request_id, error.text) == (code, "why", "r1", "")
    assert str(error) == "why"


@pytest.mark.parametrize(("reason", "kind"), ERRORS_BY_REASON.items())
def test_a_reason_counts_before_the_code(reason: str, kind: type[IndexGrpcError]) -> None:
    for code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND):
        error = translate(rpc_error(Failure(code, "why", (error_details_pb2.ErrorInfo(reason=reason),))))
        assert (type(error), error.code(), error.reason) == (kind, code, reason)


class SoFar(NamedTuple):
    has_begun: bool
    text: str


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_a_loss_after_the_answer_began_is_an_incomplete_answer(code: grpc.StatusCode) -> None:
    error = translate(rpc_error(Failure(code, "why")), "r1", SoFar(True, "so far"))
    assert type(error) is (IncompleteAnswerError if code.name in LOSSES else ERRORS.get(code, IndexGrpcError))
    assert (error.code(), error.details(), error.request_id, error.text) == (code, "why", "r1", "so far")
    assert type(translate(rpc_error(Failure(code, "why")), "r1", SoFar(False, ""))) is ERRORS.get(code, IndexGrpcError)


def test_a_failure_that_the_service_reports_is_not_a_lost_connection() -> None:
    failed = Failure(grpc.StatusCode.INTERNAL, "why", (error_details_pb2.ErrorInfo(reason="REQUEST_FAILED"),))
    assert type(translate(rpc_error(failed), "r1", SoFar(True, "so far"))) is InternalError


def test_an_error_has_the_metadata_of_its_message() -> None:
    info = error_details_pb2.ErrorInfo(reason="OVERLOADED", metadata={"max_waiting": "8"})
    error = translate(rpc_error(Failure(grpc.StatusCode.UNAVAILABLE, "why", (info,))))
    assert error.metadata == {"max_waiting": "8"}
    assert translate(rpc_error(Failure(grpc.StatusCode.UNAVAILABLE, "why"))).metadata == {}


def test_what_the_message_says_is_not_said_again() -> None:
    violations = (Violation("prompt", "is empty"), Violation("seed", "is -1"))
    error = IndexGrpcError("prompt: is empty", details=StatusDetails(violations=violations))
    assert str(error) == "prompt: is empty\n  seed: is -1"


def test_the_cause_is_kept() -> None:
    cause = rpc_error(Failure(grpc.StatusCode.INTERNAL, "why"))
    call, channel = CallBuilder(1.0, api_key=None).model(), grpc.insecure_channel("127.0.0.1:1")
    with channel, pytest.raises(InternalError) as caught, translated(channel, call):
        raise cause
    assert caught.value.__cause__ is cause


def test_all_details_are_read() -> None:
    details = (
        error_details_pb2.ErrorInfo(reason="BAD", domain="index-grpc", metadata={"max_waiting": "8"}),
        error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
        error_details_pb2.RequestInfo(request_id="r9"),
        error_details_pb2.BadRequest(field_violations=[{"field": "stop[0]", "description": "is empty"}]),
        error_details_pb2.Help(),
    )
    read = status_details(Failure(grpc.StatusCode.INVALID_ARGUMENT, "why", details).trailers())
    assert read == StatusDetails("BAD", (Violation("stop[0]", "is empty"),), 1.5, "r9", {"max_waiting": "8"})


def test_the_request_id_may_come_as_a_trailer_of_its_own() -> None:
    assert status_details([("x-request-id", "r7")]).request_id == "r7"


@pytest.mark.parametrize("trailers", [[], [(DETAILS_KEY, b"\xff\xff")], [(DETAILS_KEY, "text")]])
def test_missing_or_broken_details_hide_nothing(trailers: list[tuple[str, str | bytes]]) -> None:
    assert status_details(trailers) == StatusDetails()


def test_an_error_without_text_shows_its_code() -> None:
    assert str(translate(rpc_error(Failure(grpc.StatusCode.UNAVAILABLE, "")))) == "UNAVAILABLE"
    failure = bad_request("", prompt="is empty")
    assert str(translate(rpc_error(failure))) == "INVALID_ARGUMENT\n  prompt: is empty"


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_request_is_freed_with_its_error(either: EitherClient, script: Script, is_streamed: bool) -> None:
    script.failures.append(Failure(grpc.StatusCode.INVALID_ARGUMENT, "why"))
    with suppress(InvalidRequestError):
        await (drained(either.chat_stream("Hi")) if is_streamed else settled(either.chat("Hi")))
    assert not any(type(thing) is Call for thing in gc.get_objects())
