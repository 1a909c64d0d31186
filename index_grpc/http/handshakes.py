"""TLS of the HTTP port. It counts handshakes, since the event loop reports a connection only after its handshake."""

import asyncio
import ssl
import weakref
from collections.abc import Callable

from index_grpc.access.certificates import Certificates
from index_grpc.access.files import Reloaded

HANDSHAKE_SECONDS = 10.0
"""The event loop closes a connection whose handshake takes longer; gRPC's port has the same limit."""


class Handshakes(ssl.SSLContext):
    """The TLS context of a port. It shows each new connection the current certificate, or refuses one too many."""

    certificates: Reloaded[Certificates]
    may_begin: Callable[[int], bool]
    """Whether one more connection is allowed while this many handshakes are going on."""
    _begun: "weakref.WeakSet[ssl.SSLObject]"

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Called by the event loop for each connection, which it closes if this raises."""
        if not self.may_begin(len(self._begun)):
            raise ssl.SSLError("there are too many connections")
        newest = self.certificates.value.context
        encrypted = newest.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        self._begun.add(encrypted)
        # The loop does not report a failed handshake, but drops the object. After this time none can still be going on.
        asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self._forget, weakref.ref(encrypted))
        return encrypted

    def end(self, encrypted: ssl.SSLObject | None) -> None:
        """Stops counting a connection whose handshake has ended."""
        if encrypted is not None:
            self._begun.discard(encrypted)

    def _forget(self, encrypted: "weakref.ref[ssl.SSLObject]") -> None:
        self.end(encrypted())

    @classmethod
    def of(cls, certificates: Reloaded[Certificates], may_begin: Callable[[int], bool]) -> "Handshakes":
        """Returns the context for a port's certificates and limit."""
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context.certificates, context.may_begin = certificates, may_begin
        context._begun = weakref.WeakSet()
        return context
