"""Checkpoints: tensors and plain types in one file that appears whole or not at all."""

import subprocess
from pathlib import Path

import torch

from puffin.errors import InputError, first_line
from puffin.files import whole_file

FORMAT = 1


def save_checkpoint(path: str | Path, content: dict) -> None:
    """Write a dict of tensors and plain types; the old file stays until the new one is complete on disk."""
    with whole_file(path) as temporary:
        torch.save({"format": FORMAT, **content}, temporary)


def load_checkpoint(path: str | Path) -> dict:
    """Read one of our own checkpoints on the CPU (weights_only).  InputError if it is missing, damaged or foreign."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint; train first, or name another with --loadfile or --prefix")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways
        raise InputError(
            f"{path}: not a readable checkpoint of ours ({type(error).__name__}: {first_line(error)})"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise InputError(f"{path}: expected a checkpoint of format {FORMAT}, got {found}")
    return content


def rng_state() -> dict:
    """States of the random generators that training draws from: the CPU's, and that of the GPU in use."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_rng_state(state: dict) -> None:
    """Continue the random sequences of `rng_state`."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def git_commit() -> str:
    """Commit of the code that runs, with '+' if it was changed; '' outside a repository."""
    folder = Path(__file__).parent

    def git(*command: str) -> str:
        result = subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, timeout=10)
        return result.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.TimeoutExpired):
        return ""
