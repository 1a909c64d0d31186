"""The interface of logs, metrics, traces and load reports, which see all events and change none."""

import logging
from collections.abc import Callable, Sequence
from typing import Protocol

from index_grpc.datatypes import ServedModel, Timing
from index_grpc.engine.engine import Engine
from index_grpc.engine.orders import StepReport
from index_grpc.server.call import Call
from index_grpc.server.readiness import Readiness

log = logging.getLogger(__name__)


class Watched(Protocol):
    """The part of a server that observers may read: its supervisor has it."""

    readiness: Readiness
    engine: Engine | None

    @property
    def model(self) -> ServedModel | None:
        """The served model, once it has been loaded."""


class Observer:
    """Ignores all events; a subclass overrides those it needs. Called on the event loop, so it must be quick."""

    def starting(self, server: Watched) -> None:
        """Called when the server is about to listen. If it raises StartupError, the server does not listen."""

    def call_ended(self, call: Call) -> None:
        """Called when a call of the chat service or of the HTTP API has ended, in whatever way."""

    def stepped(self, step: StepReport) -> None:
        """Called when the engine has computed a step."""

    def answer_began(self, timing: Timing) -> None:
        """Called when a call's first token has been generated."""

    def answer_cut_short(self, num_tokens_saved: int) -> None:
        """Called when the rest of an answer is not wanted. At most `num_tokens_saved` tokens need not be generated."""

    def engine_lost(self) -> None:
        """Called when the engine broke or was given up."""

    def stopped(self) -> None:
        """Called last, when the server has stopped. May take a few seconds, as to send the remaining traces."""


class Observers(Observer):
    """Passes each event to several observers in order: a later one sees what an earlier one has set on a call.

    An observer that raises does not stop the others, except in `starting`.
    """

    def __init__(self, members: Sequence[Observer]) -> None:
        self.members = members
        self._broken: set[tuple[Observer, str]] = set()
        """Observers that raised, each with the event, so that each is logged once."""

    def starting(self, server: Watched) -> None:
        """See Observer. An exception is passed on."""
        for member in self.members:
            member.starting(server)

    def call_ended(self, call: Call) -> None:
        """See Observer."""
        self._tell("call_ended", lambda member: member.call_ended(call))

    def stepped(self, step: StepReport) -> None:
        """See Observer."""
        self._tell("stepped", lambda member: member.stepped(step))

    def answer_began(self, timing: Timing) -> None:
        """See Observer."""
        self._tell("answer_began", lambda member: member.answer_began(timing))

    def answer_cut_short(self, num_tokens_saved: int) -> None:
        """See Observer."""
        self._tell("answer_cut_short", lambda member: member.answer_cut_short(num_tokens_saved))

    def engine_lost(self) -> None:
        """See Observer."""
        self._tell("engine_lost", lambda member: member.engine_lost())

    def stopped(self) -> None:
        """See Observer."""
        self._tell("stopped", lambda member: member.stopped())

    def _tell(self, event: str, tell: Callable[[Observer], None]) -> None:
        for member in self.members:
            try:
                tell(member)
            except Exception:
                if (member, event) not in self._broken:
                    self._broken.add((member, event))
                    log.exception(
                        "%s failed on %s; further failures on this are not logged", type(member).__name__, event
                    )
