"""Where a run writes: places are tried first, side outputs may fail, evaluations replace nothing, tables of steps."""

import csv
import errno
import fcntl
import os
import subprocess
import sys

import pytest
import torch

import train_pelican_classifier as script
import train_segmentation
from puffin import files
from puffin.checkpoints.checkpoint import Checkpoint
from puffin.errors import DiskFull, InputError, MissingOutputs
from puffin.files import append_row, whole_file
from puffin.runs.outputs import own_best
from puffin.runs.paths import name_of_events
from puffin.tables import read_records
from puffin.tasks.classification import JetClassification
from tests.conftest import ROOT
from tests.patience import PATIENCE
from tests.runs.helpers import TINY_CLOUDS, existing_run, refused_by, same, stop_in_training_step, weights
from tests.runs.mounts import needs_mounts, run_mounted
from tests.runs.test_classifier_script import command


def table(path):
    """Return the rows of a table."""
    with open(path) as file:
        return list(csv.DictReader(file))


# -- before the training ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--logdir", "--modeldir", "--predictdir"])
def test_file_in_place_of_a_folder(small_jets, tmp_path, capsys, flag):
    """The error names the flag, and nothing was trained."""
    (tmp_path / "file").write_text("")
    line = refused_by(script.main, command(small_jets, tmp_path, flag, "file"), capsys)
    assert "expected a folder, found a file" in line and flag in line
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob("*.running"))


@pytest.mark.parametrize("name", ["log/tiny.png", "log/tiny.Best.metrics.csv", "model/tiny.pt"])
def test_folder_in_place_of_a_file(small_jets, tmp_path, capsys, name):
    """The error names it before the training."""
    (tmp_path / name).mkdir(parents=True)
    assert f"{name}: expected the name of a file, found a folder" in refused_by(
        script.main, command(small_jets, tmp_path), capsys
    )


def test_longest_name(small_jets, tmp_path, capsys):
    """A prefix that is refused if any file's name would be too long, even if the log's would not."""
    line = refused_by(script.main, command(small_jets, tmp_path, "--prefix", "é" * 120), capsys)
    assert "--prefix" in line and "shorter" in line
    assert not list(tmp_path.rglob("*.log"))
    script.main(command(small_jets, tmp_path, "--prefix", "x" * 228, "--num-epoch", "1", "--predict"))
    assert len(list((tmp_path / "predict").iterdir())) == 12


