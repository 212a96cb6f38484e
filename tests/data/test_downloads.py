"""Downloads from a server on this machine: broken, refused, changed and damaged ones."""

import hashlib
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import download
import pytest

from puffin.data.downloads import RemoteFile
from puffin.errors import InputError

CONTENT = bytes(range(256)) * 12_000  # 3 MB: several pieces
MD5 = ("md5", hashlib.md5(CONTENT).hexdigest())


class Server(ThreadingHTTPServer):
    """Serves one file, at any address.

    breaks: numbers of bytes after which the next connections break off; requests: the headers that came; ranges: offer
    parts of the file; tag: its entity tag; status, kind: of every answer, unless None."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.breaks, self.requests = CONTENT, [], []
        self.ranges, self.tag, self.status, self.kind, self.length = True, '"1"', None, "application/x-hdf5", True

    def file(self, **facts) -> RemoteFile:
        """Return the file as a table describes it."""
        return RemoteFile("a/b.h5", f"http://127.0.0.1:{self.server_port}/b.h5", "https://example.org/page", **facts)


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        if server.status:
            self.send_error(server.status)
            return
        content, start = server.content, 0
        requested = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if requested and server.ranges and self.headers.get("If-Range") in (None, server.tag):
            start = int(requested[1])
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Type", server.kind)
        if server.length:
            self.send_header("Content-Length", str(len(content) - start))
        if server.tag:
            self.send_header("ETag", server.tag)
        self.end_headers()
        self.wfile.write(content[start:][: server.breaks.pop(0) if server.breaks else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = Server()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def ranges(server) -> list[str]:
    """Return the parts that were requested."""
    return [headers.get("Range", "all") for headers in server.requests]


@pytest.mark.parametrize("facts", [{}, {"checksum": MD5}, {"size": len(CONTENT)}])
def test_a_broken_download_continues(server, tmp_path, facts):
    """Breaks if it starts from the beginning, or requests bytes that it already has."""
    server.breaks = [1_500_000, 700_000]
    path = server.file(**facts).fetch(tmp_path, pause=0)
    assert path == tmp_path / "a/b.h5" and path.read_bytes() == CONTENT
    assert ranges(server) == ["all", "bytes=1500000-", "bytes=2200000-"]
    assert [p.name for p in path.parent.iterdir()] == ["b.h5"]
    assert server.file(**facts).fetch(tmp_path) == path and len(server.requests) == 3


def test_the_same_command_continues(server, tmp_path):
    """After a failure nothing has the name of the file. Breaks if an incomplete file looks finished."""
    server.breaks = [1_000_000] + 9 * [0]
    with pytest.raises(InputError, match="the connection ended early, after 1.0 MB; the same command continues"):
        server.file().fetch(tmp_path, pause=0)
    assert not (tmp_path / "a/b.h5").exists() and (tmp_path / "a/b.h5.part").stat().st_size == 1_000_000
    server.breaks, server.requests = [], []
    assert server.file().fetch(tmp_path).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=1000000-"]


@pytest.mark.parametrize("change", ["new version", "no version", "no ranges"])
def test_parts_of_two_versions_are_not_joined(server, tmp_path, change):
    """Breaks if a file that has changed on the server since the first part is continued."""
    server.breaks, server.content = [1_000_000] + 9 * [0], CONTENT[::-1]
    server.tag = None if change == "no version" else '"0"'
    with pytest.raises(InputError):
        server.file().fetch(tmp_path, pause=0)
    server.breaks, server.content, server.tag, server.ranges = [], CONTENT, '"1"', change != "no ranges"
    assert server.file().fetch(tmp_path).read_bytes() == CONTENT


def test_more_bytes_than_the_server_has(server, tmp_path):
    """Breaks if a partial file that is too long ends the download, or is kept."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b.h5.part").write_bytes(CONTENT + b"more")
    assert server.file(checksum=MD5).fetch(tmp_path, pause=0).read_bytes() == CONTENT


