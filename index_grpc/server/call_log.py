"""A line in the log for each call."""

import logging

from index_grpc.server.calls import Call
from index_grpc.server.observer import Observer

log = logging.getLogger("index_grpc.calls")


class CallLog(Observer):
    """Writes how each call ended."""

    def call_ended(self, call: Call) -> None:
        """See Observer."""
        words = [f"id={call.id}", f"method={call.method}", f"code={call.code}"]
        if call.caller:
            words.append(f"caller={call.caller}")
        if call.error is not None:
            words.append(f"reason={call.error.reason}")
        if call.finish is not None:
            finish = call.finish
            words += [f"finish={finish.reason.value}", f"prompt_tokens={finish.prompt_tokens}"]
            words += [f"completion_tokens={finish.completion_tokens}", f"queue_seconds={finish.timing.queue:.3f}"]
            words.append(f"first_token_seconds={finish.timing.time_to_first_token:.3f}")
        words.append(f"total_seconds={call.seconds:.3f}")
        log.info("%s", " ".join(words))
