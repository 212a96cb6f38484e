"""Read the wrong versions of the CUDA kernels from kernels.txt, which explains its format."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Mutant:
    """What is broken in a file of csrc/cuda, and the file of tests/ops that must see it."""

    name: str
    file: str
    old: str
    new: str
    tests: str
    sanitize: bool  # only AddressSanitizer can see it


LIST = Path(__file__).with_name("kernels.txt")


def read_mutants() -> list[Mutant]:
    """Return the mutants in the order of the list."""
    mutants = []
    for block in LIST.read_text(encoding="utf-8").split("\n== ")[1:]:
        head, *lines = block.splitlines()
        name, file, tests, *sanitize = head.split(" | ")
        old, new = ("\n".join(line[1:] for line in lines if line.startswith(sign)) for sign in "-+")
        mutants.append(Mutant(name, file, old, new, tests, sanitize == ["asan"]))
    return mutants
