"""Installs the Debian packages that the languages need, or names them; `make test-contract` runs this first."""

import os
import shutil
import subprocess
import sys

from tests.contract.languages import LANGUAGES

INSTALL = ["apt-get", "--quiet", "--quiet", "--yes", "--no-install-recommends", "install"]


def missing() -> list[str]:
    """The missing packages of all languages."""
    return sorted({package for language in LANGUAGES for package in language.missing()})


def install(packages: list[str]) -> None:
    """Updates Debian's package lists and installs the packages."""
    sys.stderr.write(f"installing {' '.join(packages)}\n")
    subprocess.run(["apt-get", "--quiet", "--quiet", "update"], check=False)
    quietly = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run([*INSTALL, *packages], check=False, stdout=subprocess.DEVNULL, env=quietly)


def main() -> None:
    if missing() and os.geteuid() == 0 and shutil.which("apt-get"):
        install(missing())
    if packages := missing():
        sys.stderr.write(f"missing or too old, its tests are skipped: apt-get install {' '.join(packages)}\n")
        if "nodejs" in packages:
            sys.stderr.write("Node must be 20 or later; where Debian's is older, take one from nodejs.org\n")


if __name__ == "__main__":
    main()
