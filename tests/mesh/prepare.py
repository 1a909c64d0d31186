"""Installs HAProxy, or says that it is missing; `make test-mesh` runs this first. The extra `mesh` installs Envoy."""

import os
import shutil
import subprocess
import sys

from tests.mesh.haproxy import program

INSTALL = ["apt-get", "--quiet", "--quiet", "--yes", "--no-install-recommends", "install", "haproxy"]


def install() -> None:
    """Updates Debian's package lists and installs HAProxy, without starting its system service."""
    sys.stderr.write("installing haproxy\n")
    quietly = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    subprocess.run(["apt-get", "--quiet", "--quiet", "update"], check=False)
    subprocess.run(INSTALL, check=False, stdout=subprocess.DEVNULL, env=quietly)


def main() -> None:
    if program() is None and os.geteuid() == 0 and shutil.which("apt-get"):
        install()
    if program() is None:
        sys.stderr.write("no HAProxy, its tests are skipped: apt-get install haproxy\n")


if __name__ == "__main__":
    main()
