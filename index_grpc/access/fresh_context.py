"""Encryption for ports of Python's own: each new connection is shown the certificate of the moment."""

import ssl

from index_grpc.access.certificates import Certificates
from index_grpc.access.files import Reloaded


class FreshContext(ssl.SSLContext):
    """Lets the newest certificate's context do the work."""

    certificates: Reloaded[Certificates]

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Called by the event loop for each connection."""
        context = self.certificates.value.context
        return context.wrap_bio(incoming, outgoing, server_side, server_hostname, session)
