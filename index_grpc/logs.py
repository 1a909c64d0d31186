"""How the server's processes write their logs."""

import logging

NOISY = ("httpx", "filelock", "huggingface_hub", "torch", "urllib3")
"""Libraries whose lower levels tell a reader nothing."""


def configure_logging(level: str) -> None:
    """Writes lines of this level and above to stderr."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=level.upper())
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
