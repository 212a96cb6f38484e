"""One run of a script: where its files lie, its device, training, evaluation, outputs."""

import argparse
import contextlib
import glob
import logging
import math
import os
import random
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from puffin.checkpoints.reading import read_checkpoint
from puffin.checkpoints.writing import git_commit, load_checkpoint
from puffin.data.loader import make_loader
from puffin.data.sampler import EpochBatches
from puffin.errors import InputError
from puffin.files import append_row, whole_file
from puffin.ops import library
from puffin.training import distributed
from puffin.training.logs import start_logging
from puffin.training.memory import keep_freed_memory
from puffin.training.optimizers import make_optimizer
from puffin.training.schedules import WARM_FIRST_PERIOD, Schedule
from puffin.training.trainer import Interrupted, NonFiniteError, Trainer, TrainerOptions

log = logging.getLogger("puffin")

LR_EVENTS = 128  # events of a global batch that learning rates under --lr-scale are meant for


@dataclass(frozen=True)
class RunPaths:
    """The files of a run, from its prefix and folders."""

    prefix: str
    logdir: Path
    modeldir: Path
    predictdir: Path

    @classmethod
    def of(cls, args: argparse.Namespace) -> "RunPaths":
        """Paths that the flags ask for."""
        check_plain_name(args.prefix, "--prefix")
        work = Path(args.workdir)
        return cls(args.prefix, work / args.logdir, work / args.modeldir, work / args.predictdir)

    @property
    def log(self) -> Path:
        return self.logdir / f"{self.prefix}.log"

    @property
    def settings(self) -> Path:
        return self.logdir / f"{self.prefix}.yaml"

    @property
    def epochs(self) -> Path:
        return self.logdir / f"{self.prefix}.epochs.csv"

    @property
    def picture(self) -> Path:
        return self.logdir / f"{self.prefix}.png"

    @property
    def checkpoint(self) -> Path:
        return self.modeldir / f"{self.prefix}.pt"

    @property
    def best(self) -> Path:
        return self.modeldir / f"{self.prefix}_best.pt"

    def table(self, kind: str) -> Path:
        """CSV of all runs whose prefix starts alike; kind: Best or Final."""
        return self.logdir / f"{self.prefix.split('-')[0]}.{kind}.metrics.csv"

    def predictions(self, kind: str, split: str) -> Path:
        """Stem of the prediction files."""
        return self.predictdir / f"{self.prefix}.{kind}.{split}"

    def pictures_of_events(self) -> list[Path]:
        """What src/cli/clouds.py has drawn; other files of the folder, such as TensorBoard's, are not among them."""
        folder = self.logdir / self.prefix
        ours = re.compile(r"(step\d+|end)\.event\d+\.(\w+\.png|html)")
        return sorted(path for path in folder.glob("*.event*") if ours.fullmatch(path.name))

    def of_earlier_run(self) -> list[Path]:
        """Files that a new run of the same prefix replaces."""
        fixed = [
            self.log,
            self.settings,
            self.epochs,
            self.picture,
            self.checkpoint,
            self.best,
            *self.pictures_of_events(),
        ]
        mine = glob.escape(self.prefix)  # which may hold a * of its own
        return [p for p in fixed if p.exists()] + [
            p for kind in ("best", "final") for p in sorted(self.predictdir.glob(f"{mine}.{kind}.*"))
        ]


