"""Every reason of an error is documented, with its status code, where callers look it up."""

import re
from pathlib import Path

from index_grpc import errors
from index_grpc.server.status import CODES

ROOT = Path(__file__).resolve().parents[2]
ONLY_HTTP = {"MALFORMED_HTTP", "MESSAGE_TOO_LARGE"}
"""gRPC itself refuses the like, without details."""

Pair = tuple[str, str]
"""A reason and its status code."""


def raised() -> set[Pair]:
    return {(error.reason, code.name) for error, code in CODES.items() if error.reason not in ONLY_HTTP}


def of_contract() -> set[Pair]:
    header = (ROOT / "protos" / "index" / "v1" / "chat.proto").read_text().partition("syntax")[0]
    return set(re.findall(r"^//  - ([A-Z_]+) \(([A-Z_]+)\): [^\n]+\.$", header, re.MULTILINE))


def of_manual() -> set[Pair]:
    rows = re.findall(r"^\| `([A-Z_]+)` \| (`[A-Z_`, ]+`) \|", (ROOT / "docs" / "errors.md").read_text(), re.MULTILINE)
    return {(reason, code) for code, reasons in rows for reason in re.findall("[A-Z_]+", reasons)}


def test_the_contract_lists_every_reason_with_its_code() -> None:
    assert of_contract() == raised()


def test_the_manual_lists_every_reason_with_its_code() -> None:
    assert of_manual() == raised()


def test_what_is_not_documented_is_never_sent() -> None:
    """These are base classes of what calls raise, or end the server's start."""
    everything = {error for error in vars(errors).values() if isinstance(error, type)}
    ours = {error for error in everything if issubclass(error, errors.IndexGrpcError)}
    assert {error.__name__ for error in ours - CODES.keys()} == {
        "CheckpointError", "IndexGrpcError", "StartupError", "Unauthenticated", "Unavailable",
    }  # fmt: skip
