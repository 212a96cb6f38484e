#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK
"""Download published data sets and weights by name.

    python3 tools/download.py --list
    python3 tools/download.py top-tagging --outdir data/top
    python3 tools/download.py jetclass --outdir data/jetclass --files '*val*'

The same command continues a broken download. A file has its name only when it is complete and its checksum, where one
is known, is right. The names are those of config/published.yaml.
"""

import argparse
import sys
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from puffin.errors import InputError, explain_missing_packages, nearest
from puffin.settings.parser import OneLineParser

TABLE = Path(__file__).resolve().parents[1] / "config/published.yaml"


def make_parser() -> OneLineParser:
    """Return the parser of this tool's flags."""
    parser = OneLineParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("name", nargs="?", metavar="NAME", help="what to download, see --list")
    add("--outdir", type=Path, metavar="DIR", help="folder of the files; it is created")
    add("--files", nargs="+", default=["*"], metavar="PATTERN", help="download only these files (default: all)")
    add("--list", action="store_true", help="list the names, with sizes and licences")
    add("--table", type=Path, default=TABLE, metavar="FILE", help="list of addresses (default: config/published.yaml)")
    return parser


if __name__ == "__main__":  # --help and bad flags are answered before the imports
    explain_missing_packages()
    make_parser().parse_args()

import yaml

from puffin.data.downloads import RemoteFile
from puffin.files import size_in_words
from puffin.runs.entry import run_script

CHECKSUMS = ("sha256", "md5")


def remote_files(entry: Mapping[str, Any]) -> list[RemoteFile]:
    """Return the files of an entry of the table."""
    files = []
    for name, facts in entry.get("files", {}).items():
        checksum = next(((kind, facts[kind]) for kind in CHECKSUMS if kind in facts), None)
        files.append(RemoteFile(name, f"{entry['base']}/{name}", entry["page"], facts.get("size"), checksum))
    return files


def describe(table: Mapping[str, Any]) -> None:
    """Print the names of the table, with what is known of each."""
    for name, entry in table.items():
        files = remote_files(entry)
        sizes = [file.size for file in files]
        size = size_in_words(sum(sizes)) if files and None not in sizes else "unknown size"
        checked = sum(file.checksum is not None for file in files)
        print(f"{name}\n    {entry['title']}")
        print(
            f"    {len(files)} files, {size}, {checked} with a checksum; licence: {entry['licence']}; {entry['page']}"
        )


def main(argv: list[str] | None = None) -> None:
    """Download the files of a name, or list the names."""
    args = make_parser().parse_args(argv)
    table = yaml.safe_load(args.table.read_text(encoding="utf-8"))
    if args.list:
        describe(table)
        return
    if args.name not in table:
        raise InputError(
            f"{args.name or 'no name given'}: not in the list{nearest(args.name or '', table)}; see --list"
        )
    if args.outdir is None:
        raise InputError("--outdir: give the folder of the files")
    entry = table[args.name]
    if "instructions" in entry:
        raise InputError(
            f"{args.name}: {entry['instructions'].replace('OUTDIR', str(args.outdir))}. See {entry['page']}"
        )
    chosen = [file for file in remote_files(entry) if any(fnmatch(file.name, pattern) for pattern in args.files)]
    if not chosen:
        raise InputError(f"--files {' '.join(args.files)}: fits none of {', '.join(entry['files'])}")
    print(f"{entry['title']}; licence: {entry['licence']}; {entry['page']}")
    for file in chosen:
        path = file.fetch(args.outdir)
        print(f"{path}: {size_in_words(path.stat().st_size)}, {'checked' if file.checksum else 'no checksum known'}")
    if "next" in entry:
        print(f"next: {entry['next']}")


if __name__ == "__main__":
    run_script(main, hint="")
