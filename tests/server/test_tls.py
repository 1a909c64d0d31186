"""Encryption: real handshakes, certificates that are replaced under load, and callers that are refused."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from index_grpc_client import AsyncClient, Client, tls_credentials
from index_grpc_client.v1 import chat_pb2 as pb
from index_grpc_client.v1.chat_pb2_grpc import ChatServiceStub

from index_grpc.errors import StartupError
from index_grpc.server.app import App
from tests.certificates import Pair, authority, issued, lock, trusting
from tests.conftest import settings
from tests.server.asking import refusal, unary, until
from tests.server.fake_runner import FakeServer, fake_server, letters

REQUEST = pb.ChatRequest(prompt="Hi", max_tokens=5)
TEXT = letters(5)
HOSTS = ("localhost", "127.0.0.1")
APART = [("grpc.use_local_subchannel_pool", 1)]
"""Channels with these options never share a connection."""


@pytest.fixture
def ca(tmp_path: Path) -> trustme.CA:
    return authority(tmp_path / "ca.pem")


@pytest.fixture
def pair(ca: trustme.CA, tmp_path: Path) -> Pair:
    return issued(ca, tmp_path, "server", *HOSTS)


def comment(path: Path) -> None:
    """Adds text that is not ASCII, in two encodings, before and after the file's contents."""
    path.write_bytes("subject=O = Müller GmbH\n".encode() + path.read_bytes() + "# Größe\n".encode("latin-1"))


@asynccontextmanager
async def tls_server(pair: Pair, tls_client_ca: Path | None = None) -> AsyncIterator[FakeServer]:
    async with fake_server(tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=tls_client_ca) as server:
        yield server


async def call(server: FakeServer, credentials: grpc.ChannelCredentials) -> str:
    """The answer over a new connection."""
    async with grpc.aio.secure_channel(server.address, credentials, options=APART) as channel:
        return await unary(ChatServiceStub(channel), REQUEST)


async def refused(server: FakeServer, credentials: grpc.ChannelCredentials) -> str:
    """The message with which a new connection fails."""
    async with grpc.aio.secure_channel(server.address, credentials, options=APART) as channel:
        found = await refusal(ChatServiceStub(channel).Chat(REQUEST))
    assert found.code is grpc.StatusCode.UNAVAILABLE
    return found.message


async def test_encrypted_calls(ca: trustme.CA, pair: Pair) -> None:
    async with tls_server(pair) as server:
        assert await call(server, trusting(ca)) == TEXT
        async with AsyncClient(server.address, credentials=tls_credentials(pair.cert)) as client:
            assert (await client.chat("Hi", max_tokens=5)).text == TEXT
        assert (await refusal(server.stub.Chat(REQUEST))).code is grpc.StatusCode.UNAVAILABLE  # not encrypted