def run_script(main: Callable[[Sequence[str] | None], None], argv: Sequence[str] | None = None) -> None:
    """Call a script's main; failures become one readable line and a non-zero exit status.

    SIGTERM ends it as an exception does, so that no half-written file stays; training, which saves first, and sweeps have
    handlers of their own.  Under torchrun the processes are joined first; the failure of any is a line in the log of process 0."""
    before = signal.signal(signal.SIGTERM, _end)
    try:
        distributed.connect()
        main(argv)
        distributed.disconnect()
    except Interrupted as stop:
        log.warning(str(stop)) if log.handlers else print(stop, file=sys.stderr)
        with contextlib.suppress(RuntimeError):
            distributed.from_main(None)  # the others wait for process 0: torchrun ends all when one ends
        sys.exit(128 + stop.signum)
    except KeyboardInterrupt:
        sys.exit("interrupted")
    except Exception as error:  # the last place that can turn a failure into a line
        if log.isEnabledFor(logging.DEBUG):
            log.debug("traceback", exc_info=True)
        text = _one_line(error)
        if log.isEnabledFor(logging.DEBUG) and not distributed.is_main():
            text = traceback.format_exc()  # the only way to see it
        text = distributed.report_failure(text)
        if log.handlers:
            log.error(text)
        else:
            print(f"error: {text}", file=sys.stderr)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(signum: int, frame) -> None:
    signal.signal(signum, signal.SIG_IGN)  # a second one would disturb the tidying
    log.warning(f"stopped by {signal.Signals(signum).name}")
    raise SystemExit(128 + signum)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, (InputError, NonFiniteError)):
        return text
    if distributed.num_ranks() > 1 and "gloo" in text.lower():
        return f"lost another process; was it killed, or out of memory? ({text[:200]})"
    return f"{type(error).__name__}: {text[:500]} (--log-level debug shows where)"


