"""Settings of optuna_search.py, and what it can search."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from puffin.settings.clouds import PointSegmentationSettings, PretrainingSettings
from puffin.settings.declare import setting
from puffin.settings.flags import Parser, make_parser
from puffin.settings.jets import ClassifierSettings, RegressorSettings
from puffin.settings.names import (
    CLASSIFICATION_METRICS,
    MASKED_MODELLING_METRICS,
    REGRESSION_METRICS,
    SEGMENTATION_METRICS,
)
from puffin.settings.types import any_integer, file_name, integer, number

SAMPLERS = ("tpe", "random", "gp", "cmaes", "nsga2", "grid")
PRUNERS = ("median", "hyperband", "asha", "none")


@dataclass(frozen=True)
class SweepTask:
    """A training that can be swept.

    script: module of the training script; schema: its settings; directions: metrics by which an epoch can be chosen,
    +1 if higher is better, -1 if lower; metric: the one to optimise by default; defaults: values of settings in every
    trial, unless the command line or a preset sets them."""

    script: str
    schema: Any
    directions: dict[str, int]
    metric: str
    defaults: dict[str, Any] = field(default_factory=dict)


TASKS = {
    "classifier": SweepTask("train_pelican_classifier", ClassifierSettings, CLASSIFICATION_METRICS, "AUC"),
    "cov": SweepTask("train_pelican_cov", RegressorSettings, REGRESSION_METRICS, "loss"),
    # trials with different mask ratios or tokens solve different tasks, so their losses are not comparable; the probe
    # is, so every validation makes one
    "pointmae": SweepTask(
        "train_pointmae", PretrainingSettings, MASKED_MODELLING_METRICS, "probe_f1_mean", {"probe_every": 1}
    ),
    "segmentation": SweepTask("train_segmentation", PointSegmentationSettings, SEGMENTATION_METRICS, "f1_macro"),
}


@dataclass(frozen=True)
class SweepSettings:
    """The search itself; all other flags are those of the training script, and hold for every trial."""

    TITLE: ClassVar[str] = "sweep"
    TITLES: ClassVar[dict[str, str]] = dict.fromkeys(("jobs", "heartbeat", "patience"), "workers") | dict.fromkeys(
        ("storage", "host", "port", "user", "database", "copy_to", "copy_from"), "storage"
    )

    task: str = setting("", "what to train (required)", choices=tuple(TASKS), shown="none")
    study_name: str = setting(
        "sweep",
        "name of the study; its trials are runs with the prefix S-NUMBER; a study that exists is continued",
        type=file_name,
        metavar="S",
    )
    num_trials: int = setting(
        20, "number of trials of the study, of all workers together", type=integer(0), metavar="N"
    )
    timeout: float | None = setting(
        None, "start no trial after this time [s]", type=number(minimum=0), metavar="SECONDS", shown="no limit"
    )
    space: str = setting("", "search space", metavar="FILE", shown="config/search/TASK.yaml")
    metric: tuple[str, ...] = setting(
        (),
        "validation metrics to optimise; with several, the best trials are those that no other beats in all of them",
        many="+",
        collect=tuple,
        metavar="M",
        shown=", ".join(f"{task.metric} of {name}" for name, task in TASKS.items()),
    )
    direction: tuple[str, ...] = setting(
        (),
        "direction of each metric that is not in the list of --best-by",
        many="+",
        collect=tuple,
        choices=("minimize", "maximize"),
        shown="as known",
    )
    seeds: int = setting(
        1,
        "number of trainings per trial, with --seed and the seeds that follow it; the value of a trial is their mean",
        type=integer(1),
        metavar="N",
    )
    sampler: str = setting("tpe", "how the flags of a trial are proposed", type=str.lower, choices=SAMPLERS)
    sampler_seed: int | None = setting(
        None,
        "seed of the proposals; makes those of a single worker repeatable",
        type=any_integer,
        metavar="N",
        shown="a new one",
    )
    pruner: str | None = setting(
        None,
        "when bad trials are stopped early",
        type=str.lower,
        choices=PRUNERS,
        shown="median, or none for several metrics",
    )
    optuna_test: bool = setting(False, "at the end evaluate the best trial on the test set, as the run S-best")
    report: bool = setting(True, "write the table, the best flags and the pictures at the end")
    jobs: int = setting(1, "number of workers on this machine", type=integer(1), flags=("-j",), metavar="N")
    heartbeat: float = setting(
        30,
        "time between the signs of life of a worker [s]; the trial of one that misses four is queued again",
        type=number(above=0),
        metavar="SECONDS",
    )
    patience: float = setting(
        600,
        "how long to wait for a database that does not answer [s]",
        type=number(minimum=0),
        metavar="SECONDS",
    )
    storage: str = setting(
        "local",
        "where the study is stored: FILE.journal, FILE.db, postgresql://USER@HOST:PORT/DATABASE, or local for "
        "LOGDIR/S.journal; passwords only from PGPASSWORD, a pgpass file or a service file (docs/README.md)",
    )
    host: str | None = setting(None, "PostgreSQL server, instead of --storage", shown="none")
    port: int | None = setting(None, "port of --host", type=integer(1, 65535), metavar="N", shown="that of libpq")
    user: str | None = setting(None, "user on --host", shown="that of libpq")
    database: str = setting("puffin", "database on --host")
    copy_to: str = setting("", "only copy the study to this storage", metavar="STORAGE")
    copy_from: str = setting("", "only copy the study from this storage", metavar="STORAGE")


def sweep_parser(description: str) -> Parser:
    """Return the parser of the search's own flags."""
    epilog = (
        "Every flag of the training script can be given too (python3 train_....py --help) and holds for all trials."
    )
    parser = make_parser(SweepSettings, description, epilog, is_sweep=True)
    parser.allow_abbrev = False  # what it does not know belongs to the training script
    return parser
