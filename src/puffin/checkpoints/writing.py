"""Checkpoint files are written whole or not at all: tensors and plain types in one file."""

import io
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from puffin.files import whole_file

FORMAT = 1


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write the content of a checkpoint, with the format's number; see `save_tensors`."""
    save_tensors(path, {"format": FORMAT, **content})


def save_tensors(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write a dict of tensors and plain types; the old file stays until the new one is complete on disk.

    DiskFull if there is no space. The bytes are made in memory first: so their number is known, and the system's reason
    for a failure is not lost in the library."""
    buffer = io.BytesIO()
    torch.save(dict(content), buffer)
    with whole_file(path, buffer.getbuffer().nbytes) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def rng_state() -> dict:
    """Return the states of the random generators that training draws from: of the CPU, and of the GPU in use."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng_state(state: Mapping[str, Any]) -> None:
    """Continue the random sequences of `rng_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def git_commit() -> str:
    """Return the commit of the code that runs, with '+' if it was changed; '' outside a repository."""
    folder = Path(__file__).parent

    def git(*command: str) -> str:
        result = subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, timeout=10)
        return result.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.TimeoutExpired):
        return ""