@needs_mounts
@pytest.mark.parametrize("folder", ["log", "model", "predict"])
def test_read_only_folder(small_jets, tmp_path, folder):
    """A real read-only mount: refused before the training, and the earlier run stays."""
    script.main(command(small_jets, tmp_path, "--no-plot", "--num-epoch", "1"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    place = tmp_path / folder
    mounts = [f"mount --bind {place} {place}", f"mount -o remount,ro,bind {place}"]
    done = run_mounted(mounts, ["train_pelican_classifier.py", *command(small_jets, tmp_path)])
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and str(place) in last and "Read-only file system" in last and f"--{folder}dir" in last
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


@needs_mounts
def test_disk_without_space_for_a_checkpoint(small_jets, tmp_path):
    """A real disk of 16 kB: the error says which disk is full and how much a checkpoint needs."""
    (tmp_path / "model").mkdir()
    mounts = [f"mount -t tmpfs -o size=16k none {tmp_path}/model"]
    done = run_mounted(mounts, ["train_pelican_classifier.py", *command(small_jets, tmp_path)])
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and f"{tmp_path}/model" in last and "free" in last and "kB" in last
    assert "epoch 1/2" not in done.stderr


# -- after the training ----------------------------------------------------------------------------------------------


@needs_mounts
@pytest.mark.parametrize("flags", [["--predict"], ["--predict", "--predict-format", "h5"]])
def test_predictions_on_a_full_disk(small_jets, tmp_path, flags):
    """A real disk of 8 kB for predictions: the metrics of both evaluations are in the tables; exit status 3."""
    (tmp_path / "predict").mkdir()
    mounts = [f"mount -t tmpfs -o size=8k none {tmp_path}/predict"]
    done = run_mounted(mounts, ["train_pelican_classifier.py", *command(small_jets, tmp_path, "--no-plot", *flags)])
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 3 and "the run has finished, but" in last and "it is full" in last
    for weights_ in ("Best", "Final"):
        assert len(table(tmp_path / f"log/tiny.{weights_}.metrics.csv")) == 1


@needs_mounts
def test_predictions_of_points_on_a_full_disk(small_clouds, pretrained, tmp_path):
    """Points are written while they are evaluated: on a real disk of 16 kB the evaluation is made without them."""
    (tmp_path / "predict").mkdir()
    flags = f"--pretrained {pretrained} --datadir {small_clouds} --workdir {tmp_path} --no-plot --num-epoch 1".split()
    mounts = [f"mount -t tmpfs -o size=16k none {tmp_path}/predict"]
    done = run_mounted(mounts, ["train_segmentation.py", *TINY_CLOUDS, *flags])
    assert done.returncode == 3, done.stderr
    for weights_ in ("Best", "Final"):
        assert len(table(tmp_path / f"log/tiny.{weights_}.metrics.csv")) == 1


def test_picture_that_fails(small_jets, tmp_path, monkeypatch, capsys):
    """A failure in the drawing of curves costs a warning and exit status 3, not the evaluation."""

    def fail(*args, **options):
        raise ValueError("no fonts")

    monkeypatch.setattr("puffin.runs.jets.draw_classification", fail)
    with pytest.raises(MissingOutputs, match="no fonts") as error:
        script.main(command(small_jets, tmp_path, "--num-epoch", "1"))
    assert len(error.value.history) == 1
    assert (tmp_path / "predict/tiny.best.test.pt").exists() and table(tmp_path / "log/tiny.Best.metrics.csv")


def test_pictures_of_events_that_fail(small_clouds, tmp_path, monkeypatch):
    """A relative of it: pictures of events in mid-training. Breaks if they end the training."""
    import train_pointmae

    monkeypatch.setattr("puffin.tasks.cloud_pictures.draw_page", lambda *args: 1 / 0)
    flags = "--arch vit_tiny --depth 1 --decoder-depth 1 --no-probe --num-step 3 --plot-every 1 --valid-every 1".split()
    with pytest.raises(MissingOutputs, match="pictures of events"):
        train_pointmae.main([*TINY_CLOUDS, *flags, "--datadir", str(small_clouds), "--workdir", str(tmp_path)])
    assert Checkpoint.read(tmp_path / "model/tiny.pt").state["progress"]["step"] == 3


def test_best_of_another_run_is_not_evaluated(small_jets, tmp_path, monkeypatch, capsys):
    """Stand-in for a folder that two machines share without seeing each other's locks.

    The best checkpoint is replaced in mid-training; its numbers must not stand under this run's name."""
    script.main(command(small_jets, tmp_path / "other", "--no-plot", "--num-epoch", "1"))
    foreign = (tmp_path / "other/model/tiny_best.pt").read_bytes()

    def replaced(run):
        run.paths.best.write_bytes(foreign)
        return own_best(run)

    monkeypatch.setattr("puffin.runs.train.own_best", replaced)
    line = refused_by(script.main, command(small_jets, tmp_path, "--no-plot"), capsys)
    assert "was written by another run" in line and not (tmp_path / "log/tiny.Best.metrics.csv").exists()


def test_identity_of_a_run(small_jets, tmp_path):
    """Checkpoints, rows and predictions hold it; it survives a resumption, and a copy of the run gets another one."""
    script.main(command(small_jets, tmp_path, "--no-plot", "--num-epoch", "1", "--predict"))
    own = Checkpoint.read(tmp_path / "model/tiny.pt").run_id
    script.main(command(small_jets, tmp_path, "--no-plot", "--load", "--num-epoch", "2"))
    other = ["--load", "--loadfile", str(tmp_path / "model/tiny.pt"), "--prefix", "tiny-2", "--num-epoch", "3"]
    script.main(command(small_jets, tmp_path, "--no-plot", *other))
    rows = table(tmp_path / "log/tiny.Best.metrics.csv")
    assert [row["run"] == own for row in rows] == [True, True, False] and len(own) == 16
    assert {Checkpoint.read(tmp_path / f"model/tiny{k}.pt").run_id for k in ("", "_best")} == {own}
    assert torch.load(tmp_path / "predict/tiny.best.test.pt", weights_only=True)["run"] == own
    assert "written by the run 'tiny'" in (tmp_path / "log/tiny-2.log").read_text()


def test_finished_run_says_so(small_jets, tmp_path):
    """--load of a finished run trains nothing, and the log says what to do."""
    script.main(command(small_jets, tmp_path, "--no-plot"))
    script.main(command(small_jets, tmp_path, "--no-plot", "--load"))
    assert "has finished already" in (tmp_path / "log/tiny.log").read_text()


def test_metric_that_is_never_a_number(small_jets, tmp_path, monkeypatch, capsys):
    """The run fails and names the metric; the last network is kept and evaluated, and no epoch is the best."""
    metrics = JetClassification.metrics
    monkeypatch.setattr(JetClassification, "metrics", lambda self, *args: metrics(self, *args) | {"AUC": float("nan")})
    line = refused_by(script.main, command(small_jets, tmp_path, "--no-plot", "--best-by", "AUC"), capsys)
    assert "--best-by AUC: was not a number in any of the 2 validations" in line
    assert (tmp_path / "model/tiny.pt").exists() and not (tmp_path / "model/tiny_best.pt").exists()
    assert table(tmp_path / "log/tiny.Final.metrics.csv")


# -- evaluations -----------------------------------------------------------------------------------------------------


def test_evaluation_replaces_nothing(small_jets, tmp_path, capsys):
    """An evaluation has outputs of its own, its row says what was evaluated, and the name is that of the run."""
    script.main(command(small_jets, tmp_path, "--no-plot", "--predict"))
    before = {path: path.read_bytes() for path in (tmp_path / "predict").iterdir()}
    other = tmp_path / "other.h5"
    other.write_bytes((small_jets / "valid.h5").read_bytes())
    best = str(tmp_path / "model/tiny_best.pt")
    evaluate = ["--eval", "--cpu", "--loadfile", best, "--workdir", str(tmp_path), "--testfile", str(other)]
    script.main(evaluate)
    after = {path: path.read_bytes() for path in (tmp_path / "predict").iterdir()}
    assert before.items() < after.items()
    assert {path.name for path in after.keys() - before} == {
        "tiny.best.test.other.pt",
        "tiny.best.test.other_ROC.csv",
    }
    trained, evaluated = table(tmp_path / "log/tiny.Best.metrics.csv")
    assert trained["evaluated"] == str(small_jets.resolve()) and evaluated["evaluated"] == str(other.resolve())
    assert trained["run"] == evaluated["run"] == Checkpoint.read(best).run_id
    assert "exists already" in refused_by(script.main, evaluate, capsys)
    assert len(table(tmp_path / "log/tiny.Best.metrics.csv")) == 2
    script.main([*evaluate, "--overwrite"])


def test_evaluation_uses_the_data_of_the_run(small_jets, tmp_path, capsys):
    """Without --datadir, an evaluation takes the events of the run, not the default; with it, those and no other file.

    If they have gone, the error says so."""
    data = tmp_path / "jets"
    data.mkdir()
    for split in ("train", "valid", "test"):
        (data / f"{split}.h5").write_bytes((small_jets / f"{split}.h5").read_bytes())
    script.main(command(data, tmp_path, "--no-plot", "--num-epoch", "1", "--testfile", str(data / "valid.h5")))
    again = ["--eval", "--cpu", "--prefix", "tiny", "--workdir", str(tmp_path), "--overwrite"]
    script.main(again)
    script.main([*again, "--datadir", str(small_jets)])
    found = [row["evaluated"] for row in table(tmp_path / "log/tiny.Best.metrics.csv")]
    assert found == [str(data / "valid.h5")] * 2 + [str(small_jets)]
    (data / "valid.h5").unlink()
    assert "--testfile: the run was started with" in refused_by(script.main, again, capsys)


def test_evaluation_of_clouds_replaces_nothing(small_clouds, pretrained, tmp_path):
    """A relative of it: confusion matrices and pictures of events."""
    flags = f"--pretrained {pretrained} --datadir {small_clouds} --workdir {tmp_path} --num-epoch 1".split()
    train_segmentation.main([*TINY_CLOUDS, *flags])
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in (".csv", ".log")}
    train_segmentation.main(existing_run(small_clouds, tmp_path, "--eval"))
    assert before.items() < {p: p.read_bytes() for p in tmp_path.rglob("*") if p in before or p.is_file()}.items()
    assert list((tmp_path / "log/tiny").glob(f"eval.{small_clouds.name}.event*.png"))


@pytest.mark.parametrize(
    "sources, name",
    [
        (["data/run12"], "run12"),
        (["data/run12/"], "run12"),
        (["data/run12/test.h5"], "run12"),
        (["w_test.h5"], "w_test"),
        (["a.b.h5", "c.h5"], "a.b-and-1-more"),
        (["set.v2"], "set.v2"),
        ([], ""),
    ],
)
def test_name_of_events(sources, name):
    """What an evaluation is called after."""
    assert name_of_events(sources) == name


# -- the table of steps ----------------------------------------------------------------------------------------------


def test_table_of_steps(small_jets, tmp_path, monkeypatch):
    """A row per step; after a stop and a resumption the same rows as without, apart from the speed.

    Rows after the checkpoint, which a killed run leaves, are cut back; a torn last line too."""
    script.main(command(small_jets, tmp_path / "whole", "--no-plot", "--save-every", "2"))
    cut = command(small_jets, tmp_path / "cut", "--no-plot", "--save-every", "2")
    with pytest.MonkeyPatch.context() as patch:
        stop_in_training_step(patch, JetClassification, 4, script.main, cut)
    path = tmp_path / "cut/log/tiny.batches.csv"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(rows) + rows[-1].replace("1,4,4,", "1,5,5,") + "2,1,6,2")
    script.main([*cut, "--load"])
    whole, resumed = table(tmp_path / "whole/log/tiny.batches.csv"), table(path)
    assert [row["step"] for row in whole] == [str(k) for k in range(1, 11)] and len(whole[0]) == 9
    for row in (*whole, *resumed):
        assert float(row.pop("events_per_second")) > 0
    assert whole == resumed
    assert whole[0]["events"] == "20" and 0 <= float(whole[0]["accuracy"]) <= 1 and float(whole[0]["gradient_norm"]) > 0
    assert same(weights(tmp_path / "whole/model/tiny.pt"), weights(tmp_path / "cut/model/tiny.pt"))


