"""The settings of access control."""

from typing import Self

from pydantic import Field, model_validator

from index_grpc.settings.topic import GivenPath, Topic, refuse


class Access(Topic):
    """Encryption and keys."""

    tls_cert: GivenPath | None = Field(
        None,
        description="Encrypt TCP ports: file with the server's certificate and its chain, PEM. Read again when it "
        "changes.",
    )
    tls_key: GivenPath | None = Field(None, description="File with the private key of that certificate, PEM.")
    tls_client_ca: GivenPath | None = Field(
        None, description="Take only callers with a certificate signed by one in this file, PEM (mutual TLS)."
    )
    api_keys_file: GivenPath | None = Field(
        None,
        description="Take only calls with a key of this file; `index-grpc keys new` adds one. Read again too.",
    )
    open_health: bool = Field(True, description="Answer health checks without a key too, since probes have none.")
    open_reflection: bool = Field(False, description="Describe the service to tools without a key too.")

    @model_validator(mode="after")
    def _refuse_half_a_lock(self) -> Self:
        refuse(
            (bool(self.tls_cert) != bool(self.tls_key), "--tls-cert and --tls-key go together; give both"),
            (self.tls_client_ca and not self.tls_cert, "--tls-client-ca goes with --tls-cert and --tls-key; add them"),
            (not (self.open_health or self.api_keys_file), "--no-open-health goes with --api-keys-file; add it"),
        )
        return self
