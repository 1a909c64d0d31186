"""Flags, environment, file and defaults: which one takes precedence, what is refused, and what is printed."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as some

from index_grpc.cli import main
from index_grpc.configuration.environment import is_of_kubernetes
from index_grpc.configuration.file import as_toml
from index_grpc.settings import TOPICS, ServeSettings

CHANGED = """
model = "IndexTeam/Index-1.9B-Chat"
revision = "v1.0\\t\\"quoted\\" 模型 🙂 \\u007f"
host = "::"
max_sequences = 7
engine_process = false
prefix_reuse = false
grace_seconds = 2
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of `serve.toml` in the directory where the command runs."""
    monkeypatch.chdir(tmp_path)
    return Path("serve.toml")


def serve(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["serve", *arguments], env=environment)


def printed(*arguments: str, **environment: str) -> str:
    result = serve("--print-config", *arguments, **environment)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def refused(*arguments: str, **environment: str) -> str:
    result = serve("--print-config", *arguments, **environment)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


def test_flags_precede_the_environment_then_the_file_then_the_defaults(file: Path) -> None:
    file.write_text("port = 1\nthreads = 1\nmax_waiting = 1\n")
    config = ("--config", str(file))
    environment = {"INDEX_GRPC_PORT": "2", "INDEX_GRPC_THREADS": "2"}
    lines = printed("--port", "3", *config, **environment).splitlines()
    wanted = [
        "port = 3  # flag",
        "threads = 2  # environment",
        "max_waiting = 1  # file",
        "max_message_mib = 16  # default",
    ]
    assert [line for line in wanted if line not in lines] == []


def test_false_and_zero_in_the_file_are_used(file: Path) -> None:
    file.write_text("prefix_reuse = false\nmax_waiting = 0\n")
    lines = printed("--config", str(file)).splitlines()
    assert {"prefix_reuse = false  # file", "max_waiting = 0  # file"} <= set(lines)
    assert "prefix_reuse = true  # flag" in printed("--config", str(file), "--prefix-reuse").splitlines()


def test_the_printed_settings_can_be_read_again(file: Path) -> None:
    file.write_text(CHANGED)
    first = printed(INDEX_GRPC_CONFIG=str(file), INDEX_GRPC_LOG_LEVEL="debug")
    file.write_text(first)
    second = printed("--config", str(file))
    assert tomllib.loads(first) == tomllib.loads(second)
    assert tomllib.loads(CHANGED).items() <= tomllib.loads(first).items()
    unset = {name for name, field in ServeSettings.model_fields.items() if field.default is None}
    assert set(tomllib.loads(first)) | unset == set(ServeSettings.model_fields)


@given(some.text(min_size=1))
def test_any_text_is_unchanged_by_writing_and_reading(text: str) -> None:
    settings = ServeSettings(model=text)
    written = as_toml(settings, dict.fromkeys(ServeSettings.model_fields, "default"))
    assert ServeSettings.model_validate(tomllib.loads(written)) == settings


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("port = 99999", "port is 99999; it should be less than or equal to 65535"),
        ('port = "50051"', "port is '50051'; it should be a valid integer"),
        ("port = true", "port is True; it should be a valid integer"),
        ("prefix_reuse = 1", "prefix_reuse is 1; it should be a valid boolean"),
        ('dtype = "int8"', "dtype is 'int8'; it should be 'auto', 'float32' or 'bfloat16'"),
        ('unix_socket_mode = "999"', "unix_socket_mode is '999'; allowed are three octal digits, such as 660"),
        ('device = "tpu"', "device is 'tpu'; allowed is auto, cpu, cuda or cuda:N"),
        ("grace_seconds = nan", "grace_seconds is nan; it should be less than or equal to 86400"),
        ("host = ['::']", "host is ['::']; it should be a valid string"),
        ("model = 2024-01-01", 'model is 2024-01-01, a date or time; write text in quotes: model = "2024-01-01"'),
        ("host = 07:32:00", 'host is 07:32:00, a date or time; write text in quotes: host = "07:32:00"'),
        ('api_keys_file = ""', "api_keys_file is ''; give it a path, or leave it out"),
        ("max_wating = 3", "max_wating is not a setting; did you mean max_waiting?"),
        ("max-waiting = 3", "max-waiting is not a setting; did you mean max_waiting?"),
        ('config = "other.toml"', "config is not a setting; index-grpc serve --help lists them all"),
        ("[server]\nport = 1", "server is not a setting; index-grpc serve --help lists them all"),
        ("port: 3", "Expected '=' after a key in a key/value pair (at line 1, column 5)"),
    ],
)
def test_a_mistake_in_the_file_is_named(file: Path, content: str, problem: str) -> None:
    file.write_text(content)
    assert refused("--config", str(file), "--port", "1") == f"serve.toml: {problem}"


def test_a_byte_order_mark_is_no_mistake(file: Path) -> None:
    file.write_text("port = 1\n", "utf-8-sig")
    assert "port = 1  # file" in printed("--config", str(file)).splitlines()


@pytest.mark.parametrize(
    "content",
    ["port = " + "[" * 5_000, "port = " + "{a = " * 5_000, f"port.{'a.' * 5_000}a = 1"],
    ids=["lists", "tables", "a dotted key"],
)
def test_a_file_that_is_nested_without_end(file: Path, content: str) -> None:
    file.write_text(content)
    assert refused("--config", str(file)) == "serve.toml: it is nested too deeply; a setting is a line, as port = 1"


def test_settings_of_file_and_flags_are_checked_together(file: Path) -> None:
    file.write_text("metrics_host = '0.0.0.0'\nmetrics_port = 9464\n")
    assert 'metrics_host = "0.0.0.0"  # file' in printed("--config", str(file)).splitlines()
    file.write_text("metrics_host = '0.0.0.0'\n")
    assert "metrics_port = 1  # flag" in printed("--config", str(file), "--metrics-port", "1").splitlines()
    assert refused("--config", str(file)) == "--metrics-host goes with --metrics-port; add it"


def test_a_file_that_is_not_there_or_no_text(file: Path) -> None:
    assert refused("--config", str(file)).endswith("File 'serve.toml' does not exist.")
    assert "(env var: 'INDEX_GRPC_CONFIG')" in refused(INDEX_GRPC_CONFIG=str(file))
    file.write_bytes(b"model = '\xff'")
    assert refused("--config", str(file)).startswith("serve.toml: 'utf-8' codec can't decode")


@pytest.mark.parametrize(
    ("arguments", "environment", "problem"),
    [
        (["--port", "99999"], {}, "--port is 99999; it should be less than or equal to 65535"),
        ([], {"INDEX_GRPC_PORT": "99999"}, "INDEX_GRPC_PORT is 99999; it should be less than or equal to 65535"),
        ([], {"INDEX_GRPC_PORT": "x"}, "--port' (env var: 'INDEX_GRPC_PORT'): 'x' is not a valid integer."),
        ([], {"INDEX_GRPC_OPEN_HEALTH": "x"}, "Recognized values: 0, 1, f, false, n, no, off, on, t, true, y, yes"),
        ([], {"INDEX_GRPC_PROT": "1"}, "INDEX_GRPC_PROT, which is not a setting; did you mean INDEX_GRPC_PORT?"),
        ([], {"INDEX_GRPC_FOO": "1"}, "INDEX_GRPC_FOO, which is not a setting; index-grpc serve --help lists them all"),
        ([], {"INDEX_GRPC_THREAD": ""}, "INDEX_GRPC_THREAD, which is not a setting; did you mean INDEX_GRPC_THREADS?"),
    ],
)
def test_a_mistake_elsewhere_is_named(arguments: list[str], environment: dict[str, str], problem: str) -> None:
    assert refused(*arguments, **environment).endswith(problem)


@pytest.mark.parametrize("flag", ["--api-keys-file", "--tls-cert", "--tls-key", "--tls-client-ca", "--unix-socket"])
def test_an_empty_path_is_refused(flag: str) -> None:
    assert refused(flag, "") == f"{flag} is ''; give it a path, or leave it out"


def test_a_socket_and_a_port_exclude_each_other(file: Path) -> None:
    socket, problem = ("--unix-socket", "s"), "--unix-socket is in the place of --port; leave one of them out"
    assert refused(*socket, "--port", "1") == problem
    file.write_text("unix_socket = 's'\n")
    problem = "serve.toml: unix_socket is in the place of INDEX_GRPC_HOST; leave one of them out"
    assert refused("--config", str(file), INDEX_GRPC_HOST="::") == problem
    assert 'host = "::"  # flag' in printed(*socket, "--host", "::", "--http-port", "1").splitlines()  # HTTP's address
    assert "port = 1  # environment" in printed(*socket, INDEX_GRPC_PORT="1").splitlines()  # a flag overrides it
    file.write_text(printed(*socket, INDEX_GRPC_PORT="1"))
    assert printed("--config", str(file))


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ("--port 7 --http-port 7", "--port and --http-port"),
        ("--port 7 --metrics-port 7", "--port and --metrics-port"),
        ("--http-port 7 --metrics-port 7 --unix-socket s", "--http-port and --metrics-port"),
        ("--port 7 --http-port 7 --host 0.0.0.0 --http-host ::1", "--port and --http-port"),
        ("--port 7 --http-port 7 --host ::1 --http-host [::]", "--port and --http-port"),
        ("--port 7 --http-port 7 --host ::1 --http-host [0:0::1]", "--port and --http-port"),
        ("--port 7 --http-port 7 --http-host LOCALHOST", "--port and --http-port"),
        ("--port 7 --http-port 7 --host name --http-host name", "--port and --http-port"),
        ("--port 7 --metrics-port 7 --host name --metrics-host ::", "--port and --metrics-port"),
    ],
)
def test_a_port_can_be_opened_once(arguments: str, flags: str) -> None:
    assert refused(*arguments.split()) == f"{flags} are both 7; give one of them another port, or 0 for a free one"


@pytest.mark.parametrize(
    "arguments",
    [
        "--port 0 --http-port 0 --metrics-port 0",
        "--port 7 --http-port 7 --http-host 127.0.0.2",
        "--port 7 --http-port 7 --http-host ::1",
        "--port 7 --http-port 7 --http-host name",
        "--port 7 --metrics-port 7 --host 192.0.2.1",
        "--http-port 50051 --unix-socket s",
    ],
)
def test_ports_that_need_not_collide(arguments: str) -> None:
    assert printed(*arguments.split())


@pytest.mark.parametrize("name", ["API_KEYS_FILE", "TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "CONFIG"])
def test_an_empty_variable_for_a_security_file_is_refused(name: str) -> None:
    problem = f"INDEX_GRPC_{name} is empty; give it a file, or unset it to start without"
    assert refused(**{f"INDEX_GRPC_{name}": ""}) == problem


def test_other_empty_variables_count_as_unset() -> None:
    assert "port = 50051  # default" in printed(INDEX_GRPC_PORT="", INDEX_GRPC_UNIX_SOCKET="")


KUBERNETES = {
    "SERVICE_HOST": "10.0.0.1",
    "SERVICE_PORT": "50051",
    "SERVICE_PORT_GRPC": "50051",
    "PORT": "tcp://10.0.0.1:50051",
    "PORT_50051_TCP": "tcp://10.0.0.1:50051",
    "PORT_50051_TCP_ADDR": "10.0.0.1",
    "PORT_50051_TCP_PORT": "50051",
    "PORT_50051_TCP_PROTO": "tcp",
}
"""Variables that Kubernetes sets for a Service, without the Service's name."""


@pytest.mark.parametrize("service", ["INDEX_GRPC", "INDEX_GRPC_CANARY"])
def test_variables_of_kubernetes_and_the_client_are_ignored(service: str) -> None:
    environment = {f"{service}_{name}": value for name, value in KUBERNETES.items()}
    client = {"INDEX_GRPC_ADDRESS": "127.0.0.1:50051", "INDEX_GRPC_API_KEY": "x"}
    assert "port = 50051  # default" in printed(**environment, **client)


def test_variables_that_only_resemble_those_of_kubernetes_are_not_ignored() -> None:
    assert not is_of_kubernetes("INDEX_GRPC_PORT", "50051")
    assert not is_of_kubernetes("INDEX_GRPC_OTHER_PORT", "50051")
    assert "INDEX_GRPC_OTHER_PORT, which is not a setting" in refused(INDEX_GRPC_OTHER_PORT="50051")


def test_every_setting_has_one_topic() -> None:
    names = [name for topic in TOPICS.values() for name in topic.model_fields]
    assert sorted(names) == sorted(ServeSettings.model_fields)
    result = serve("--help")
    headings = [line[:-1] for line in result.stdout.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert headings == [*TOPICS, "Options"]
