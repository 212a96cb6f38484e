"""Published checkpoints, read without running anything that they pickle.

They hold, beside tensors, an argparse.Namespace and objects of classes that we do not have (schedulers, optimizers).
Only tensors, plain types and Namespace come back; everything else becomes an inert `Placeholder`.
"""

import argparse
import collections
import pickle
from pathlib import Path
from types import SimpleNamespace

import torch

from puffin.errors import InputError, first_line, nearest


def _defaultdict(factory=None, items=()):
    return dict(items)  # the same items; the factory is not kept, as it would be called


_PLAIN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "defaultdict"): _defaultdict,
    ("argparse", "Namespace"): argparse.Namespace,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
    ("builtins", "bytearray"): bytearray,
    ("builtins", "slice"): slice,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): torch._utils._rebuild_parameter,
    ("torch.storage", "UntypedStorage"): torch.UntypedStorage,
}
_ENDINGS = (".pt", ".ckpt")  # of checkpoints, ours and published ones
_MOST_NAMES = 6  # that a message lists
WEIGHTS = Path(__file__).resolve().parents[3] / "weights"  # that come with the repository


class Placeholder:
    """Stands for an object of a class that is not loaded: takes any arguments, items and state, and keeps none."""

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        """Ignore a list item."""

    def extend(self, items):
        """Ignore list items."""

    def add(self, item):
        """Ignore a set item."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        if module == "torch":
            found = torch.__dict__.get(name)
            if isinstance(found, torch.dtype) or (isinstance(found, type) and name.endswith("Storage")):
                return found
        return type(name, (Placeholder,), {"__module__": f"not loaded: {module}"})

    def get_extension(self, code):  # the copyreg registry could name any callable
        return Placeholder


def _load(file, **kwargs):
    return _Unpickler(file, **kwargs).load()


_pickle_module = SimpleNamespace(__name__=__name__, Unpickler=_Unpickler, load=_load)


def checkpoint_path(name: str | Path) -> Path:
    """Return the file of a checkpoint that is given by its path, or by the name of weights that come with Puffin.

    A path that exists is taken first. There need not be any such file."""
    shipped = WEIGHTS / f"{name}.pt"
    return shipped if _is_name(name) and not Path(name).exists() and shipped.is_file() else Path(name)


def _is_name(name: str | Path) -> bool:
    return Path(name).name == str(name) and Path(name).suffix not in _ENDINGS


def read_checkpoint(path: str | Path) -> dict:
    """The content of a checkpoint file, ours or a published one, on the CPU.

    InputError if the file is missing, is not a checkpoint, or holds no dict."""
    path = Path(path)
    if not path.is_file():
        raise InputError(about_missing(path))
    try:
        content = torch.load(path, map_location="cpu", weights_only=False, pickle_module=_pickle_module)
    except Exception as error:  # a damaged file fails in many ways, all of them the user's to hear of
        raise InputError(f"{path}: not a readable checkpoint ({type(error).__name__}: {first_line(error)})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a checkpoint (a dict), got {type(content).__name__}")
    return content


def about_missing(path: Path) -> str:
    """Return the message about a checkpoint that is not there: what is in its place, and what may be meant."""
    if path.is_dir():
        return f"{path}: is a folder; expected a checkpoint{_found_in(path)}"
    problem = "is a link to a file that does not exist" if path.is_symlink() else "no such checkpoint"
    if _is_name(path) and (shipped := sorted(Path(name).stem for name in _checkpoints(WEIGHTS))):
        hint = "give the path of a file, or a name of weights that come with Puffin"
        return f"{path}: {problem}{nearest(path.name, shipped)}; {hint}: {', '.join(shipped)}"
    if not path.parent.is_dir():
        return f"{path}: {problem}; {path.parent} is not a folder"
    similar = nearest(path.name, _checkpoints(path.parent), lambda name: str(path.parent / name))
    return f"{path}: {problem}{similar or _found_in(path.parent)}"


def _found_in(folder: Path) -> str:
    names = _checkpoints(folder)
    shown = ", ".join(names[:_MOST_NAMES]) + (f" and {len(names) - _MOST_NAMES} more" * (len(names) > _MOST_NAMES))
    return f" ({folder} has {shown})" if names else f" ({folder} has no checkpoints: train a network first)"


def _checkpoints(folder: Path) -> list[str]:
    files = folder.iterdir() if folder.is_dir() else ()
    return sorted(file.name for file in files if file.suffix in _ENDINGS and not file.name.startswith("."))