async def test_a_certificate_is_replaced_under_load(
    ca: trustme.CA, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr("index_grpc.access.files.CHECK_SECONDS", 0.01)
    both = grpc.ssl_channel_credentials(ca.cert_pem.bytes() + (later := trustme.CA()).cert_pem.bytes())
    async with tls_server(pair) as server:
        ends = asyncio.Event()

        async def keep_calling() -> int:
            num_calls = 0
            while not ends.is_set():
                assert await call(server, both) == TEXT  # each over a new connection
                num_calls += 1
            return num_calls

        async with grpc.aio.secure_channel(server.address, trusting(ca), options=APART) as old:
            assert await unary(ChatServiceStub(old), REQUEST) == TEXT
            callers = [asyncio.create_task(keep_calling()) for _ in range(4)]
            issued(later, tmp_path, "server", *HOSTS)
            await until(lambda: "replaced the certificate" in caplog.text)
            assert await call(server, trusting(later)) == TEXT
            assert "CERTIFICATE_VERIFY_FAILED" in await refused(server, trusting(ca))
            assert await unary(ChatServiceStub(old), REQUEST) == TEXT  # existing connections continue
            ends.set()
            assert all(await asyncio.gather(*callers))


async def test_text_between_the_certificates_is_ignored(
    ca: trustme.CA, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenSSL writes such text before each certificate, to say whose it is."""
    monkeypatch.setattr("index_grpc.access.files.CHECK_SECONDS", 0.01)
    caplog.set_level("INFO")
    authorities, mine = tmp_path / "ca.pem", issued(ca, tmp_path, "mine", "caller")
    for path in (pair.cert, pair.key, authorities):
        comment(path)
    async with tls_server(pair, tls_client_ca=authorities) as server:
        assert await call(server, trusting(ca, mine)) == TEXT
        renewed = issued(ca, tmp_path, "renewed", *HOSTS)
        comment(renewed.cert)
        pair.key.write_bytes(renewed.key.read_bytes())
        renewed.cert.replace(pair.cert)
        await until(lambda: "replaced" in caplog.text)
        assert await call(server, trusting(ca, mine)) == TEXT


async def test_a_mismatched_pair_changes_nothing_until_it_is_corrected(
    ca: trustme.CA, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("index_grpc.access.files.CHECK_SECONDS", 0.01)
    caplog.set_level("INFO")
    async with tls_server(pair) as server:
        other = issued(trustme.CA(), tmp_path, "other", *HOSTS)
        other.cert.replace(pair.cert)  # the key is replaced later
        await until(lambda: "does not match" in caplog.text)
        assert await call(server, trusting(ca)) == TEXT
        issued(ca, tmp_path, "server", *HOSTS)
        await until(lambda: "replaced" in caplog.text)
        assert await call(server, trusting(ca)) == TEXT
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "does not match" in warnings[0]  # more warnings may follow if the files are read while they are corrected
    assert all("what was read before stays in force" in warning for warning in warnings)


async def test_an_expired_certificate_is_warned_about_and_callers_refuse_it(
    ca: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pair = issued(ca, tmp_path, "server", *HOSTS, expired=True)
    async with tls_server(pair) as server:
        assert "CERTIFICATE_VERIFY_FAILED" in await refused(server, trusting(ca))
        told = f"callers will not accept the certificate of --tls-cert {pair.cert} (certificate has expired); renew it"
        assert caplog.messages == [told]


async def test_callers_need_a_certificate_of_the_given_authority(ca: trustme.CA, pair: Pair, tmp_path: Path) -> None:
    async with tls_server(pair, tls_client_ca=tmp_path / "ca.pem") as server:
        mine = issued(ca, tmp_path, "mine", "caller")
        assert await call(server, trusting(ca, mine)) == TEXT
        with Client(server.address, credentials=tls_credentials(pair.cert, cert=mine.cert, key=mine.key)) as client:
            assert (await asyncio.to_thread(client.chat, "Hi", max_tokens=5)).text == TEXT
        await refused(server, trusting(ca))
        await refused(server, trusting(ca, issued(trustme.CA(), tmp_path, "strangers", "caller")))
        await refused(server, trusting(ca, issued(ca, tmp_path, "old", "caller", expired=True)))


async def test_the_authority_of_callers_may_be_replaced(
    ca: trustme.CA, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("index_grpc.access.files.CHECK_SECONDS", 0.01)
    caplog.set_level("INFO")
    mine = issued(ca, tmp_path, "mine", "caller")
    async with tls_server(pair, tls_client_ca=tmp_path / "ca.pem") as server:
        assert await call(server, trusting(ca, mine)) == TEXT
        later = authority(tmp_path / "ca.pem")
        await until(lambda: "replaced" in caplog.text)
        await refused(server, trusting(ca, mine))
        assert await call(server, trusting(ca, issued(later, tmp_path, "new", "caller"))) == TEXT


@pytest.mark.parametrize(
    ("broken", "error"),
    [
        ({"tls_cert": None}, "cannot be read (No such file or directory)"),
        ({"tls_cert": "nonsense"}, "holds no complete certificate in PEM"),
        ({"tls_cert": ""}, "holds no complete certificate in PEM"),
        ({"tls_key": None}, "cannot be read"),
        ({"tls_key": "nonsense"}, "is no private key in PEM that goes with --tls-cert"),
        ({"tls_client_ca": None}, "--tls-client-ca"),
        ({"tls_client_ca": "nonsense"}, "holds no complete certificate in PEM"),
    ],
    ids=str,
)
def test_files_that_cannot_be_used(pair: Pair, tmp_path: Path, broken: dict[str, str | None], error: str) -> None:
    files = {"tls_cert": pair.cert, "tls_key": pair.key, "tls_client_ca": tmp_path / "ca.pem"}
    for name, content in broken.items():
        files[name] = tmp_path / "broken"
        if content is not None:
            files[name].write_text(content)
    with pytest.raises(StartupError) as caught:
        App(settings("any", **files))
    assert error in str(caught.value)
    (flag,) = (f"--{name.replace('_', '-')}" for name in broken)
    assert str(caught.value).startswith(f"{flag} {tmp_path / 'broken'}")


def test_a_key_of_another_certificate_or_with_a_password_is_refused(ca: trustme.CA, pair: Pair, tmp_path: Path) -> None:
    other = issued(ca, tmp_path, "other", *HOSTS)
    with pytest.raises(StartupError, match=r"--tls-key \S+other.key does not match --tls-cert \S+server.pem"):
        App(settings("any", tls_cert=pair.cert, tls_key=other.key))
    of_another_type = ca.issue_cert(*HOSTS, key_type=trustme.KeyType.RSA)
    other.key.write_bytes(of_another_type.private_key_pem.bytes())
    with pytest.raises(StartupError, match=r"--tls-key \S+other.key does not match --tls-cert \S+server.pem"):
        App(settings("any", tls_cert=pair.cert, tls_key=other.key))
    lock(pair.key)
    with pytest.raises(StartupError, match=r"--tls-key \S+server.key is encrypted with a password; `openssl pkey`"):
        App(settings("any", tls_cert=pair.cert, tls_key=pair.key))
