"""Settings of every training script: the run, its files, the device, reports, optimisation."""

from dataclasses import dataclass
from typing import ClassVar

from puffin.settings import roles
from puffin.settings.declare import setting
from puffin.settings.roles import Role
from puffin.settings.types import any_integer, count_or_all, file_name, integer, number

FOLDERS = ("workdir", "logdir", "modeldir", "predictdir")  # of a run
SPLITS = ("train", "valid", "test")
DEVICES = ("auto", "cpu", "cuda", "mps")
LOG_LEVELS = ("debug", "info", "warning", "error")
TRACKERS = ("tensorboard", "wandb", "mlflow")
PREDICTION_FORMATS = ("pt", "h5")
PLOT_FORMATS = ("png", "pdf", "svg")
OPTIMIZERS = ("adamw", "adam", "amsgrad", "nadam", "radam", "adamax", "adagrad", "rmsprop", "sgd")
DECAYS = ("cos", "warm", "exp", "flat", "one")


@dataclass(frozen=True)
class RunSettings:
    """What to do, under which name, from which checkpoint, and in which folders."""

    TITLE: ClassVar[str] = "run"

    task: str = setting(
        "train",
        "train a network, or only evaluate a checkpoint",
        choices=("train", "eval"),
        shortcuts={"--eval": "eval"},
        role=roles.COMMAND,
    )
    prefix: str = setting(
        "run", "name of the run and of all its files", type=file_name, flags=("--jobname",), role=roles.NAME
    )
    yaml: tuple[str, ...] = setting(
        (),
        "presets: YAML files that set defaults; the command line wins",
        many="+",
        extend=True,
        collect=tuple,
        metavar="FILE",
        role=roles.PRESETS,
    )
    load: bool = setting(False, "resume the run of this prefix from its last checkpoint", role=roles.COMMAND)
    loadfile: str = setting(
        "",
        "checkpoint to evaluate (with --eval), to resume (with --load), or to fine-tune from: a path, or a name of "
        "weights/README.md",
        metavar="FILE",
        role=roles.START,
    )
    save: bool = setting(True, "write checkpoints", role=roles.MOMENT)
    save_every: int = setting(
        0, "also write a checkpoint every N steps (0: only after each validation)", type=integer(0), metavar="N"
    )
    predict: tuple[str, ...] = setting(
        ("test",),
        "splits whose predictions are saved at the end; without a value all three",
        choices=SPLITS,
        many="*",
        bare=SPLITS,
        collect=tuple,
        shortcuts={"--no-predict": ()},
    )
    dry_run: bool = setting(
        False,
        "only print the settings, the events found, the number of parameters, and the time and memory to expect from a "
        "few steps; write nothing",
        role=roles.COMMAND,
    )
    overwrite: bool = setting(False, "with --eval: replace the outputs of an earlier evaluation", role=roles.MOMENT)
    predict_format: str = setting("pt", "file format of the predictions", choices=PREDICTION_FORMATS)
    test: bool = setting(
        False,
        "only report the symmetries (permutation, batch, Lorentz) of the network of --loadfile, else of "
        "PREFIX_best.pt, else of a new one",
        role=roles.COMMAND._replace(preset="always"),
    )
    workdir: str = setting("./", "folder that contains the next three", metavar="DIR", role=roles.MACHINE)
    logdir: str = setting("log/", "folder of logs and metrics", metavar="DIR", role=roles.MACHINE)
    modeldir: str = setting("model/", "folder of checkpoints", metavar="DIR", role=roles.MACHINE)
    predictdir: str = setting("predict/", "folder of predictions", metavar="DIR", role=roles.MACHINE)
    seed: int = setting(
        1,
        "seed of the weights, the order of events and dropout; negative: draw one and log it",
        type=any_integer,
        metavar="N",
        role=roles.ORIGIN,
    )
    reproducible: bool = setting(False, "use deterministic algorithms on a GPU too (slower)")


@dataclass(frozen=True)
class MachineSettings:
    """Where to compute, and in which precision."""

    TITLE: ClassVar[str] = "device"

    device: str = setting(
        "auto",
        "where to compute; auto: a CUDA GPU if there is one, else the CPU",
        choices=DEVICES,
        shortcuts={"--cpu": "cpu", "--cuda": "cuda", "--gpu": "cuda", "--mps": "mps", "--m1": "mps"},
        role=roles.MACHINE,
    )
    dtype: str = setting(
        "float",
        "precision of weights and features",
        choices=("float", "double"),
        shortcuts={"--float": "float", "--double": "double"},
    )
    amp: str = setting("off", "compute matrix products in bfloat16", choices=("off", "bf16"))
    compile: bool = setting(False, "compile the network with torch.compile")
    distribute_eval: bool = setting(
        True, "with torchrun: share evaluations among all processes (off: process 0 evaluates alone)", role=roles.MOMENT
    )
    threads: int = setting(
        0, "CPU threads (0: as many as PyTorch chooses)", type=integer(0), metavar="N", role=roles.MACHINE
    )


