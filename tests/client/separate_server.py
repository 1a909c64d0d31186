"""A FakeServer in a process of its own, which a test can kill. It holds answers after two words."""

import sys

from .fake_server import FakeServer


def main() -> None:
    """Prints the address and serves until standard input ends."""
    server = FakeServer()
    server.script.hold_after = 2
    sys.stdout.write(f"{server.address}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop()


if __name__ == "__main__":
    main()