def choose_device(name: str) -> torch.device:
    """The device asked for, a GPU of its own for each process of a machine; InputError naming --cpu if it is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        log.info(
            f"device: {name} ({'found' if name == 'cuda' else 'no CUDA device found'}; choose with --cpu, --cuda or --mps)"
        )
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[name]
    if not there:
        raise InputError(f"--{name}: no such device is available to PyTorch {torch.__version__}; use --cpu")
    if name != "cuda" or distributed.num_ranks() == 1:
        return torch.device(name)
    number = distributed.local_rank()
    if number >= torch.cuda.device_count():
        raise InputError(
            f"--nproc_per_node: expected at most one process for each of the {torch.cuda.device_count()} GPUs, got more"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


_LEAST = {
    "num_workers": 0,
    "num_epoch": 1,
    "num_step": 0,
    "warmup_steps": 0,
    "valid_every": 0,
    "accumulate": 1,
    "min_points": 0,
    "probe_every": 0,
    "plot_every": 0,
    "plot_events": 0,
    "head_depth": 0,
    "head_dim": 2,
    "lora_rank": 1,
    "lora_alpha": 0,
    "batch_size": 1,
    "save_every": 0,
    "log_every": 1,
    "threads": 0,
    "clip": 0,
    "warmup": 0,
    "cooldown": 0,
    "weight_decay": 0,
    "depth": 1,
    "decoder_depth": 0,
}
_FRACTIONS = ("drop_rate", "drop_rate_out", "ema", "attention_dropout", "drop_path", "head_dropout")
# what a continued run does not take from its checkpoint
_OF_THE_MOMENT = (
    "task",
    "prefix",
    "yaml",
    "load",
    "loadfile",
    "save",
    "workdir",
    "logdir",
    "modeldir",
    "predictdir",
    "device",
    "threads",
    "num_workers",
    "log_level",
    "test",
    "distribute_eval",
)


def check_plain_name(name: str, flag: str) -> None:
    """InputError for what cannot begin the name of a file."""
    if not name or "/" in name or name.startswith("."):
        raise InputError(f"{flag}: expected a plain file name, got {name!r}")


def check_ranges(args: argparse.Namespace) -> None:
    """InputError for numbers that make no sense."""
    for name, least in _LEAST.items():
        if not getattr(args, name, least) >= least:  # nan neither
            raise InputError(f"--{name.replace('_', '-')}: expected at least {least}, got {getattr(args, name)}")
    for name in _FRACTIONS:
        if not 0 <= getattr(args, name, 0) < 1:
            raise InputError(
                f"--{name.replace('_', '-')}: expected a number from 0 to below 1, got {getattr(args, name)}"
            )
    if not 0 < getattr(args, "mask_ratio", 0.5) < 1:
        raise InputError(f"--mask-ratio: expected a number above 0 and below 1, got {args.mask_ratio}")
    for name in ("num_train", "num_valid", "num_test"):
        if getattr(args, name, -1) == 0 or getattr(args, name, -1) < -1:
            raise InputError(
                f"--{name.replace('_', '-')}: expected a positive number, or -1 for all, got {getattr(args, name)}"
            )


class Run:
    """A run that has begun: log opened, seeds set, device chosen.

    Bad settings are found before anything of an earlier run is touched: files are replaced only by `begin`."""

    def __init__(self, args: argparse.Namespace):
        start_logging(args.log_level)
        self.args, self.paths = args, RunPaths.of(args)
        if args.seed < 0:
            args.seed = distributed.from_main(random.SystemRandom().randrange(2**31))
        check_ranges(args)
        if args.threads:
            torch.set_num_threads(args.threads)
        self.device = choose_device(args.device)
        if self.device.type == "cpu":
            keep_freed_memory()
        if self.device.type == "mps" and self.dtype == torch.float64:
            raise InputError("--double: not supported by --mps; use --float or --cpu")
        self._be_reproducible()
        torch.manual_seed(args.seed)
        self.evaluating = args.task == "eval"

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and features."""
        return torch.float64 if self.args.dtype == "double" else torch.float32

    def _be_reproducible(self) -> None:
        torch.use_deterministic_algorithms(self.args.reproducible)
        if self.args.reproducible:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def begin(self) -> None:
        """Open the log file; without --load, say which files of an earlier run go, and remove them."""
        if not distributed.is_main():
            return
        append = self.args.load or self.evaluating
        earlier = [] if append else self.paths.of_earlier_run()
        for flag in ("loadfile", "pretrained"):
            source = getattr(self.args, flag, "")
            if source and any(path.samefile(source) for path in earlier):
                raise InputError(
                    f"--{flag} {source} belongs to the run '{self.paths.prefix}' that would be replaced; choose another --prefix"
                )
        if earlier:
            log.warning(
                f"replacing {len(earlier)} files of an earlier run '{self.paths.prefix}' (continue it with --load): {', '.join(map(str, earlier))}"
            )
            for path in earlier:
                path.unlink(missing_ok=True)
        start_logging(self.args.log_level, self.paths.log, append)
        log.info(f"command: {' '.join(Path(a).name if i == 0 else a for i, a in enumerate(sys.argv))}")
        if distributed.num_ranks() > 1:
            log.info(
                f"{distributed.num_ranks()} processes with batches of {self.args.batch_size}: global batches of {distributed.num_ranks() * self.args.batch_size} events"
            )
        log.info(
            f"commit {git_commit() or 'unknown'}, PyTorch {torch.__version__}, {self.device}, {self.args.dtype}, {torch.get_num_threads()} threads, seed {self.args.seed}"
        )
        settings = yaml.safe_dump(
            {k: v for k, v in sorted(vars(self.args).items()) if k not in ("yaml", "task", "load") and v is not None},
            sort_keys=True,
            default_flow_style=None,
            width=110,
        )
        if not self.evaluating:
            with whole_file(self.paths.settings) as temporary:
                temporary.write_text(settings)
        log.info("kernels: " + ", ".join(f"{name} {state}" for name, state in library.states().items()))
        log.debug("settings:\n" + settings)

    def starting_point(self, best_if_there: bool = False) -> tuple[dict, Path] | None:
        """Content and name of the checkpoint that the flags name, else of the run's best network if wanted, or None for a new one."""
        if self.args.loadfile:
            path = Path(self.args.loadfile)
            if self.args.load and not self.evaluating and self.paths.checkpoint.exists():
                own = read_checkpoint(self.paths.checkpoint)
                if isinstance(own.get("args"), dict) and own["args"].get("loadfile") == self.args.loadfile:
                    return (
                        own,
                        self.paths.checkpoint,
                    )  # begun from there by the same command, as a job that was queued again
        elif self.args.load or self.evaluating:
            path = self.paths.best if self.evaluating and self.paths.best.exists() else self.paths.checkpoint
            if self.args.load and not self.evaluating and not path.exists():
                raise InputError(
                    f"--load: {path} does not exist; start the run without --load, or check --prefix and --modeldir"
                )
        elif best_if_there and self.paths.best.exists():
            path = self.paths.best
        else:
            return None
        return read_checkpoint(path), path

    def resume_settings(self, given: set[str], checkpoint: dict, path: Path) -> None:
        """Take from the checkpoint every setting that was not given; InputError if one that was would break the continuation."""
        stored = checkpoint.get("args")
        if not isinstance(stored, dict) or "rng" not in checkpoint:
            raise InputError(
                f"{path}: not a checkpoint of ours, so it cannot be continued; fine-tune from it without --load"
            )
        fixed = [
            "seed",
            "num_train",
            "optim",
            "RAMdataset",
            "accumulate",
            "finetune",
            "layer_decay",
            "pretrained",
            "scratch",
        ]
        if len(checkpoint["rng"]) == distributed.num_ranks():  # else the batches differ anyway
            fixed.append("batch_size")
        for name in fixed:
            if name in given and name in stored and getattr(self.args, name) != stored[name]:
                raise InputError(
                    f"--{name.replace('_', '-')} {getattr(self.args, name)}: the run was started with {'none' if stored[name] == '' else stored[name]}, and cannot be continued with another"
                )
        for name, value in stored.items():
            if name not in given and name not in _OF_THE_MOMENT and hasattr(self.args, name):
                setattr(self.args, name, value)
        for name in ("datadir", "testfile"):
            kept = getattr(self.args, name)  # one, or several
            for path in [kept] if isinstance(kept, str) else kept:
                if name not in given and not Path(path).exists():
                    raise InputError(
                        f"--{name}: the run was started with {path}, which is not there any more; say where it is now"
                    )
        self.args.loadfile = self.args.loadfile or stored.get(
            "loadfile", ""
        )  # not read again: where the weights came from
        self._be_reproducible()

    def loader(self, dataset, training: bool = False):
        """Loader and order of a split: shuffled for training, in file order for evaluation."""
        shared = training or self.args.distribute_eval
        ranks = (distributed.rank(), distributed.num_ranks()) if shared else (0, 1)
        batches = EpochBatches(
            len(dataset),
            self.args.batch_size,
            training and self.args.shuffle,
            self.args.seed,
            *ranks,
            chunk_of=dataset.chunk_of_events(),
        )
        return make_loader(dataset, batches, self.args.num_workers, self.device.type == "cuda"), batches

    def lr_factor(self) -> float:
        """What --lr-scale multiplies the learning rates with."""
        events = self.args.batch_size * self.args.accumulate * distributed.num_ranks()
        return math.sqrt(events / LR_EVENTS) if self.args.lr_scale == "sqrt" else 1.0

    def trainer(self, task, batches_per_epoch: int) -> Trainer:
        """The trainer that the flags describe."""
        args = self.args
        per_epoch = math.ceil(batches_per_epoch / args.accumulate)  # steps
        num_epoch = math.ceil(args.num_step / per_epoch) if args.num_step else args.num_epoch
        factor = self.lr_factor()
        try:
            schedule = Schedule(
                args.lr_decay_type,
                args.lr_init * factor,
                args.lr_final * factor,
                args.num_step or num_epoch * per_epoch,
                args.warmup_steps or round(args.warmup * per_epoch),
                round(args.cooldown * per_epoch),
                WARM_FIRST_PERIOD * per_epoch,
                args.lr_start * factor,
            )
            options = TrainerOptions(
                num_epoch,
                args.clip,
                "" if args.amp == "off" else args.amp,
                args.ema,
                args.save_every,
                args.log_every if args.verbose else 0,
                args.best_by,
                args.save,
                args.distribute_eval,
                args.num_step,
                args.valid_every,
                args.accumulate,
            )
            parameters = task.parameter_groups() if hasattr(task, "parameter_groups") else task.model.parameters()
            optimizer = make_optimizer(args.optim, parameters, args.lr_init * factor, args.weight_decay)
            return Trainer(
                task,
                optimizer,
                schedule,
                options,
                self.device,
                self.paths.checkpoint,
                self.paths.best,
                dict(vars(args)),
            )
        except ValueError as error:
            raise InputError(str(error)) from error


