"""Encryption of the HTTP port: the event loop tells nobody of a connection before its handshake is done."""

import asyncio
import ssl
import weakref
from collections.abc import Callable

from index_grpc.access.certificates import Certificates
from index_grpc.access.files import Reloaded

HANDSHAKE_SECONDS = 10.0
"""After so long the event loop ends a connection whose handshake is not done: as on gRPC's port."""


class Handshakes(ssl.SSLContext):
    """The encryption of a port: each new connection is shown the certificate of the moment, if it may be one more."""

    certificates: Reloaded[Certificates]
    may_begin: Callable[[int], bool]
    """Whether one more connection may be, where so many are in their handshakes."""
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
        # The loop does not say when a handshake fails. It lets go of the object then; after this time it has.
        asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self._forget, weakref.ref(encrypted))
        return encrypted

    def end(self, encrypted: ssl.SSLObject | None) -> None:
        """A connection's handshake is over."""
        if encrypted is not None:
            self._begun.discard(encrypted)

    def _forget(self, encrypted: "weakref.ref[ssl.SSLObject]") -> None:
        self.end(encrypted())

    @classmethod
    def of(cls, certificates: Reloaded[Certificates], may_begin: Callable[[int], bool]) -> "Handshakes":
        """For as many connections as come."""
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context.certificates, context.may_begin = certificates, may_begin
        context._begun = weakref.WeakSet()
        return context