@dataclass(frozen=True)
class ReportSettings:
    """What a run logs, tabulates and draws."""

    TITLE: ClassVar[str] = "reports"

    log_level: str = setting(
        "info",
        "lowest level of messages to show; debug also shows tracebacks",
        choices=LOG_LEVELS,
        role=roles.MACHINE,
    )
    verbose: bool = setting(False, "log a line every --log-every steps", flags=("-v",))
    log_every: int = setting(10, "number of steps between the lines of --verbose", type=integer(1), metavar="N")
    tracker: tuple[str, ...] = setting(
        (),
        "send metrics, settings and pictures of a training to these experiment trackers",
        choices=TRACKERS,
        many="+",
        collect=tuple,
    )
    track_checkpoints: bool = setting(False, "also send the last and the best checkpoint to the trackers at the end")
    summarize: bool = setting(False, "write TensorBoard files to LOGDIR/PREFIX/, like --tracker tensorboard")
    summarize_csv: str = setting(
        "test",
        "test: one row of test metrics per run; all: also one row per epoch in LOGDIR/PREFIX.epochs.csv, and one per "
        "step in LOGDIR/PREFIX.batches.csv",
        choices=("test", "all", "none"),
        flags=("--summarize-scv",),
    )
    plot: bool = setting(True, "draw curves to LOGDIR/PREFIX.png at the end")
    plot_format: tuple[str, ...] = setting(
        ("png",),
        "formats of the pictures of a run; pdf and svg are written beside png",
        choices=PLOT_FORMATS,
        many="+",
        collect=tuple,
    )

    @property
    def pictures(self) -> tuple[str, ...]:
        """The formats of pictures, PNG first; none with --no-plot."""
        return tuple(dict.fromkeys(("png", *self.plot_format))) if self.plot else ()


@dataclass(frozen=True)
class DataSettings:
    """Which events to read, and how to serve them."""

    TITLE: ClassVar[str] = "data"

    datadir: str = setting(
        "./data/", "folder with HDF5 files for training, validation and test", metavar="DIR", role=roles.EVENTS
    )
    shuffle: bool = setting(True, "draw a new order of the training events in every epoch", role=roles.ORIGIN)
    num_train: int = setting(
        -1,
        "number of training events to use: a random subset that depends on --seed alone (of two classes: half each)",
        type=count_or_all,
        metavar="N",
        shown="-1: all",
        role=roles.ORIGIN,
    )
    num_valid: int = setting(-1, "number of validation events to use", type=count_or_all, metavar="N", shown="-1: all")
    num_test: int = setting(-1, "number of test events to use", type=count_or_all, metavar="N", shown="-1: all")
    num_workers: int = setting(
        0, "number of processes that prepare minibatches", type=integer(0), metavar="N", role=roles.MACHINE
    )


@dataclass(frozen=True)
class OptimisationSettings:
    """Length of the training, optimizer, learning rate, regularisation."""

    TITLE: ClassVar[str] = "training"

    num_epoch: int = setting(35, "number of epochs", type=integer(1), metavar="N")
    num_step: int = setting(0, "number of steps, instead of epochs (0: use --num-epoch)", type=integer(0), metavar="N")
    batch_size: int = setting(
        64,
        "events per minibatch of each process; with torchrun a step takes N times the number of processes",
        type=integer(1),
        flags=("-bs",),
        metavar="N",
        role=roles.ORIGIN,
    )
    accumulate: int = setting(
        1, "number of minibatches per step, of each process", type=integer(1), metavar="N", role=roles.ORIGIN
    )
    optim: str = setting("adamw", "optimizer", type=str.lower, choices=OPTIMIZERS, role=roles.ORIGIN)
    weight_decay: float = setting(0.005, "weight decay", type=number(minimum=0), metavar="W")
    lr_init: float = setting(0.0025, "learning rate after the warm-up", type=number(above=0), metavar="LR")
    lr_start: float = setting(0.0, "learning rate at which the warm-up starts", type=number(minimum=0), metavar="LR")
    lr_final: float = setting(1e-6, "learning rate at the end", type=number(above=0), metavar="LR")
    lr_scale: str = setting(
        "none",
        "sqrt: multiply the three learning rates by the square root of (events per step / 128)",
        choices=("none", "sqrt"),
    )
    lr_decay_type: str = setting(
        "warm",
        "decay between warm-up and cool-down: cos (one cosine), warm (cosines with restarts), exp, "
        "flat, one (one-cycle)",
        choices=DECAYS,
    )
    warmup: float = setting(
        4, "length of the linear warm-up from --lr-start [epochs]", type=number(minimum=0), metavar="EPOCHS"
    )
    warmup_steps: int = setting(
        0, "length of the warm-up in steps, instead of epochs (0: use --warmup)", type=integer(0), metavar="N"
    )
    cooldown: float = setting(
        3, "length of the exponential decay to --lr-final at the end [epochs]", type=number(minimum=0), metavar="EPOCHS"
    )
    clip: float = setting(0.0, "clip the gradient norm at this value (0: off)", type=number(minimum=0), metavar="NORM")
    ema: float = setting(
        0.0,
        "decay of an exponential moving average of the weights, which is then evaluated (0: off; try 0.999)",
        type=number(minimum=0, below=1),
        metavar="DECAY",
    )
    valid_every: int = setting(0, "validate every N steps (0: after each epoch)", type=integer(0), metavar="N")


@dataclass(frozen=True)
class ScriptSettings:
    """The settings that every training script has.

    HIDDEN: settings of these groups that the script does not use, with the reason: they are not in --help, old presets
    may hold their default, and any other value is refused with the reason.  ROLES: roles that differ in this script."""

    HIDDEN: ClassVar[dict[str, str]] = {}
    ROLES: ClassVar[dict[str, Role]] = {}

    run: RunSettings = RunSettings()
    machine: MachineSettings = MachineSettings()
    reports: ReportSettings = ReportSettings()
    optimisation: OptimisationSettings = OptimisationSettings()