def weights_of(checkpoint: dict, path: Path) -> dict[str, torch.Tensor]:
    """The weights that a checkpoint's network is evaluated with, by name; InputError if it holds none."""
    state = checkpoint.get("model_state", checkpoint.get("state_dict"))
    if not isinstance(state, dict):
        raise InputError(
            f"{path}: holds no weights (expected a key 'model_state'; has: {', '.join(map(str, checkpoint))})"
        )
    average = checkpoint.get("average_state")
    if average is not None:  # evaluation uses averaged weights
        state = {**state, **{k.removeprefix("module."): v for k, v in average.items() if k.startswith("module.")}}
    return state


def load_weights(model: torch.nn.Module, checkpoint: dict, path: Path) -> None:
    """Put a checkpoint's weights into a model; InputError if they belong to another one."""
    state = weights_of(checkpoint, path)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise InputError(f"{path}: the weights are of another network: {first[:200]}") from error


def train_and_evaluate(
    run: Run,
    task,
    datasets: dict,
    start: tuple[dict, Path] | None,
    draw: Callable | None = None,
    report: Callable | None = None,
) -> list[dict]:
    """Train (or only evaluate) a task on the splits, and write every output of the run; returns one dict per epoch.

    draw(picture, history, outputs): makes the picture of a finished run from the epochs and the best test outputs.
    report(all epochs so far): called after each epoch, when its checkpoint is written; may end the run by an exception."""
    args, paths = run.args, run.paths
    resuming = args.load and not run.evaluating
    if start is not None and not resuming:
        load_weights(task.model, *start)
    train = datasets.get("train")
    loader, batches = run.loader(train, training=True) if train is not None and not run.evaluating else (None, None)
    trainer = run.trainer(task, batches.batches_per_epoch if batches else 1)
    if distributed.rank() > 0:  # the same weights everywhere, other dropout
        torch.manual_seed(args.seed + distributed.rank())
    if resuming:
        trainer.load_state_dict(load_checkpoint(start[1]))
        other = _other_yardstick(vars(args), start[0]["args"])
        if other or start[1] != paths.checkpoint:
            trainer.progress.best = {}  # not to be compared with; or the best of another run, which is not a file of this one
        if trainer.progress.train_events not in (0, len(train)):
            raise InputError(
                f"--load: expected the {trainer.progress.train_events} training events that the run was started with, got {len(train)}; give the "
                f"same --datadir and --num-train, or begin a new run from its weights: --loadfile {start[1]} without --load, with another --prefix"
            )
    run.begin()  # from here on files are written; every setting has been checked
    if resuming:
        p = trainer.progress
        log.info(f"continuing at epoch {p.epoch + 1}, batch {p.batch} (step {p.step}), with the data of {args.datadir}")
        if other:
            log.warning(f"{', '.join(other)}: the best epoch is chosen anew, from the next validation on")
        if len(start[0]["rng"]) != distributed.num_ranks():
            log.warning(
                f"the run was on {len(start[0]['rng'])} process(es), now on {distributed.num_ranks()}: it continues, but not to the last bit"
            )
    if args.compile:
        task.model.compile(dynamic=True)
    log.info(
        f"{type(task.model).__name__} with {sum(p.numel() for p in task.model.parameters()):,} parameters; events: "
        + ", ".join(f"{k} {len(v)}" for k, v in datasets.items())
    )

    splits = [s for s in datasets if s in args.predict or s == "test"]
    if run.evaluating:
        missing = [s for s in args.predict if s not in datasets]
        if missing:
            log.warning(f"--predict: no {' and no '.join(missing)} events here")
        for kind, path in _checkpoints_to_evaluate(run, start):
            load_weights(task.model, start[0] if path == start[1] else read_checkpoint(path), path)
            trainer.average = None
            evaluate_and_save(run, trainer, task, datasets, kind, splits)
        return []
    valid = run.loader(datasets["valid"])[0] if "valid" in datasets else None
    with _EpochReports(run, report) as reports:
        history = trainer.fit(loader, batches, valid, reports.epoch if distributed.is_main() else _no_report)
    outputs = evaluate_and_save(run, trainer, task, datasets, "final", splits)
    if distributed.from_main(args.save and paths.best.exists()):
        epoch = trainer.use_weights_of(paths.best)
        log.info(f"best epoch: {epoch}")
        outputs = evaluate_and_save(run, trainer, task, datasets, "best", splits)
    if args.plot and draw is not None and history and distributed.is_main():
        with whole_file(paths.picture) as temporary:
            draw(temporary, history, outputs.get("test"))
        log.info(f"picture: {paths.picture}")
    return history


