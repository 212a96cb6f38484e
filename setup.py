"""Build the kernels of csrc/ in place: `python setup.py build_kernels`, or `make kernels`.

The results are two shared libraries in src/puffin/ops/_lib, which do not depend on the version of Python: puffin_cpu
always, and puffin_cuda if nvcc and a CUDA build of PyTorch are installed. Only files whose sources, headers or flags
changed are compiled again. An editable installation (`pip install -e .`) uses the same libraries.

Environment variables:
PUFFIN_CUDA            1: build the CUDA library even without a CUDA build of PyTorch; 0: never build it
TORCH_CUDA_ARCH_LIST   such as "9.0" or "8.0;9.0+PTX" (default: those of 8.0;9.0;10.0 that nvcc offers, and PTX)
PUFFIN_EMULATE         1: build only puffin_emulated, the CUDA kernels for tests on a CPU (PUFFIN_KERNELS=emulated)
PUFFIN_SANITIZE        1: build the CPU library, or with PUFFIN_EMULATE=1 puffin_emulated_asan, with AddressSanitizer
                       and UBSan (`make check-sanitizers` and `make check-emulated-sanitizers` run the tests with them)
CXX, NVCC              the compilers
MAX_JOBS               maximum number of compilers that run at the same time (default: number of CPU cores)
"""

import hashlib
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Command, setup

ROOT = Path(__file__).resolve().parent
OUT = ROOT / "src" / "puffin" / "ops" / "_lib"
ABI = "-DTORCH_TARGET_VERSION=0x020b000000000000"  # the stable ABI of PyTorch 2.11 and later
ARCHITECTURES = ("8.0", "9.0", "10.0")  # GPUs that the CUDA library is built for by default


def default_architectures() -> str:
    """Return those of ARCHITECTURES that nvcc offers (before 12.8 it has no 10.0), the last with PTX for newer GPUs."""
    nvcc, wanted = find_nvcc(), ";".join(ARCHITECTURES)
    command = [nvcc, "--list-gpu-arch"]
    output = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout.split()
    offered = [arch for arch in ARCHITECTURES if f"compute_{arch.replace('.', '')}" in output]
    if not offered:
        raise SystemExit(
            f"{nvcc} --list-gpu-arch: expected one of {wanted}, got {' '.join(output)}. "
            "Install nvcc 12.0 or newer, or set TORCH_CUDA_ARCH_LIST."
        )
    chosen = ";".join(offered) + "+PTX"
    if len(offered) < len(ARCHITECTURES):
        print(f"{nvcc} does not offer all of {wanted}: the CUDA kernels are built for {chosen}", flush=True)
    return chosen


