"""What a case of the fuzz campaign does to flags and files. Every choice comes from a seeded generator.

A mutation returns the words of which the error must name at least one, if there is an error: the right cause.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import torch

from puffin.settings.declare import Declared
from puffin.settings.flags import hidden_settings, settings_of

# values that fit no or few flags
ODD_NUMBERS = (
    "0",
    "1",
    "2",
    "3",
    "-1",
    "-7",
    "0.5",
    "1.5",
    "1e-30",
    "1e30",
    "nan",
    "inf",
    "-inf",
    "1_000",
    "0x10",
    "٣",
)
ODD_TEXT = (
    "",
    " ",
    "x",
    "none",
    "true",
    "a,b",
    "[[4],[4]]",
    "[",
    "é",
    "../up",
    "a/b",
    "*",
    "-",
    "--cpu",
    "0:1",
    "x" * 300,
)
# flags whose odd values make a run long or large, not wrong
COSTLY = {"num_epoch", "num_step", "num_workers", "save_every", "valid_every", "threads", "plot_events", "probe_every"}
# flags that change what a script does, or where; other kinds of cases are about these
LEFT_OUT = {"task", "yaml", "workdir", "prefix", "load", "device", "test", "log_level", "compile", "plot_html"}
SIZES = {"width", "depth", "decoder_depth", "num_channels", "heads", "group_size", "context", "upscale", "lora_rank"}


def odd_flags(rng: random.Random, schema) -> tuple[list[str], list[str]]:
    """Return one to three flags with odd values, and the words that an error may name."""
    names = [name for name in settings_of(schema) if name not in LEFT_OUT | set(hidden_settings(schema))]
    flags, words = [], []
    for name in rng.sample(names, rng.choice((1, 1, 1, 2, 3))):
        entry = settings_of(schema)[name]
        flags += odd_flag(rng, entry)
        value = flags[-1].partition("=")[2]
        words += [entry.flag, *entry.setting.flags, *entry.setting.shortcuts, f"{value}: "]
        words += [value] if len(value) > 2 else []
    if rng.random() < 0.1:  # misspelt
        word = flags[0].split("=")[0]
        flags[0] = flags[0].replace(word, word[:-1] + rng.choice("qxz"), 1)
        words.append(flags[0].split("=")[0])
    return flags, words


def odd_flag(rng: random.Random, entry: Declared) -> list[str]:
    """Return a flag with an odd value."""
    setting = entry.setting
    if setting.switch:
        return [rng.choice((entry.flag, entry.flag.replace("--", "--no-", 1), f"{entry.flag}=yes"))]
    if setting.choices and rng.random() < 0.6:
        return [f"{entry.flag}={rng.choice(list(setting.choices))}"]
    is_number = isinstance(entry.default, (int, float)) and not isinstance(entry.default, bool)
    values: Sequence[str] = ODD_NUMBERS if is_number or rng.random() < 0.3 else ODD_TEXT
    if entry.name in COSTLY or any(part in entry.name for part in SIZES):
        values = [v for v in values if v not in ("1e30", "1_000", "0x10")]
    return [f"{entry.flag}={rng.choice(values)}"]


# -- HDF5 ------------------------------------------------------------------------------------------------------------


def odd_hdf5(rng: random.Random, path: Path) -> list[str]:
    """Change an HDF5 file; return the words that an error may name."""
    mutation = rng.choice((change_bytes, _key, _key, _key, _values, _values, _values))
    return [path.name, str(path.parent), *mutation(rng, path)]


def change_bytes(rng: random.Random, path: Path) -> list[str]:
    """Cut a file, change bytes of it, or put something else in its place; no words are returned."""
    content = bytearray(path.read_bytes())
    kind = rng.choice(("cut", "noise", "empty", "text", "folder", "gone"))
    if kind == "cut":
        content = content[: rng.randrange(len(content))]
    elif kind == "noise":
        for _ in range(rng.choice((1, 30, 1000))):
            content[rng.randrange(len(content))] = rng.randrange(256)
    elif kind == "empty":
        content = bytearray()
    elif kind == "text":
        content = bytearray(b"not a file of HDF5\n" * 20)
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "gone":
        path.write_bytes(content)
    return []


def _key(rng: random.Random, path: Path) -> list[str]:
    """Remove, rename, empty or replace a data set."""
    with h5py.File(path, "r+") as file:
        key, values = _taken(rng, file)
        kind = rng.choice(("gone", "renamed", "group", "soft", "external", "shorter", "none", "scalar", "transposed"))
        if kind == "renamed":
            file[key.upper() + "_"] = values if values.dtype != object else len(values)
        elif kind == "group":
            file.create_group(key)["x"] = 1
        elif kind == "soft":
            file[key] = h5py.SoftLink("/nowhere")
        elif kind == "external":
            file[key] = h5py.ExternalLink("nowhere.h5", "/x")
        elif kind in ("shorter", "none"):
            _write(file, key, values[: len(values) // 2 if kind == "shorter" else 0])
        elif kind == "scalar":
            file[key] = 3.0
        elif kind == "transposed" and values.dtype != object:
            file[key] = values.T
    return [key]


def _values(rng: random.Random, path: Path) -> list[str]:
    """Change values or the type of a data set."""
    with h5py.File(path, "r+") as file:
        key, values = _taken(rng, file)
        if values.dtype.names or values.dtype.kind == "S":  # a table, or names of columns
            file[key] = np.zeros(len(values))
            return [key]
        if values.dtype == object:
            rows = [np.array(row) for row in values]
            row = rows[rng.randrange(len(rows))]
            if len(row):
                row[rng.randrange(len(row))] = rng.choice((-1, 99, 2**30))
            values = np.empty(len(rows), object)
            values[:] = rows
            _write(file, key, values)
            return [key]
        kind = rng.choice(("odd", "odd", "all", "text", "complex", "wide", "columns"))
        if kind in ("odd", "all"):
            odd = rng.choice((np.nan, np.inf, -1.0, -999.0, 0.0, 1e30, 0.5, 7.0))
            with np.errstate(invalid="ignore"):
                if kind == "all":
                    values = np.full_like(values.astype(float), odd)
                else:
                    values = values.astype(float)
                    values.reshape(-1)[rng.randrange(values.size)] = odd
        elif kind == "text":
            values = np.full(values.shape, b"text")
        elif kind == "complex":
            values = values.astype(complex)
        elif kind == "wide":
            values = values[..., None]
        elif kind == "columns":
            values = values[..., ::-1]
        file[key] = values
    return [key]


def _taken(rng: random.Random, file: h5py.File) -> tuple[str, np.ndarray]:
    """Remove a data set from a file; return its name and its values."""
    found: list[str] = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    key = rng.choice(sorted(found))
    values = file[key][()]
    del file[key]
    return key, values


def _write(file: h5py.File, key: str, values: np.ndarray) -> None:
    if values.dtype == object:
        kind = np.int32 if key == "cluster" else np.float32
        data = file.create_dataset(key, (len(values),), h5py.vlen_dtype(kind))
        for number, row in enumerate(values):
            data[number] = row
    else:
        file[key] = values


# -- checkpoints, presets, tables ------------------------------------------------------------------------------------


def odd_checkpoint(rng: random.Random, path: Path) -> list[str]:
    """Change a checkpoint; return the words that an error may name."""
    kind = rng.choice(("bytes", "bytes", "without", "values", "not a dict", "pickle"))
    if kind == "bytes":
        change_bytes(rng, path)
        return [path.name, "loss nan", "gradient norm nan"]  # flipped bits can make weights that are just too large
    elif kind == "not a dict":
        torch.save([1, 2], path)
    elif kind == "pickle":
        path.write_bytes(b"cos\nsystem\n(S'touch PWNED'\ntR.")
    else:
        content = torch.load(path, weights_only=True)
        place = rng.choice([content, *(v for v in content.values() if isinstance(v, dict) and v)])
        key = rng.choice(list(place))
        if kind == "without":
            del place[key]
        else:
            place[key] = rng.choice((None, -1, "x", [], {}, torch.zeros(2)))
        torch.save(content, path)
    return [path.name]


def odd_preset(rng: random.Random, path: Path, schema) -> list[str]:
    """Write a preset that is not one; return the words that an error may name."""
    names = list(settings_of(schema))
    lines = [
        "just text",
        "- a\n- list",
        "a: [1, 2",
        "\tkey: 1",
        "\0\1\2",
        f"{rng.choice(names)}: {{a: 1}}",
        f"{rng.choice(names)}: [1, [2, {{}}]]",
        f"{rng.choice(names)}: {rng.choice(ODD_NUMBERS)}",
        f"{rng.choice(names)}: {rng.choice(ODD_NUMBERS)}",
        f"{rng.choice(names)}x: 1",
        "1: 2",
        "null: 3",
        "seed: 1\nseed: 2",
        "seed: 2026-01-01",
        "? [a, b]\n: 1",
        "a: &a [*a]",
        "!!python/object/apply:os.system ['touch PWNED']",
        "",
    ]
    text = rng.choice(lines)
    path.write_bytes(rng.choice((text.encode(), text.encode("utf-16"), text.encode() + b"\xff")))
    return [path.name, *("--" + name.replace("_", "-") for name in names if name in text)]
