"""Write the results of a sweep: a table of its trials, the best flags, pictures."""

import csv
import logging
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from puffin.files import whole_file
from puffin.plots.style import draw_to
from puffin.plots.sweeps import draw_history, draw_importance, draw_parallel, draw_pareto
from puffin.settings.flags import parse, settings_of

log = logging.getLogger("puffin")


@dataclass(frozen=True)
class Report:
    """The results of a study S, which are written to log/S.*.

    metrics: the metrics that the study optimizes, in its order; script: file name of the training script; schema: its
    settings; logdir: the folder log/; formats: of pictures, beside PNG."""

    study: optuna.Study
    metrics: list[str]
    script: str
    schema: Any
    logdir: Path
    formats: Sequence[str] = ()

    def path(self, ending: str) -> Path:
        """Return the file log/S.ENDING."""
        return self.logdir / f"{self.study.study_name}.{ending}"

    def write(self) -> FrozenTrial | None:
        """Write every file; return the best trial, or None if no trial is complete."""
        trials = [t for t in self.study.get_trials(deepcopy=False) if "surplus" not in t.user_attrs]
        chosen = self.chosen()
        self._table(trials, {t.number for t in chosen})
        finished = [t for t in trials if t.state == TrialState.COMPLETE]
        counts = {s: sum(t.state == s for t in trials) for s in TrialState}
        log.info(
            f"trials: {', '.join(f'{n} {s.name.lower()}' for s, n in counts.items() if n)}; table: "
            f"{self.path('trials.csv')}"
        )
        if not chosen:
            return None
        best = chosen[0]
        flags = self._best_flags(best)
        self._pictures(finished, {t.number for t in chosen})
        log.info(
            f"best trial: {best.number} "
            f"({', '.join(f'{m} {v:.6g}' for m, v in zip(self.metrics, best.values, strict=True))})"
        )
        log.info(f"its flags, for --yaml: {self.path('best.yaml')}; as a command:\n{flags}")
        return best

    def chosen(self) -> list[FrozenTrial]:
        """Return the best trials; empty if no trial is complete.

        With one metric this is the best trial, the first one if several are equal. With several metrics it is the
        Pareto front, sorted by the first metric, best first."""
        sign = -1 if self.study.directions[0] == StudyDirection.MAXIMIZE else 1
        front = sorted(self.study.best_trials, key=lambda t: (sign * t.values[0], t.number))
        return front if len(self.metrics) > 1 else front[:1]

    def _table(self, trials: list[FrozenTrial], chosen: set[int]) -> None:
        """Write log/S.trials.csv. chosen: numbers of the best trials."""
        names = sorted({name for t in trials for name in t.params} | self._differing(trials))
        repeated = {t.user_attrs.get("repeats") for t in trials}
        with (
            whole_file(self.path("trials.csv")) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            table = csv.writer(file, lineterminator="\n")
            table.writerow(
                ["trial", "state", *self.metrics, "best", "epochs", "started", "seconds", "repeats", "failure", *names]
            )
            for t in trials:
                state = "repeated" if t.number in repeated else t.state.name.lower()
                values = t.values if t.values and len(t.values) == len(self.metrics) else [""] * len(self.metrics)
                started = f"{t.datetime_start:%Y-%m-%d %H:%M:%S}" if t.datetime_start else ""
                seconds = f"{t.duration.total_seconds():.1f}" if t.duration else ""
                extra = [t.user_attrs.get(key, "") for key in ("repeats", "failure")]
                row = [
                    t.number,
                    state,
                    *values,
                    int(t.number in chosen),
                    t.user_attrs.get("epochs", ""),
                    started,
                    seconds,
                    *extra,
                ]
                settings = {name.replace("_", "-"): value for name, value in t.user_attrs.get("settings", {}).items()}
                table.writerow(row + [t.params.get(name, settings.get(name, "")) for name in names])

    @staticmethod
    def _differing(trials: list[FrozenTrial]) -> set[str]:
        """Return the names of the command-line flags that differ between trials."""
        settings = [t.user_attrs["settings"] for t in trials if "settings" in t.user_attrs]
        names = {name for s in settings for name in s}
        return {name.replace("_", "-") for name in names if any(s.get(name) != settings[0].get(name) for s in settings)}

    def _best_flags(self, best: FrozenTrial) -> str:
        """Write the settings of the best trial as a preset, with its command in the first line; return the command."""
        flags = best.user_attrs["flags"]
        command = shlex.join(["python3", self.script, *flags, "--prefix", f"{self.study.study_name}-again"])
        parsed = parse(self.schema, "", flags)
        known = settings_of(self.schema)
        settings = parsed.preset(name for name in parsed.given if known[name].role.sweep != "refused")
        with whole_file(self.path("best.yaml")) as temporary:
            preset = yaml.safe_dump(settings, default_flow_style=None, width=110)
            temporary.write_text(f"# {command}\n{preset}", encoding="utf-8")
        return command

    def _pictures(self, finished: list[FrozenTrial], chosen: set[int]) -> None:
        """Draw the complete trials. chosen: numbers of the best trials."""
        metric, values = self.metrics[0], [t.values[0] for t in finished]
        maximize = self.study.directions[0] == StudyDirection.MAXIMIZE
        names = sorted({name for t in finished for name in t.params})
        columns = {name: [t.params.get(name) for t in finished] for name in names}
        distributions = {name: d for t in finished for name, d in t.distributions.items()}
        logarithmic = {name for name, d in distributions.items() if getattr(d, "log", False)}
        pictures = {
            "history.png": lambda path: draw_history(path, [t.number for t in finished], values, metric, maximize),
            "parallel.png": lambda path: draw_parallel(path, columns, logarithmic, values, metric),
        }
        if len(finished) > 2:
            sign = -1 if maximize else 1  # Optuna finds what makes the target low
            with warnings.catch_warnings():  # Optuna warns of this, and of few or equal trials
                warnings.filterwarnings("ignore", category=UserWarning)
                importances = optuna.importance.get_param_importances(self.study, target=lambda t: sign * t.values[0])
            pictures["importance.png"] = lambda path: draw_importance(path, importances, metric)
        if len(self.metrics) > 1:
            table, marked = [t.values for t in finished], [t.number in chosen for t in finished]
            pictures["pareto.png"] = lambda path: draw_pareto(path, table, marked, self.metrics)
        formats = dict.fromkeys(("png", *self.formats))
        files = [file for ending, draw in pictures.items() for file in draw_to(self.path(ending), list(formats), draw)]
        log.info(f"pictures: {', '.join(map(str, files))}")
