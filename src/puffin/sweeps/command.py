"""The command of a sweep: copy a study, start workers, or be one; then report."""

import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
import torch

from puffin.errors import InputError, Interrupted, plural
from puffin.runs.places import check_places
from puffin.sweeps.plan import Plan, make_plan
from puffin.sweeps.report import Report
from puffin.sweeps.space import Space, read_space
from puffin.sweeps.storage import check_url, copy_study, describe, open_storage
from puffin.sweeps.study import PRUNERS, SAMPLERS, open_study
from puffin.sweeps.trial import TrialRunner
from puffin.sweeps.worker import Worker
from puffin.training import distributed
from puffin.training.logs import start_logging

log = logging.getLogger("puffin")


def run_sweep(program: str, description: str, argv: Sequence[str] | None) -> None:
    """Do what the flags ask for. program: file of the script, which is started again for each worker."""
    argv = list(sys.argv[1:] if argv is None else argv)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    if distributed.num_ranks() > 1:
        raise InputError(
            "torchrun: the workers of a sweep have one process each; start several with -j, or see slurm/sweep.sbatch"
        )
    plan = make_plan(argv, description)
    # before a study is created
    check_places([plan.log] if "://" in plan.storage else [plan.log, Path(plan.storage)])
    start_logging(plan.flags["log_level"], plan.log, append=True)
    own = plan.own
    if own.copy_to or own.copy_from:
        copy(plan)
        return
    study, runner, num_trials = open_sweep(plan)
    try:
        if own.jobs > 1:
            start_workers(plan, [sys.executable, program, *argv])
        else:
            Worker(study, runner, num_trials, own.timeout, own.heartbeat).work()
    except (Interrupted, KeyboardInterrupt) as stop:
        number = stop.signum if isinstance(stop, Interrupted) else signal.SIGINT
        log.warning("stopped; the study keeps the trial that was running: the same command resumes it")
        sys.exit(128 + number)
    if own.report:
        report(plan, study)


def copy(plan: Plan) -> None:
    """Copy the study to or from another storage."""
    own = plan.own
    other = check_url(own.copy_to or own.copy_from, "--copy-to" if own.copy_to else "--copy-from")
    source, target = (plan.storage, other) if own.copy_to else (other, plan.storage)
    number = copy_study(own.study_name, source, target)
    log.info(
        f"study '{own.study_name}': {plural(number, 'trial')} copied from {describe(source)} to {describe(target)}"
    )


def open_sweep(plan: Plan) -> tuple[optuna.Study, TrialRunner, int]:
    """Open the study, or create it; return it with what runs its trials, and their number."""
    own = plan.own
    space = read_space(plan.space, plan.script.make_parser, dict.fromkeys(plan.flags.typed), dict(plan.flags.values))
    num_trials = min(own.num_trials, space.grid_size()) if own.sampler == "grid" else own.num_trials

    def reopen_log() -> None:
        start_logging(plan.flags["log_level"], plan.log, append=True)

    runner = TrialRunner(plan, space, reopen_log)
    storage = open_storage(plan.storage, own.patience)
    agreed = {"task": own.task, "metrics": list(plan.metrics)}
    pruner = PRUNERS[plan.pruner](runner.num_rows())
    study = open_study(own.study_name, storage, list(plan.directions), pruner, agreed)
    compare_with_earlier_trials(plan, study)
    study.sampler = make_sampler(plan, space, num_trials, len(study.trials))
    objectives = ", ".join(f"{d} {m}" for d, m in zip(plan.directions, plan.metrics, strict=True))
    log.info(
        f"study '{own.study_name}' in {describe(plan.storage)}: {own.task}, {objectives}; "
        f"varied: {', '.join(p.name for p in space.parameters)}; {own.sampler}, pruner {plan.pruner}, "
        f"{plural(num_trials, 'trial')}"
    )
    return study, runner, num_trials


