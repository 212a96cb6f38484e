"""Builds the kernels of csrc/ in place: `python setup.py build_kernels` (`make kernels`).

Two plain shared libraries without Python ABI in src/puffin/ops/_lib: puffin_cpu always, puffin_cuda where nvcc and a CUDA
PyTorch are. Only files whose sources, headers or flags changed are compiled again. Environment:

PUFFIN_CUDA            1 compiles the CUDA library without a CUDA PyTorch too, 0 never does
TORCH_CUDA_ARCH_LIST   e.g. "9.0" or "8.0;9.0+PTX"; default: those of 8.0;9.0;10.0 that nvcc offers, the last with PTX
PUFFIN_SANITIZE        1 builds the CPU library under AddressSanitizer and UBSan; the tests then run with
                       LD_PRELOAD="$(c++ -print-file-name=libasan.so) $(c++ -print-file-name=libubsan.so)"
                       ASAN_OPTIONS=detect_leaks=0 PUFFIN_REQUIRE_KERNELS=1 python -m pytest tests/ops -k equals_oracle
CXX, NVCC, MAX_JOBS    the compilers and how many run at once
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


ARCHITECTURES = ("8.0", "9.0", "10.0")  # the default


def default_architectures() -> str:
    """What of ARCHITECTURES nvcc offers, the last with PTX for later GPUs: nvcc before 12.8 has no 10.0."""
    nvcc = find_nvcc()
    listed = subprocess.run(
        [nvcc, "--list-gpu-arch"], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ).stdout
    offered = [arch for arch in ARCHITECTURES if f"compute_{arch.replace('.', '')}" in listed.split()]
    if not offered:
        raise SystemExit(
            f"{nvcc} --list-gpu-arch: expected one of {';'.join(ARCHITECTURES)}, got {' '.join(listed.split())}; "
            "install nvcc 12.0 or newer, or set TORCH_CUDA_ARCH_LIST"
        )
    chosen = ";".join(offered) + "+PTX"
    if len(offered) < len(ARCHITECTURES):
        print(f"{nvcc} does not offer all of {';'.join(ARCHITECTURES)}: the CUDA kernels are for {chosen}", flush=True)
    return chosen


def cuda_flags() -> list[str]:
    """-gencode flags for TORCH_CUDA_ARCH_LIST."""
    flags = []
    for arch in re.split(r"[;, ]+", os.environ.get("TORCH_CUDA_ARCH_LIST") or default_architectures()):
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", arch)
        if not match:
            raise SystemExit(f"TORCH_CUDA_ARCH_LIST: expected entries like 9.0 or 9.0+PTX, got {arch!r}")
        number = match[1] + match[2] + match[3]
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[4]:
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    return os.environ.get("NVCC") or shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin")


def record_of(target: Path) -> Path:
    """Where the command that made target is kept."""
    return ROOT / "build" / "kernels" / f"{target.parent.name}-{target.name}.cmd"


def stale(target: Path, command: list[str]) -> bool:
    """Whether target is missing, older than a file it was made from, or made by another command."""
    record, depfile = record_of(target), target.with_suffix(".d")
    if not (target.exists() and record.exists() and record.read_text() == " ".join(command)):
        return True
    listed = depfile.read_text().replace("\\\n", " ").split(":", 1)[1].split() if depfile.exists() else []
    made = target.stat().st_mtime
    inputs = [Path(p) for p in listed + [a for a in command if a.endswith(".o")] if Path(p) != target]
    return any(not p.exists() or p.stat().st_mtime > made for p in inputs)


def make(target: Path, command: list[str], action: str) -> None:
    """Runs command if target is stale; on failure shows what the compiler said."""
    if not stale(target, command):
        return
    print(f"{action} {target.name}", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    record_of(target).unlink(missing_ok=True)  # what a killed compiler leaves behind is stale
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}\nbuilding {target.name} failed")
    if done.stdout.strip():
        print(done.stdout)
    record_of(target).write_text(" ".join(command))


class BuildKernels(Command):
    description = "build csrc/ in place into src/puffin/ops/_lib"
    user_options = []

    def initialize_options(self):
        pass

    def finalize_options(self):
        pass

    def run(self):
        try:
            import torch
        except ImportError:
            raise SystemExit("building the kernels needs PyTorch >= 2.11: install torch first") from None
        if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11):
            raise SystemExit(f"building the kernels needs PyTorch >= 2.11, got {torch.__version__}")
        home = Path(torch.__file__).parent
        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        with ThreadPoolExecutor(jobs) as pool:
            self.build_library(pool, "puffin_cpu", *self.cpu_commands(home))
            if self.wants_cuda(torch):
                self.build_library(pool, "puffin_cuda", *self.cuda_commands(home))
        print(f"kernels are in {OUT.relative_to(ROOT)}; `python -m puffin.ops` describes them")

    @staticmethod
    def wants_cuda(torch) -> bool:
        wish = os.environ.get("PUFFIN_CUDA", "")
        if wish not in ("", "0", "1"):
            raise SystemExit(f"PUFFIN_CUDA: expected 0 or 1, got {wish!r}")
        if wish == "1" and not find_nvcc():
            raise SystemExit("PUFFIN_CUDA=1 needs nvcc: not found on PATH nor in CUDA_HOME")
        return wish == "1" or (wish == "" and torch.version.cuda is not None and find_nvcc() is not None)

    @staticmethod
    def cpu_commands(home: Path) -> tuple[list[Path], list[str], list[str]]:
        """Sources, compile command, link command."""
        cxx = os.environ.get("CXX", "c++")
        # one order of operations everywhere: no contraction to fused multiply-add, no fast-math, no -march=native
        compile_ = [
            cxx,
            "-std=c++20",
            "-O3",
            "-ffp-contract=off",
            "-fPIC",
            "-fvisibility=hidden",
            "-Wall",
            "-Wextra",
            "-Wno-psabi",
            ABI,
            "-isystem",
            str(home / "include"),
        ]
        link = [cxx, "-shared", f"-L{home / 'lib'}", "-Wl,--no-as-needed", "-ltorch_cpu"]
        if os.environ.get("PUFFIN_SANITIZE") == "1":
            checks = [
                "-fsanitize=address,undefined",
                "-fno-omit-frame-pointer",
                "-fno-sanitize-recover=undefined",
                "-g",
            ]
            compile_, link = [*compile_, *checks, "-O1"], [*link, *checks]
        return [ROOT / "csrc" / "puffin.cpp", *sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))], compile_, link

    @staticmethod
    def cuda_commands(home: Path) -> tuple[list[Path], list[str], list[str]]:
        compile_ = [
            find_nvcc(),
            "-std=c++20",
            "-O3",
            "--fmad=false",
            "-DUSE_CUDA",
            ABI,
            "--threads",
            "0",
            "-Xcompiler",
            "-fPIC,-fvisibility=hidden",
            "-diag-suppress=20012",
            *cuda_flags(),
            "-isystem",
            str(home / "include"),
        ]
        link = [find_nvcc(), "-shared", f"-L{home / 'lib'}", "-Xlinker", "--no-as-needed", "-ltorch_cpu"]
        if (home / "lib" / "libtorch_cuda.so").exists():
            link.append("-ltorch_cuda")
        return sorted((ROOT / "csrc" / "cuda").glob("*.cu")), compile_, link

    @staticmethod
    def build_library(pool: ThreadPoolExecutor, name: str, sources: list[Path], compile_: list[str], link: list[str]):
        variant = hashlib.sha256(" ".join(compile_).encode()).hexdigest()[:8]
        folder = ROOT / "build" / "kernels" / f"{name}-{variant}"
        objects = [folder / f"{source.stem}.o" for source in sources]
        steps = [
            pool.submit(
                make,
                target,
                [*compile_, "-MMD", "-MF", str(target.with_suffix(".d")), "-c", str(source), "-o", str(target)],
                "compiling",
            )
            for source, target in zip(sources, objects, strict=False)
        ]
        for step in steps:
            step.result()
        library = OUT / f"{name}.so"
        objects_first = [link[0], *map(str, objects), *link[1:]]
        make(library, [*objects_first, "-o", str(library)], "linking")
        if name == "puffin_cpu":  # src/puffin/ops/library.py compares it
            (OUT / "schemas").write_text(hashlib.sha256((ROOT / "csrc" / "puffin.cpp").read_bytes()).hexdigest())


setup(cmdclass={"build_kernels": BuildKernels})
