"""Download files so that a broken download continues, and never looks finished."""

import contextlib
import fcntl
import hashlib
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from puffin.errors import InputError, first_line
from puffin.files import full_disk, size_in_words

_PIECE = 2**20  # bytes that are read at once
_SECONDS = 60  # how long a server may be silent
_ATTEMPTS = 5  # connections without any progress before a download is given up
_BROKEN = (OSError, http.client.HTTPException)  # what a connection that breaks raises


@dataclass(frozen=True)
class RemoteFile:
    """A file to download: its name (which may have folders), address, size [bytes] and checksum, as far as known.

    checksum: of hashlib, by the name of its algorithm; page: where the file is described."""

    name: str
    url: str
    page: str
    size: int | None = None
    checksum: tuple[str, str] | None = None

    def fetch(self, folder: Path, pause: float = 2.0) -> Path:
        """Download the file to a folder, unless it is there; return its path.

        It is NAME.part until it is complete and has the right checksum. pause: time between two attempts [s].
        InputError if the server refuses, breaks off again and again, or has another file."""
        path = folder / self.name
        if path.exists():
            self._check(path, "move it away to download the file again")
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.part")
        with _owned(partial) as file:
            try:
                self._complete(file, partial, pause)
                os.fsync(file.fileno())
            except OSError as error:
                raise full_disk(error, path, self.size) or error from error
            try:
                self._check(partial, "the download was removed; try again")
            except InputError:
                partial.unlink()
                raise
            os.replace(partial, path)
        return path

    def _complete(self, file: BinaryIO, partial: Path, pause: float) -> None:
        """Append what is missing; after a broken connection, again."""
        failures, reached = 0, -1
        tag = partial.with_name(f"{partial.name}.etag")  # the server's name for this version of the file
        while True:
            position = file.seek(0, os.SEEK_END)
            failures = 0 if position > reached else failures + 1
            reached = position
            try:
                if self._receive(file, position, tag):
                    tag.unlink(missing_ok=True)
                    return
                reason = "the connection ended early"
            except urllib.error.HTTPError as error:
                reason = f"HTTP status {error.code}"
                if error.code == 416 and position:  # more than the server has
                    file.truncate(0)
                elif error.code < 500 and error.code != 429:
                    raise InputError(self._refusal(error.code)) from error
            except _BROKEN as error:
                if full_disk(error, partial) is not None:
                    raise
                reason = first_line(error) or type(error).__name__
            if failures >= _ATTEMPTS:
                raise InputError(
                    f"{self.url}: {reason}, after {size_in_words(position)}; the same command continues the download"
                )
            time.sleep(pause)

    def _receive(self, file: BinaryIO, position: int, tag: Path) -> bool:
        """Append bytes from a position on until the connection ends; return whether the file is complete."""
        if position and position == self.size:
            return True
        request = urllib.request.Request(self.url, headers={"User-Agent": "puffin"})
        if position and (tag.exists() or self.checksum is not None):  # else parts of two versions could be joined
            request.add_header("Range", f"bytes={position}-")
            if tag.exists():
                request.add_header("If-Range", tag.read_text(encoding="utf-8"))
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            if answer.headers.get_content_type() == "text/html":
                raise InputError(self._refusal(403))
            if answer.status == 206 and not answer.headers["Content-Range"].startswith(f"bytes {position}-"):
                raise http.client.HTTPException(
                    f"expected bytes from {position}, got {answer.headers['Content-Range']}"
                )
            if answer.status != 206:  # the server sends the whole file
                file.truncate(0)
                position = 0
                _keep_tag(tag, answer.headers["ETag"] or "")
            length = answer.headers["Content-Length"]
            total = None if length is None else position + int(length)
            self._check_total(total, Path(file.name).parent, position)
            with tqdm(total=total, initial=position, desc=self.name, unit="B", unit_scale=True, disable=None) as bar:
                while piece := answer.read(_PIECE):
                    file.write(piece)
                    position += len(piece)
                    bar.update(len(piece))
        file.flush()
        return position == total

    def _check_total(self, total: int | None, folder: Path, position: int) -> None:
        if total is None:
            raise InputError(f"{self.url}: the server does not say how long the file is; download it from {self.page}")
        if self.size is not None and total != self.size:
            raise InputError(f"{self.url}: expected {self.size} bytes, and the server has {total}; see {self.page}")
        free = shutil.disk_usage(folder).free
        if free < total - position:
            raise InputError(
                f"{folder}: {self.name} needs {size_in_words(total - position)}, and {size_in_words(free)} are free; "
                "free some space, or choose another --outdir"
            )

    def _refusal(self, code: int) -> str:
        if code in (401, 403):
            return (
                f"{self.url}: the server wants a login. Download {self.name} with a browser from "
                f"{self.page}, put it into --outdir, and give the same command to check it"
            )
        return f"{self.url}: HTTP status {code}; look for a new address on {self.page}"

    def _check(self, path: Path, advice: str) -> None:
        """Raise InputError unless the file has the right size and checksum."""
        size = path.stat().st_size
        if self.size is not None and size != self.size:
            raise InputError(f"{path}: expected {self.size} bytes, got {size}; {advice}")
        if self.checksum is not None:
            algorithm, expected = self.checksum
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, algorithm).hexdigest()
            if found != expected:
                raise InputError(f"{path}: expected the {algorithm} {expected}, got {found}; {advice}")


def _keep_tag(path: Path, tag: str) -> None:
    """Store an entity tag if parts of a file can be requested with it: a weak one (W/...) cannot."""
    path.unlink(missing_ok=True)
    if tag and not tag.startswith("W/"):
        path.write_text(tag, encoding="utf-8")


@contextlib.contextmanager
def _owned(path: Path) -> Iterator[BinaryIO]:
    """Open a file to append to it; InputError if another process does so."""
    with open(path, "ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{path}: another process downloads this file") from error
        yield file