def _other_yardstick(settings: dict, stored: dict) -> list[str]:
    """Flags by which a continued run judges its epochs otherwise than before: the metric, and what it is made of."""
    names = ["best_by", "weights_key"] + ["loss", "class_weights"] * (settings["best_by"] == "loss")
    return [
        f"--{name.replace('_', '-')} {settings[name]} instead of {stored[name]}"
        for name in names
        if name in settings and name in stored and settings[name] != stored[name]
    ]


def _no_report(history: list[dict]) -> None:
    """What process 0 reports, the others do not."""


def _checkpoints_to_evaluate(run: Run, start: tuple[dict, Path]) -> list[tuple[str, Path]]:
    if run.args.loadfile:
        return [("best", start[1])]
    named = [("final", run.paths.checkpoint), ("best", run.paths.best)]  # pictures are of the last one
    return [(kind, path) for kind, path in named if path.exists()]


def evaluate_and_save(run: Run, trainer: Trainer, task, datasets: dict, kind: str, splits: Sequence[str]) -> dict:
    """Evaluate the splits with the weights in place; write predictions, the CSV row of `test`, a line in the log.

    Returns the outputs by split (on process 0, which writes)."""
    args, paths, everything = run.args, run.paths, {}
    for split in splits:
        if split not in datasets:
            continue
        stem = paths.predictions(kind, split) if split in args.predict else None
        metrics, outputs = trainer.evaluate(run.loader(datasets[split])[0], f"{kind} {split}", stem)
        if not distributed.is_main():
            continue
        if "index" in outputs:  # counts the events in use; users have the rows of the files
            outputs["row"] = datasets[split].events[outputs["index"]]
        everything[split] = outputs
        log.info(f"{kind} {split}: " + ", ".join(f"{k} {v:.6g}" for k, v in metrics.items()))
        if split in args.predict:
            written = task.save_outputs(stem, outputs)
            log.info("predictions: " + ", ".join(map(str, written)))
        if split == "test" and args.summarize_csv != "none":
            table = paths.table(kind.capitalize())
            append_row(table, {"prefix": paths.prefix, "timestamp": time.strftime("%Y-%m-%d %H:%M:%S"), **metrics})
            log.info(f"metrics: {table}")
    return everything


class _EpochReports:
    """Per-epoch numbers to a CSV and to TensorBoard, as asked for, and to whoever called the script."""

    def __init__(self, run: Run, further: Callable | None):
        self.by_step = bool(run.args.valid_every or run.args.num_step)
        self.csv = run.paths.epochs if run.args.summarize_csv == "all" else None
        self.board, self.further = None, further
        if run.args.summarize and distributed.is_main():
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self.board = SummaryWriter(run.paths.logdir / run.paths.prefix)

    def epoch(self, history: list[dict]) -> None:
        """Called after each epoch with all rows so far; the CSV is written anew, so that a resumed run repeats no row."""
        row = history[-1]
        if self.board is not None:
            for name, value in row.items():
                if name not in ("epoch", "step"):
                    self.board.add_scalar(name, value, row["step"] if self.by_step else row["epoch"])
            self.board.flush()
        if self.csv is not None:
            with whole_file(self.csv) as temporary:
                lines = [",".join(row)] + [",".join(str(v) for v in r.values()) for r in history]
                temporary.write_text("\n".join(lines) + "\n")
        if self.further is not None:
            self.further(history)

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        if self.board is not None:
            self.board.close()
