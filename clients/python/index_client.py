"""Starts the command line. It is outside the package, since gRPC reads its log level when the package imports it."""

import os
import sys

EXTRA = {"click", "prompt_toolkit"}
INTERRUPTED = 130


def main() -> None:
    """Runs the command line and exits."""
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's failures are reported once, as the error of a call
    try:
        from index_grpc_client.cli.commands import index_client

        index_client(prog_name="index-client")
    except ModuleNotFoundError as missing:
        if missing.name not in EXTRA:
            raise
        sys.exit(f"error: index-client needs {missing.name}: pip install 'index-grpc-client[cli]'")
    except KeyboardInterrupt:  # during the imports; the commands handle it themselves
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
