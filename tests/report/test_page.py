"""The page about runs: its sections, its errors, and what a browser makes of it."""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import train_pelican_classifier as classifier
import train_pelican_cov as regressor
import train_segmentation as segmentation
from puffin.data.packing import JetBatch
from puffin.errors import InputError
from puffin.files import append_row
from puffin.report import looks, probes
from puffin.report.clouds import pretrainings
from puffin.report.collect import differences, find
from puffin.report.jets import classifiers
from puffin.settings.common import RunSettings
from tests.conftest import ROOT
from tests.runs.helpers import TINY_PELICAN, TINY_TRAINING, TINY_UNET, refused_by
from tools import report

JETS = [*TINY_PELICAN, *"--nobj 8 --batch-size 20 --warmup 0 --cooldown 0 --num-epoch 1 --no-plot".split()]
FEW = [*"--num-train 60 --num-valid 40 --num-test 80 --datadir".split(), str(ROOT / "data/sample_data/run12")]
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# runs before the scripts of the page, and after them
BEFORE = "<script>window.problems = []; window.onerror = (text) => window.problems.push(text);</script>"
AFTER = """<script>
const canvas = document.querySelector("canvas"), before = canvas.toDataURL();
const send = (kind, x) => canvas.dispatchEvent(new PointerEvent(kind, {pointerId: 1, clientX: x, clientY: 100}));
canvas.setPointerCapture = () => {};
send("pointerdown", 100); send("pointermove", 180); send("pointerup", 180);
const rotated = canvas.toDataURL();
document.querySelectorAll(".view .buttons button")[1].click();
const table = document.querySelector("table");
table.querySelector("th button").click();
const cells = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
const rising = cells();
table.querySelector("th button").click();
const found = {problems, rotates: before !== rotated, changes: rotated !== canvas.toDataURL(), rising, falling: cells(),
  broken: [...document.images].filter((image) => !image.naturalWidth).length, wide: document.body.scrollWidth};
document.body.dataset.found = JSON.stringify(found);
</script>"""

refused = partial(refused_by, report.main)


@pytest.fixture(scope="module")
def work(small_jets, small_clouds, tmp_path_factory):
    """Two taggers that differ by their seed, one with other settings, a regressor and a segmentation; all tiny."""
    folder = tmp_path_factory.mktemp("report")
    common = ["--workdir", str(folder)]
    jets = [*JETS, "--datadir", str(small_jets), *common]
    tops = [*JETS, *FEW, *common]
    clouds = [*TINY_UNET, *TINY_TRAINING, "--datadir", str(small_clouds), "--no-plot", *common]
    with pytest.MonkeyPatch.context() as patch:
        for script, flags, further in (
            (classifier, jets, "--prefix top-s1 --seed 1"),
            (classifier, jets, "--prefix top-s2 --seed 2"),
            (classifier, jets, "--prefix few --nobj 4"),
            (regressor, tops, "--prefix momenta --target truth_Pmu"),
            (segmentation, clouds, "--prefix points"),
        ):
            argv = [*flags, *further.split()]
            patch.setattr(sys, "argv", [script.__name__ + ".py", *argv])
            script.main(argv)
    return folder


@pytest.fixture(scope="module")
def page(work):
    """The page about all runs, as text."""
    report.main([*"top few momenta points --resamples 20 --workdir".split(), str(work)])
    return (work / "log/top.html").read_text()


def test_sections(page):
    """Each kind of run has its sections; nothing is fetched; figures have descriptions."""
    titles = re.findall("<h2>(.*)</h2>", page)
    assert titles == ["What was run", "Curves", "Classification", "Momenta", "Points", "What the network looks at"]
    assert "train_pelican_classifier.py" in page and "<td>top-s2</td>" in page
    assert len(page) < 5e6 and not re.search(r'(src|href)="(?!data:|#)', page)
    figures = re.findall(r'<img src="data:image/[\w+]+;base64,[^"]+" alt="([^"]*)"', page)
    assert len(figures) == page.count("<img") >= 12 and all(figures)
    looks = [text for text in figures if ", test jet " in text]
    assert len(looks) == 3 * 4 and "(background): relevance of particles" in looks[0]
    (read,) = (text for text in figures if "how well a linear regression reads" in text)
    assert read.startswith("momenta: ") and re.search(r"<td>block 1, random weights</td>\s*<td>-?[\d.]+</td>", page)
    views = re.findall(r'<script type="application/json">(.*)</script>', page)
    assert len(views) == 3
    assert [p["title"] for p in json.loads(views[0])] == ["true classes", "predicted classes", "errors", "energies"]


def test_seeds_are_one_method(work):
    """Runs that differ by their seed are one row with a spread; settings that differ are listed."""
    runs, _ = find(["top", "few"], RunSettings(workdir=str(work)))
    assert [run.name for run in runs] == ["top-s1", "top-s2", "few"]
    assert differences(runs) == {"nobj": ["8", "8", "4"], "seed": ["1", "2", "1"]}
    (section,) = classifiers(runs, "few", 20)
    numbers, minus = (block for block in section.blocks if block.kind == "table")
    assert [row[:2] for row in numbers.rows] == [["top", "2"], ["few", "1"]]
    assert "±" in numbers.rows[0][2] and "±" not in numbers.rows[1][2]
    assert minus.header[0] == "minus few" and [row[0] for row in minus.rows] == ["top"]


def test_unknown_names(work, tmp_path, capsys):
    arguments = ["--workdir", str(work)]
    text = refused(["tpo", *arguments], capsys)
    assert f"tpo: no such run in {work}/log (did you mean top?); there are few, " in text and "points, top-s1" in text
    assert "--reference tops: no such method (did you mean top?)" in refused(
        ["top", "--reference", "tops", *arguments], capsys
    )
    assert "no runs; choose the folder" in refused(["top", "--workdir", str(tmp_path)], capsys)