def cuda_flags() -> list[str]:
    """Return the -gencode flags for TORCH_CUDA_ARCH_LIST."""
    flags = []
    for arch in re.split(r"[;, ]+", os.environ.get("TORCH_CUDA_ARCH_LIST") or default_architectures()):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", arch)
        if not match:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: expected entries such as 9.0 or 9.0+PTX, got {arch!r}")
        number = match[1] + match[2] + match[3]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[4]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def find_nvcc() -> str | None:
    """Return the path of nvcc: from NVCC, from PATH, or from the CUDA folder; None if there is none."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return os.environ.get("NVCC") or shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


def record_of(target: Path) -> Path:
    """Return the file that holds the command that made the target."""
    return ROOT / "build" / "kernels" / f"{target.parent.name}-{target.name}.cmd"


def stale(target: Path, command: list[str]) -> bool:
    """Return whether the target is missing, older than one of its inputs, or made by a different command."""
    record, depfile = record_of(target), target.with_suffix(".d")
    if not (target.exists() and record.exists() and record.read_text(encoding="utf-8") == " ".join(command)):
        return True
    sources = (
        depfile.read_text(encoding="utf-8").replace("\\\n", " ").split(":", 1)[1].split() if depfile.exists() else []
    )
    objects = [argument for argument in command if argument.endswith(".o")]
    inputs = [path for path in map(Path, sources + objects) if path != target]
    time = target.stat().st_mtime
    return any(not path.exists() or path.stat().st_mtime > time for path in inputs)


def make(target: Path, command: list[str], action: str) -> None:
    """Run the command if the target is stale; exit with the output of the compiler if it fails."""
    if not stale(target, command):
        return
    print(f"{action} {target.name}", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    record_of(target).unlink(missing_ok=True)  # so that the output of a killed compiler is stale
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\nerror: building {target.name} failed")
    if done.stdout.strip():
        print(done.stdout)
    record_of(target).write_text(" ".join(command), encoding="utf-8")


class BuildKernels(Command):
    """The command `build_kernels`."""

    description = "build csrc/ in place into src/puffin/ops/_lib"
    user_options = []

    def initialize_options(self):
        """Do nothing: there are no options."""

    def finalize_options(self):
        """Do nothing: there are no options."""

    def run(self):
        """Compile what is missing or out of date."""
        try:
            import torch
        except ImportError:
            raise SystemExit("building the kernels needs PyTorch 2.11 or newer: install torch first") from None
        if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11):
            raise SystemExit(f"building the kernels needs PyTorch 2.11 or newer, got {torch.__version__}")
        home = Path(torch.__file__).parent
        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        with ThreadPoolExecutor(jobs) as pool:
            if os.environ.get("PUFFIN_EMULATE") == "1":
                name = "puffin_emulated_asan" if os.environ.get("PUFFIN_SANITIZE") == "1" else "puffin_emulated"
                self.build_library(pool, name, *self.emulated_commands(home))
                return
            self.build_library(pool, "puffin_cpu", *self.cpu_commands(home))
            if self.wants_cuda(torch):
                self.build_library(pool, "puffin_cuda", *self.cuda_commands(home))
        print(f"kernels are in {OUT.relative_to(ROOT)}; `python -m puffin.ops` describes them")

    @staticmethod
    def wants_cuda(torch) -> bool:
        """Return whether to build the CUDA library."""
        choice = os.environ.get("PUFFIN_CUDA", "")
        if choice not in ("", "0", "1"):
            raise SystemExit(f"PUFFIN_CUDA: expected 0 or 1, got {choice!r}")
        if choice == "1" and not find_nvcc():
            raise SystemExit(
                "PUFFIN_CUDA=1 needs nvcc, which is neither on PATH nor in CUDA_HOME. Install it or set NVCC."
            )
        return choice == "1" or (choice == "" and torch.version.cuda is not None and find_nvcc() is not None)

    @staticmethod
    def cpu_commands(home: Path) -> tuple[list[Path], list[str], list[str]]:
        """Return the sources, the compile command and the link command of the CPU library."""
        cxx = os.environ.get("CXX", "c++")
        # The order of operations is the same on all machines: no fused multiply-add, no fast-math, no -march=native.
        flags = "-std=c++20 -O3 -ffp-contract=off -fPIC -fvisibility=hidden -Wall -Wextra -Wno-psabi"
        compile_ = [cxx, *flags.split(), ABI, "-isystem", str(home / "include")]
        link = [cxx, "-shared", f"-L{home / 'lib'}", "-Wl,--no-as-needed", "-ltorch_cpu"]
        if os.environ.get("PUFFIN_SANITIZE") == "1":
            checks = "-fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined -g".split()
            compile_, link = [*compile_, *checks, "-O1"], [*link, *checks]
        return [ROOT / "csrc" / "puffin.cpp", *sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))], compile_, link

    @staticmethod
    def emulated_commands(home: Path) -> tuple[list[Path], list[str], list[str]]:
        """Return the sources, the compile command and the link command of the CUDA kernels for a CPU, for tests.

        With -fsanitize=thread the compiler reports every access to memory to csrc/emulate/memory.cpp; that is not
        linked with ThreadSanitizer, and is itself compiled without the flag (it starts no kernel).
        """
        cxx, checks = os.environ.get("CXX", "c++"), os.environ.get("PUFFIN_SANITIZE") == "1"
        flags = "-std=c++20 -O1 -g1 -ffp-contract=off -fPIC -fvisibility=hidden -Wall -DPUFFIN_EMULATED"
        compile_ = [cxx, *flags.split(), ABI, f"-I{ROOT / 'csrc' / 'emulate'}", "-isystem", str(home / "include")]
        link = [cxx, "-shared", f"-L{home / 'lib'}", "-Wl,--no-as-needed", "-ltorch_cpu"]
        if checks:
            sanitizers = "-fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined".split()
            compile_, link = [*compile_, *sanitizers], [*link, *sanitizers]
        else:
            compile_ += "-fsanitize=thread --param tsan-distinguish-volatile=1".split()
            compile_ += "--param tsan-instrument-func-entry-exit=0".split()
        sources = sorted((ROOT / "csrc" / "cuda").glob("*.cu")) + sorted((ROOT / "csrc" / "emulate").glob("*.cpp"))
        return [ROOT / "csrc" / "puffin.cpp", *sources], compile_, link

    @staticmethod
    def cuda_commands(home: Path) -> tuple[list[Path], list[str], list[str]]:
        """Return the sources, the compile command and the link command of the CUDA library."""
        nvcc = find_nvcc()
        flags = "--threads 0 -Xcompiler -fPIC,-fvisibility=hidden -diag-suppress=20012".split()
        compile_ = [nvcc, "-std=c++20", "-O3", "--fmad=false", "-DUSE_CUDA", ABI, *flags, *cuda_flags()]
        compile_ += ["-isystem", str(home / "include")]
        link = [nvcc, "-shared", f"-L{home / 'lib'}", "-Xlinker", "--no-as-needed", "-ltorch_cpu"]
        if (home / "lib" / "libtorch_cuda.so").exists():
            link.append("-ltorch_cuda")
        return sorted((ROOT / "csrc" / "cuda").glob("*.cu")), compile_, link

    @staticmethod
    def language(name: str, source: Path) -> list[str]:
        """Return the flags of one source of the emulated library."""
        if not name.startswith("puffin_emulated"):
            return []
        return ["-x", "c++"] if source.suffix == ".cu" else ["-fno-sanitize=thread"]

    @classmethod
    def build_library(
        cls, pool: ThreadPoolExecutor, name: str, sources: list[Path], compile_: list[str], link: list[str]
    ):
        """Compile the sources in parallel, and link them to a library."""
        variant = hashlib.sha256(" ".join(compile_).encode()).hexdigest()[:8]
        folder = ROOT / "build" / "kernels" / f"{name}-{variant}"
        objects = [folder / f"{source.stem}.o" for source in sources]
        steps = []
        for source, target in zip(sources, objects, strict=True):
            dependencies = ["-MMD", "-MF", str(target.with_suffix(".d"))]
            command = [*compile_, *dependencies, *cls.language(name, source), "-c", str(source), "-o", str(target)]
            steps.append(pool.submit(make, target, command, "compiling"))
        for step in steps:
            step.result()
        library = OUT / f"{name}.so"
        objects_first = [link[0], *map(str, objects), *link[1:]]
        make(library, [*objects_first, "-o", str(library)], "linking")
        if name != "puffin_cuda":  # src/puffin/ops/library.py compares this hash
            tag = hashlib.sha256((ROOT / "csrc" / "puffin.cpp").read_bytes()).hexdigest()
            (OUT / "schemas").write_text(tag, encoding="utf-8")


setup(cmdclass={"build_kernels": BuildKernels})