# -- file systems ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["fsync", "chmod"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EPERM])
def test_calls_that_a_file_system_does_not_offer(tmp_path, monkeypatch, call, number):
    """Stand-in (patched calls) for FAT, CIFS and FUSE: the file is written, and one warning says what is missing."""

    def refuse(*args):
        raise OSError(number, os.strerror(number))

    lines = []
    monkeypatch.setattr(os, call, refuse)
    monkeypatch.setattr(files.log, "warning", lines.append)
    monkeypatch.setattr(files, "_said", set())
    for _ in range(2):
        with whole_file(tmp_path / "x.txt") as temporary:
            temporary.write_text("whole")
    assert (tmp_path / "x.txt").read_text() == "whole" and len(lines) == 1 and str(tmp_path) in lines[0]


def test_failing_disk_is_not_ignored(tmp_path, monkeypatch):
    """An input/output error of fsync means lost data. Breaks if all errors of the call are taken for a missing call."""

    def fail(*args):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"), whole_file(tmp_path / "x.txt") as temporary:
        temporary.write_text("whole")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_tables_without_locks(tmp_path, monkeypatch, number):
    """Stand-in (a patched call) for network disks without flock: rows of parallel processes are all there."""

    def refuse(*args):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    code = (
        "import errno, fcntl, sys, os\n"
        "def refuse(*a): raise OSError(errno.ENOLCK, 'no locks')\n"
        "fcntl.flock = refuse\n"
        "from puffin.files import append_row\n"
        "[append_row(sys.argv[1], {'process': os.getpid(), 'k': k}) for k in range(20)]\n"
    )
    argv = [sys.executable, "-c", code, str(tmp_path / "t.csv")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    writers = [subprocess.Popen(argv, env=environment) for _ in range(3)]
    assert [writer.wait(PATIENCE) for writer in writers] == [0, 0, 0]
    append_row(tmp_path / "t.csv", {"process": 0, "k": 0})
    assert len(read_records(tmp_path / "t.csv")) == 61 and not list(tmp_path.glob("*locked"))


def test_lock_of_a_table_left_by_a_killed_process(tmp_path, monkeypatch):
    """Without flock, the stand-in lock of a killed process is removed. Breaks if the next one waits for ever."""
    monkeypatch.setattr(fcntl, "flock", lambda *a: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    left = tmp_path / ".t.csv.locked"
    left.touch()
    os.utime(left, (0, 0))
    append_row(tmp_path / "t.csv", {"k": 1})
    assert len(read_records(tmp_path / "t.csv")) == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError("Can't write data (file write failed: errno = 28, error message = 'No space left on device')"),
    ],
)
def test_full_disk(tmp_path, error):
    """All of them become one error that names the disk; the file that was there stays. The last one is of HDF5."""
    (tmp_path / "x.pt").write_text("before")
    with pytest.raises(DiskFull, match=f"cannot write to the disk of {tmp_path}.*1.2 MB are needed"):
        with whole_file(tmp_path / "x.pt", 1_200_000):
            raise error
    assert (tmp_path / "x.pt").read_text() == "before" and os.listdir(tmp_path) == ["x.pt"]


