"""Access over HTTP has the same rules as over gRPC."""

import asyncio
import shlex
import ssl
from pathlib import Path
from typing import Any

import httpx2
import pytest
from click.testing import CliRunner
from index_grpc_client.cli.commands import index_client

from index_grpc.access.command import new
from index_grpc.server.app import App
from tests.certificates import Pair, authority, issued
from tests.http.asking import COMPLETIONS, asking, error_of, fake_http
from tests.server.asking import until
from tests.server.fake_runner import fake_server, letters

TEXT = letters(20)


def trusting(folder: Path, shown: Pair | None = None) -> ssl.SSLContext:
    """The TLS context of a caller, with its own certificate if one is given."""
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    if shown is not None:
        context.load_cert_chain(shown.cert, shown.key)
    return context


async def completed(app: App, context: ssl.SSLContext) -> str:
    """The answer over a new connection."""
    async with httpx2.AsyncClient(verify=context, trust_env=False, timeout=30) as http:
        response = await http.post(f"https://{app.ports[0].address}{COMPLETIONS}", json=asking())
    return str(response.json()["choices"][0]["message"]["content"])


async def certificate_serial(app: App, context: ssl.SSLContext) -> str:
    """The serial number of the certificate that a new connection is shown."""
    host, _, port = app.ports[0].address.partition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    found = str(writer.get_extra_info("peercert")["serialNumber"])
    writer.transport.abort()
    return found


async def test_a_renewed_certificate_is_used_for_new_connections(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca.pem")
    pair, trusted = issued(ca, tmp_path, "server", "127.0.0.1"), trusting(tmp_path)
    async with fake_server(http_port=0, tls_cert=pair.cert, tls_key=pair.key) as server:
        assert await completed(server.app, trusted) == TEXT
        first = await certificate_serial(server.app, trusted)
        issued(ca, tmp_path, "server", "127.0.0.1")
        files = server.app.access.port.certificates
        assert files is not None
        before = files.value
        await until(lambda: files.value is not before)
        assert await certificate_serial(server.app, trusted) != first
        assert await completed(server.app, trusted) == TEXT


async def test_callers_without_a_certificate_are_kept_out(tmp_path: Path) -> None:
    ca = authority(tmp_path / "ca.pem")
    pair, caller = issued(ca, tmp_path, "server", "127.0.0.1"), issued(ca, tmp_path, "caller", "caller")
    authorities = tmp_path / "ca.pem"
    async with fake_server(http_port=0, tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=authorities) as server:
        assert await completed(server.app, trusting(tmp_path, caller)) == TEXT
        with pytest.raises((httpx2.TransportError, ssl.SSLError)):
            await completed(server.app, trusting(tmp_path))


async def test_beside_a_unix_socket_certificates_encrypt_http(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ca = authority(tmp_path / "ca.pem")
    pair, caller = issued(ca, tmp_path, "server", "127.0.0.1"), issued(ca, tmp_path, "caller", "caller")
    tls: dict[str, Any] = {"tls_cert": pair.cert, "tls_key": pair.key, "tls_client_ca": tmp_path / "ca.pem"}
    async with fake_server(unix_socket=tmp_path / "s", http_port=0, http_host="0.0.0.0", **tls) as server:
        server.app.ports[0].address = server.app.ports[0].address.replace("0.0.0.0", "127.0.0.1")
        assert await completed(server.app, trusting(tmp_path, caller)) == TEXT
        words = shlex.split(server.app.access.port.client_options(server.address))
        assert words == ["--address", f"unix:{tmp_path / 's'}"]
        asked = [*words, "ask", "Hi", "--max-tokens", "20"]
        result = await asyncio.to_thread(CliRunner().invoke, index_client, asked)
        assert (result.exit_code, result.stdout) == (0, f"{TEXT}\n")
    assert "can be reached from other machines" not in caplog.text


async def test_probes_need_a_key_where_health_is_closed(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    key = CliRunner().invoke(new, ["probe", "--file", str(keys)]).stdout.strip()
    async with fake_http(api_keys_file=keys, open_health=False) as (_, http):
        assert (await http.get("/health")).status_code == 401
        assert (await http.get("/livez", headers={"authorization": f"Bearer {key}"})).status_code == 200


async def test_keys(tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    key = CliRunner().invoke(new, ["alice", "--file", str(keys), "--max-concurrent", "1"]).stdout.strip()
    async with fake_http(api_keys_file=keys) as (server, http):
        known = {"authorization": f"Bearer {key}"}
        missing = await http.post(COMPLETIONS, json=asking())
        assert (missing.status_code, error_of(missing)["code"]) == (401, "key_missing")
        wrong = await http.post(COMPLETIONS, json=asking(), headers={"authorization": "Bearer wrong"})
        assert (wrong.status_code, error_of(wrong)["code"]) == (401, "invalid_api_key")
        assert (await http.post("/", json={"prompt": "Hi"})).status_code == 401
        assert (await http.get("/health")).status_code == 200
        server.runner.gate.clear()
        held = asyncio.create_task(http.post(COMPLETIONS, json=asking(), headers=known))
        await server.until_num_open(1)
        limited = await http.post(COMPLETIONS, json=asking(), headers=known)
        assert (limited.status_code, error_of(limited)["code"]) == (429, "rate_limited")
        assert int(limited.headers["retry-after"]) >= 1
        server.runner.gate.set()
        assert (await held).status_code == 200
