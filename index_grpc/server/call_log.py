"""Writes a line into the log for each call."""

import logging

from index_grpc.datatypes import Usage
from index_grpc.logs import Event
from index_grpc.server.call import Call
from index_grpc.server.observer import Observer

MOST_LOGGED_CHARACTERS = 32_768
"""The most that is logged of a prompt or an answer: a prompt that is refused for its length may have millions."""

Fields = dict[str, str | int | float]

log = logging.getLogger("index_grpc.calls")


class CallLog(Observer):
    """Logs how each call ended. Logs prompt and answer only if the call has kept the answer's text for it."""

    def call_ended(self, call: Call) -> None:
        """See Observer."""
        fields: Fields = {"request_id": call.id, "method": call.method, "code": call.code}
        if call.caller:
            fields["caller"] = call.caller
        if call.error is not None:
            fields["reason"] = call.error.reason
        if call.finish is not None:
            fields["finish"] = call.finish.reason.value
        if (usage := call.usage) is not None:
            fields |= _of_usage(usage)
        fields["total_seconds"] = round(call.seconds, 6)
        if call.http is not None:
            fields["http_method"] = call.http.method
        if call.peer:
            fields["peer"] = call.peer
        if call.trace_id:
            fields["trace_id"] = call.trace_id
        if call.request is not None and call.deltas is not None:
            fields["prompt"] = _shortened(call.request.prompt)
            fields["answer"] = _shortened("".join(call.deltas))
        log.info(Event("call", fields))


def _of_usage(usage: Usage) -> Fields:
    fields: Fields = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    if (timing := usage.timing) is not None:
        fields |= {
            "cached_prompt_tokens": usage.cached_prompt_tokens,
            "queue_seconds": round(timing.queue, 6),
            "first_token_seconds": round(timing.time_to_first_token, 6),
        }
    return fields


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_LOGGED_CHARACTERS else f"{text[:MOST_LOGGED_CHARACTERS]}…"