def test_a_live_run_and_a_sweep(tmp_path):
    """A run that has written only a log and its settings, and the table of a sweep, make a page."""
    log = tmp_path / "log"
    log.mkdir()
    (log / "live.log").write_text("2026-01-01 10:00:00,000 INFO    command: train_pelican_cov.py --prefix live\n")
    (log / "live.yaml").write_text("seed: 1\n")
    for trial, loss in enumerate((0.5, 0.25)):
        append_row(log / "study.trials.csv", {"trial": trial, "loss": loss, "failure": "", "nobj": "<20>"})
    report.main(["live", "study", "--workdir", str(tmp_path)])
    page = (log / "live.html").read_text()
    assert re.findall("<h2>(.*)</h2>", page) == ["What was run", "Sweep study"]
    assert "<td>0.25</td>" in page and "&lt;20&gt;" in page and "failure" not in page


def test_watch(work, monkeypatch):
    """The page is written again when a file has changed; the last one is not read again by the browser."""
    path, pages = work / "log/live.html", []
    (work / "log/live.log").write_text("")

    def sleep(seconds):
        pages.append(path.read_text())
        if len(pages) == 1:
            (work / "log/live.log").write_text("2026-01-01 10:00:00,000 WARNING it is <late>\n")
        elif len(pages) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(report, "time", SimpleNamespace(sleep=sleep, strftime=lambda form: ""))
    report.main(["live", "--watch", "--every", "7", "--workdir", str(work)])
    assert "it is &lt;late&gt;" not in pages[0] and "it is &lt;late&gt;" in pages[1] and pages[1] == pages[2]
    assert all('http-equiv="refresh" content="7"' in text for text in pages) and "refresh" not in path.read_text()


def test_pretraining(pretrained):
    """The view shows tokens, and masked, reconstructed and embedded points; without events there is a reason."""
    work = pretrained.parents[1]
    report.main(["tiny", "--workdir", str(work)])
    page = (work / "log/tiny.html").read_text()
    view, looks = re.findall(r'<script type="application/json">(.*)</script>', page)
    assert [p["title"] for p in json.loads(looks)][:2] == ["classes", "attention of a shower token"]
    assert "attention, 1 for the same to all tokens: dark 0." in looks
    assert "tiny: a shower token of validation event" in page and "fraction of the 5 nearest" in page
    pages = {p["title"]: p["layers"] for p in json.loads(view)}
    assert [*pages][:5] == ["energy", "class", "tokens", "masked points, true", "masked points, predicted"]
    assert all(layer["points"] for layer in pages["masked points, predicted"])
    (work / "model/tiny_best.pt").unlink(missing_ok=True)
    (work / "model/tiny.pt").unlink()
    (section,) = pretrainings(find(["tiny"], RunSettings(workdir=str(work)))[0])
    assert "no such checkpoint" in section.blocks[-1].text


def test_probes_without_fastjet(monkeypatch):
    """Mass and pT are those of the particles in use, in GeV; N-subjettiness is left out with the reason."""

    def missing(*arguments):
        raise InputError("needs fastjet")

    monkeypatch.setattr(probes, "subjettiness", missing)
    momenta = torch.tensor([[5.0, 3, 0, 0], [5, 0, 4, 0], [2, 0, 0, 2]])
    batches = [JetBatch(momenta[:2] / 10, torch.tensor([2])), JetBatch(momenta[2:] / 10, torch.tensor([1]))]
    values, (note,) = probes._observables(batches, np.array([2, 1]), 0.1)
    assert list(values) == ["mass", "pT"] and "needs fastjet" in note.text
    assert values["mass"] == pytest.approx([75**0.5, 0], abs=1e-3) and values["pT"] == pytest.approx([5, 0])


def test_a_checkpoint_is_looked_at_once(work, monkeypatch):
    """Breaks if --watch probes a network again after each epoch, or never again."""
    runs, calls = find(["few"], RunSettings(workdir=str(work)))[0], []
    monkeypatch.setattr(looks, "probes", lambda *arguments: calls.append(arguments) or [])
    looks._blocks.cache_clear()
    first, again = looks.looked_at(runs), looks.looked_at(runs)
    assert first[0].blocks == again[0].blocks and len(first[0].blocks) == 4 and len(calls) == 1
    os.utime(runs[0].checkpoint, (1, 1))
    looks.looked_at(runs)
    assert len(calls) == 2
    looks._blocks.cache_clear()


@pytest.mark.parametrize("width", (1280, 390))
def test_in_a_browser(page, tmp_path, width):
    """The page has no errors and fits its window; events rotate, tables sort, and it prints."""
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no Chromium")
    tested = page.replace("<head>", f"<head>{BEFORE}").replace("</body>", f"{AFTER}</body>")
    (tmp_path / "page.html").write_text(tested)
    command = [browser, "--headless", "--no-sandbox", f"--window-size={width},800", "--virtual-time-budget=2000"]
    where = f"file://{tmp_path}/page.html"
    dom = subprocess.run([*command, "--dump-dom", where], capture_output=True, text=True, timeout=100).stdout
    found = json.loads(re.search('data-found="([^"]*)"', dom)[1].replace("&quot;", '"'))
    assert not found["problems"] and not found["broken"] and found["wide"] <= width
    assert found["rotates"] and found["changes"]
    assert found["falling"] == found["rising"][::-1] == sorted(found["falling"], reverse=True)
    printed = tmp_path / "page.pdf"
    subprocess.run([*command, f"--print-to-pdf={printed}", where], capture_output=True, timeout=100)
    assert printed.read_bytes().count(b"/Type /Page\n") > 2