@pytest.mark.parametrize("facts", [{"checksum": ("md5", "0" * 32)}, {"checksum": ("sha256", "0" * 64)}])
def test_a_wrong_checksum_is_refused(server, tmp_path, facts):
    """Breaks if a damaged file gets its name, or is kept so that it can never be mended."""
    with pytest.raises(InputError, match=f"expected the {facts['checksum'][0]} 0000"):
        server.file(**facts).fetch(tmp_path)
    assert list((tmp_path / "a").iterdir()) == []
    (tmp_path / "a/b.h5").write_bytes(b"of the user")
    with pytest.raises(InputError, match="move it away"):
        server.file(**facts).fetch(tmp_path)
    assert (tmp_path / "a/b.h5").read_bytes() == b"of the user"


def test_another_size_is_refused(server, tmp_path):
    """Breaks if a file is downloaded that cannot be the right one."""
    with pytest.raises(InputError, match=f"expected 5 bytes, and the server has {len(CONTENT)}"):
        server.file(size=5).fetch(tmp_path)
    server.length = False
    with pytest.raises(InputError, match="does not say how long the file is"):
        server.file().fetch(tmp_path)


@pytest.mark.parametrize("status, kind", [(403, "application/x-hdf5"), (None, "text/html; charset=utf-8")])
def test_a_login_gets_instructions(server, tmp_path, status, kind):
    """Breaks if the page of a login is taken for the file."""
    server.status, server.kind = status, kind
    with pytest.raises(InputError, match="wants a login. Download a/b.h5 with a browser from https://example.org/page"):
        server.file().fetch(tmp_path)
    assert not (tmp_path / "a/b.h5").exists()


def test_a_missing_file(server, tmp_path):
    """Breaks if an address that does not exist is tried again and again."""
    server.status = 404
    with pytest.raises(InputError, match="HTTP status 404; look for a new address on https://example.org/page"):
        server.file().fetch(tmp_path)
    assert len(server.requests) == 1


def test_a_server_that_is_busy(server, tmp_path):
    """Breaks if a server that asks for patience is not asked again."""
    server.status = 503
    with pytest.raises(InputError, match="HTTP status 503, after 0 bytes; the same command"):
        server.file().fetch(tmp_path, pause=0)
    assert len(server.requests) > 3


def test_the_command(server, tmp_path, capsys):
    """By name, in parts, with the licence and what to do next."""
    (tmp_path / "table.yaml").write_text(
        f"jets: {{title: Jets, page: P, licence: CC, base: 'http://127.0.0.1:{server.server_port}', next: convert, "
        f"files: {{a.h5: {{md5: {MD5[1]}}}, b.h5: {{}}}}}}"
    )
    line = ["jets", "--outdir", str(tmp_path / "out"), "--table", str(tmp_path / "table.yaml")]
    download.main([*line, "--files", "b*"])
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["b.h5"]
    download.main(line)
    printed = capsys.readouterr().out
    assert "a.h5: 3.1 MB, checked" in printed and "b.h5: 3.1 MB, no checksum known" in printed
    assert "licence: CC" in printed and printed.endswith("next: convert\n")
    with pytest.raises(InputError, match="fits none of a.h5, b.h5"):
        download.main([*line, "--files", "c*"])


def test_the_table(capsys, tmp_path):
    """Every entry has what it needs; instructions are given where files cannot be downloaded directly."""
    download.main(["--list"])
    assert "top-tagging\n" in capsys.readouterr().out
    table = download.yaml.safe_load(download.TABLE.read_text())
    assert len([name for name in table if "segmentation" in name or "pretrained" in name]) == 6
    for name, entry in table.items():
        assert {"title", "page", "licence"} <= entry.keys() and ("files" in entry) != ("instructions" in entry), name
        for file in download.remote_files(entry):
            assert file.url.startswith("https://") and "//" not in file.url[8:], file
            assert file.checksum is None or re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", file.checksum[1])
    with pytest.raises(InputError, match="hf download"):
        download.main(["pilarnet-m", "--outdir", str(tmp_path)])
    with pytest.raises(InputError, match="did you mean hls4ml"):
        download.main(["hlsml", "--outdir", str(tmp_path)])