def make_sampler(plan: Plan, space: Space, num_trials: int, earlier: int) -> optuna.samplers.BaseSampler:
    """Return the sampler; earlier: trials of the study, whose proposals one that begins later must not repeat."""
    own = plan.own
    seed = None if own.sampler_seed is None else own.sampler_seed + earlier
    return SAMPLERS[own.sampler](space, num_trials, seed)


def compare_with_earlier_trials(plan: Plan, study: optuna.Study) -> None:
    """Raise InputError if a new study would replace the runs of another; warn if its trials had other flags."""
    trials = study.get_trials(deepcopy=False)
    runs = plan.paths(0).of_earlier_run()
    name = plan.own.study_name
    if not trials and runs:
        raise InputError(
            f"study '{name}' is new in {describe(plan.storage)}, but runs of a study with this name exist ({runs[0]}); "
            "continue that study with its --storage, copy it with --copy-from, or choose another --study-name"
        )
    now = plan.compared_settings
    earlier = next((t.user_attrs["settings"] for t in reversed(trials) if "settings" in t.user_attrs), now)
    differing = [n for n in sorted({*earlier, *now}) if earlier.get(n) != now.get(n)]
    if differing:
        shown = "; ".join(
            ", ".join(f"{n}={s[n]}" if n in s else f"{n} not given" for n in differing) for s in (earlier, now)
        )
        log.warning(
            f"flags differ from those of earlier trials, with which the new ones are compared nevertheless "
            f"(then; now): {shown}"
        )


def start_workers(plan: Plan, command: list[str]) -> None:
    """Run --jobs workers, which share CPU cores and GPUs, and wait for them; signals are passed on to them once."""
    jobs, gpus = plan.own.jobs, torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus)))).split(",")
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs)), **os.environ, "TQDM_DISABLE": "1"}
    workers: list[subprocess.Popen] = []
    stopped: list[int] = []

    def pass_on(number, frame) -> None:
        stopped.append(number)
        for worker in workers:
            worker.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    for k in range(jobs):
        seed = [] if plan.own.sampler_seed is None else [f"--sampler-seed={plan.own.sampler_seed + 10_007 * k}"]
        gpu = {"CUDA_VISIBLE_DEVICES": visible[k % gpus]} if gpus else {}
        line = [*command, "--jobs=1", "--no-report", "--no-optuna-test", *seed]
        workers.append(subprocess.Popen(line, env=environment | gpu, start_new_session=True))
    codes = [worker.wait() for worker in workers]
    if stopped:
        raise Interrupted(stopped[0], None)
    for worker, code in zip(workers, codes, strict=True):
        if code:
            log.error(f"worker {worker.pid} ended with {f'signal {-code}' if code < 0 else f'status {code}'}")
    if all(codes):
        raise InputError(f"all {jobs} workers failed; their messages are above, and in {plan.log}")


def report(plan: Plan, study: optuna.Study) -> None:
    """Write table, best flags and pictures; with --optuna-test evaluate the best trial on the test set."""
    formats = plan.flags["plot_format"]
    best = Report(study, list(plan.metrics), plan.file.name, plan.task.schema, plan.logdir, formats).write()
    if best is None or not plan.own.optuna_test:
        return
    checkpoint = plan.paths(best.number).best
    if not checkpoint.exists():
        raise InputError(f"--optuna-test: {checkpoint} is not on this machine; run there, or without --no-save")
    # an evaluation takes the network of the checkpoint, wherever the training started
    unused = [
        f"--{n}=" if isinstance(plan.flags.values[n], str) else f"--no-{n}"
        for n in ("pretrained", "scratch")
        if n in plan.flags.values
    ]
    prefix = f"--prefix={plan.own.study_name}-best"
    plan.script.main([*best.user_attrs["flags"], *unused, "--eval", f"--loadfile={checkpoint}", prefix])
    start_logging(plan.flags["log_level"], plan.log, append=True)