@needs_mounts
def test_full_disk_in_mid_training(small_jets, tmp_path):
    """A real disk that fills up: the last checkpoint is intact, the message says how much was needed, and the run
    resumes when there is space again."""
    whole = command(small_jets, tmp_path / "whole", "--no-plot", "--num-epoch", "6")
    script.main(whole)
    size = (tmp_path / "whole/model/tiny.pt").stat().st_size
    model, kept = tmp_path / "model", tmp_path / "kept"
    model.mkdir(), kept.mkdir()
    flags = command(small_jets, tmp_path, "--no-plot", "--num-epoch", "6")
    code = (
        "import sys; sys.path[:0] = ['.', 'src']\n"
        "from puffin.training.trainer import Trainer\n"
        "close = Trainer._close_row\n"
        "def fill(self, epoch, valid):\n"
        f"    if epoch == 3: open('{model}/other', 'wb').write(b'x' * 10**7) if False else _fill('{model}/other')\n"
        "    close(self, epoch, valid)\n"
        "def _fill(path):\n"
        "    with open(path, 'wb', buffering=0) as file:\n"
        "        try:\n"
        "            while True: file.write(b'x' * 4096)\n"
        "        except OSError: pass\n"
        "Trainer._close_row = fill\n"
        "import train_pelican_classifier as script\n"
        "from puffin.runs.entry import run_script\n"
        "run_script(script.main, sys.argv[1:])\n"
    )
    (tmp_path / "run.py").write_text(code)
    space = f"mount -t tmpfs -o size={8 * size} none {model}"
    shell = f'{space} && {{ "$0" "$@"; code=$?; cp {model}/*.pt {kept}; exit $code; }}'
    argv = ["unshare", "-rm", "sh", "-c", shell, sys.executable, str(tmp_path / "run.py"), *flags]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and "it is full" in last and "are needed" in last and f"{model}" in last
    for path in kept.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    script.main([*flags, "--load"])
    assert same(weights(tmp_path / "whole/model/tiny.pt"), weights(tmp_path / "model/tiny.pt"))


@needs_mounts
def test_hdf5_on_a_full_disk(tmp_path):
    """A relative: every HDF5 file that we write. A real disk of 16 kB: an error, and the process goes on and ends.

    Breaks if HDF5 writes to the disk itself: it crashes the process at its end."""
    code = (
        "import sys, numpy as np\n"
        "from puffin.data.hdf5_output import whole_hdf5\n"
        "from puffin.errors import DiskFull\n"
        "try:\n"
        "    with whole_hdf5(sys.argv[1]) as file:\n"
        "        for k in range(20):\n"
        "            file.create_dataset(str(k), data=np.random.rand(4096), compression='gzip')\n"
        "except DiskFull as error:\n"
        "    print(error)\n"
    )
    mounts = [f"mount -t tmpfs -o size=16k none {tmp_path}"]
    done = run_mounted(mounts, ["-c", code, str(tmp_path / "x.h5")])
    assert done.returncode == 0 and "it is full" in done.stdout, done.stderr


def test_folder_in_place_of_any_file(tmp_path):
    """A relative: every file that is written whole."""
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(InputError, match="found a folder"), whole_file(tmp_path / "x.csv"):
        pass
