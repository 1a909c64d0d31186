"""The server's settings: one frozen class, filled from flags, environment and file, with a base class per topic."""

from typing import Self

from pydantic import model_validator

from index_grpc.settings.access import Access
from index_grpc.settings.computing import Computing, ModelChoice, Queue
from index_grpc.settings.listening import Listening
from index_grpc.settings.operating import Observing, Stopping
from index_grpc.settings.port_collisions import Port, collision
from index_grpc.settings.topic import Topic, refuse

TOPICS: dict[str, type[Topic]] = {
    "Model": ModelChoice,
    "Listening": Listening,
    "Access": Access,
    "Engine": Computing,
    "Queue": Queue,
    "Stopping": Stopping,
    "Observing": Observing,
}
"""How the settings are grouped for people who read them."""


class ServeSettings(Observing, Stopping, Queue, Computing, Access, Listening, ModelChoice):
    """The settings of `index-grpc serve`. Each field is a flag, a variable INDEX_GRPC_<NAME> and a key of the file.

    Fields are listed from the last base class to the first.
    """

    @model_validator(mode="after")
    def _refuse_needless_encryption(self) -> Self:
        needless = self.tls_cert and self.unix_socket and self.http_port is None
        remedy = "leave --tls-cert and --tls-key out, or add the --http-port to encrypt"
        refuse((needless, f"--unix-socket needs no encryption; {remedy}"))
        return self

    @model_validator(mode="after")
    def _refuse_ports_that_collide(self) -> Self:
        http_host = self.http_host or self.host
        ports = [
            None if self.unix_socket else Port("--port", self.host, self.port),
            None if self.http_port is None else Port("--http-port", http_host, self.http_port),
            None if self.metrics_port is None else Port("--metrics-port", self.address_of_metrics, self.metrics_port),
        ]
        problem = collision(filter(None, ports))
        refuse((problem, str(problem)))
        return self
