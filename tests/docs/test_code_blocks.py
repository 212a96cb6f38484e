"""Every command, flag, file and code block of the documentation exists, and runs in a reduced form."""

import argparse
import re
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from tests.docs.pages import (
    LANGUAGES,
    PAGES,
    PROGRAMS,
    ROOT,
    TUTORIALS,
    Block,
    Command,
    blocks_of,
    blocks_of_tutorial,
    commands_of,
    spans_of,
)
from tests.docs.scripts import parser_of, refusal, run

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
CELLS = [block for tutorial in TUTORIALS for block in blocks_of_tutorial(tutorial)]  # executed by `make docs`
SHELL = [block for block in BLOCKS + CELLS if block.language == "bash"]
SWEEP = "optuna_search.py"
SCRIPT_OF_TASK = {
    "classifier": "train_pelican_classifier.py",
    "cov": "train_pelican_cov.py",
    "pointmae": "train_pointmae.py",
    "segmentation": "train_segmentation.py",
}
SCRIPT_OF_JOB = {
    "train": "train_pelican_classifier.py",
    "train_multinode": "train_pelican_classifier.py",
    "sweep": SWEEP,
}
OTHER_PROGRAMS = ("pip", "hf", "mkdir", "mv", "activate-global-python-argcomplete", "tensorboard")  # not ours

# appended to a command, so that it takes seconds: argparse takes the last of equal flags
_TINY_RUN = "--cpu --threads 1 --no-plot --num-valid 20 --num-test 20".split()
_FEW_CLOUDS = (
    "--cpu --threads 1 --no-plot --num-train 4 --num-valid 2 --num-test 8 --num-step 2 --batch-size 2"
).split()
_TINY_CLOUDS = [*_FEW_CLOUDS, *"--arch vit_tiny --depth 1 --context 16 --attention-dropout 0 --drop-path 0".split()]
_UNETS = {"config/segmentation_unet.yaml", "config/voxelmae.yaml", "config/voxeldistill.yaml"}
_TINY_JETS = [*_TINY_RUN, *"--num-train 40 --num-epoch 1 --nobj 12 --batch-size 20 --warmup 0 --cooldown 0".split()]
_TINY_DECODER = "--decoder-depth 0".split()
REDUCED = {
    "train_pelican_classifier.py": [*_TINY_JETS, "--num-test", "-1"],  # tools/results.py compares seeds on all jets
    "train_pelican_cov.py": [*_TINY_JETS, "--num-test", "-1"],  # bench/regression.py compares with the whole file
    "train_pointmae.py": [*_TINY_CLOUDS, *_TINY_DECODER, "--no-probe"],
    "train_segmentation.py": [*_TINY_CLOUDS, "--head-dim", "16"],
    "tools/stress.py": "--num-test 40 --resamples 5".split(),
    "data/make_lartpc.py": "--num-train 6 --num-val 1 -j 1".split(),
}
REDUCED_EVALUATION = {
    "train_pelican_classifier.py": "--cpu --threads 1 --num-test 20".split(),
    "train_pelican_cov.py": "--cpu --threads 1 --num-test 20".split(),
    "train_pointmae.py": "--cpu --threads 1 --num-test 8 --no-plot --no-probe".split(),
    "train_segmentation.py": "--cpu --threads 1 --num-test 8 --no-plot".split(),
}
REDUCED_SWEEP = {
    "classifier": _TINY_JETS,
    # enough tokens of several classes for the linear probe
    "pointmae": [
        *_TINY_CLOUDS,
        *_TINY_DECODER,
        *"--num-train 8 --num-valid 8 --context 64 --num-step 0 --num-epoch 1".split(),
    ],
}
_SWEEP = "--num-trials 1 -j 1 --no-report".split()


# -- what does not run is checked ---------------------------------------------------------------------------------


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_language_is_known(block):
    assert block.language in LANGUAGES, f"{block}: name the language of the block: {', '.join(LANGUAGES)}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=str)
def test_yaml_is_valid(block):
    entries = yaml.safe_load(block.text)
    flags = all_flags()
    assert entries
    assert {f"--{name}" for name in entries} <= flags


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
def test_python_compiles(block):
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_exist(block):
    """Programs, scripts, targets and files exist, and the parsers take the flags and their values."""
    commands = commands_of(block)
    assert commands
    for command in commands:
        problem = _problem_of(command)
        assert not problem, f"{block}: {command}: {problem}"


def _problem_of(command: Command) -> str:
    """What is wrong with a command, "" if nothing is."""
    words = [*command.arguments, command.program]
    for word in words:
        if re.fullmatch(r"(config|data/sample_data|slurm|tests|src)/[\w/.]+", word) and not (ROOT / word).exists():
            return f"{word} does not exist"
    if command.program == "make":
        targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
        return "" if set(command.arguments) <= targets else f"expected targets among {sorted(targets)}"
    if command.program == "pip":
        wanted = {extra for word in words for extra in re.findall(r"^\.\[(\w+)\]$", word)}
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        return "" if wanted <= set(extras) else f"expected extras among {sorted(extras)}"
    if command.program == "sbatch":
        return _problem_of_job(command)
    if command.program in OTHER_PROGRAMS or command.script == "setup.py":
        return ""
    if command.program in PROGRAMS and command.arguments[:1] == ["-m"]:
        return "" if command.arguments[1] in ("puffin.ops", "pytest") else "unknown module"
    if command.script is None:
        return "unknown program"
    if not (ROOT / command.script).is_file():
        return f"{command.script} does not exist"
    return _problem_of_flags(command.script, command.script_arguments, _python_path(command))


def _problem_of_job(command: Command) -> str:
    """The same of `sbatch FLAGS JOB ARGUMENTS`; the first argument of a training is its prefix."""
    job = next(word for word in command.arguments if word.endswith(".sbatch"))
    script = SCRIPT_OF_JOB.get(Path(job).stem)
    if script is None:
        return ""
    arguments = command.arguments[command.arguments.index(job) + 1 :]
    return _problem_of_flags(script, arguments if script == SWEEP else arguments[1:], ())


def _problem_of_flags(script: str, arguments: list[str], python_path: tuple[str, ...]) -> str:
    """Why the parser of a script refuses the arguments; those after -- go elsewhere."""
    parser = parser_of(script, python_path)
    if parser is None or "--help" in arguments:
        return ""
    if "--" in arguments:
        arguments = arguments[: arguments.index("--")]
    if script != SWEEP:
        return refusal(parser, arguments)[0] or _abbreviated(arguments, flags_of(parser))
    problem, rest = refusal(parser, arguments, partly=True)
    task = parser_of(SCRIPT_OF_TASK[_task_of(arguments)])
    return problem or refusal(task, rest)[0] or _abbreviated(arguments, flags_of(parser) | flags_of(task))


def _abbreviated(arguments: list[str], flags: set[str]) -> str:
    """Flags that argparse takes for the beginning of one that exists."""
    unknown = [word for word in arguments if word.startswith("--") and word.partition("=")[0] not in flags]
    return f"abbreviated: {' '.join(unknown)}" if unknown else ""


def _task_of(arguments: list[str]) -> str:
    return arguments[arguments.index("--task") + 1]


def _python_path(command: Command) -> tuple[str, ...]:
    return tuple(str(ROOT / p) for p in command.variables.get("PYTHONPATH", "").split(":") if p)


def flags_of(parser: argparse.ArgumentParser | None) -> set[str]:
    """Flags that --help shows."""
    return set(re.findall(r"--[A-Za-z][\w-]*", parser.format_help() if parser else ""))


def all_flags() -> set[str]:
    """Flags of all scripts of the repository."""
    scripts = [*SCRIPT_OF_TASK.values(), SWEEP, *{c.script for b in SHELL for c in commands_of(b) if c.script}]
    scripts += [
        path.relative_to(ROOT).as_posix() for folder in ("data", "bench") for path in (ROOT / folder).glob("*.py")
    ]
    without_parser = {"setup.py", "tools/probe_features.py", "bench/padded_point_mae.py"}
    return set().union(*(flags_of(parser_of(script)) for script in {*scripts} - without_parser))


def test_flags_in_sentences_exist():
    flags = all_flags() | {"--help"}
    unknown = []
    for page in PAGES:
        for span in spans_of(page):
            found = re.findall(r"(?<![\w-])--[A-Za-z][\w-]*", span)
            unknown += [f"{page.name}: {flag} in `{span}`" for flag in found if flag not in flags]
    # `pip install --no-build-isolation` is not ours
    assert not [line for line in unknown if "pip install" not in line]


def test_files_in_sentences_exist():
    """Paths in inline code below the folders of the repository, without globs, braces and words in capitals."""
    missing = []
    for page in PAGES:
        for span in spans_of(page):
            if re.search(r"\b[A-Z_]{4,}\b|_NAME", span):
                continue  # NAME, TASK: to be filled in
            if re.fullmatch(r"(config|src|csrc|tests|tools|bench|slurm)/[\w/.-]+|data/[\w/.-]+\.py", span):
                missing += [] if (ROOT / span).exists() else [f"{page.name}: {span}"]
    assert not missing


def test_not_run_needs_a_fence():
    """A comment that is not directly above a fence would be without effect."""
    for page in PAGES:
        lines = page.read_text().splitlines()
        for line, following in zip(lines, lines[1:], strict=False):
            if line.startswith("<!-- not run"):
                assert following.startswith("```"), f"{page.name}: {line}"


# -- what runs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A folder that looks like a clone, in which commands can write; the current folder of the test."""
    for name in ("config", "tests", "csrc", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/sample_data").symlink_to(ROOT / "data/sample_data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _runs(block: Block) -> bool:
    return not block.not_run and block.language in ("bash", "python")


@pytest.mark.parametrize("page", [p for p in PAGES if any(map(_runs, blocks_of(p)))], ids=lambda page: page.name)
def test_blocks_run(page, clone):
    """The blocks of a page run one after another in one folder, with flags that make them small."""
    threads = torch.get_num_threads()
    try:
        for block in filter(_runs, blocks_of(page)):
            if block.language == "python":
                _run_python(block)
                continue
            for command in commands_of(block):
                _run_command(block, command)
    finally:
        torch.set_num_threads(threads)


def _run_python(block: Block) -> None:
    exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})


def _run_command(block: Block, command: Command) -> None:
    if command.program in PROGRAMS and command.arguments[:1] == ["-m"]:
        assert run(command.arguments[1], command.arguments[2:], [])
        return
    assert command.script, f"{block}: {command}: cannot be run here; write <!-- not run: REASON --> above the block"
    if command.script == "setup.py":
        return
    run(command.script, [*command.script_arguments, *_reduction(command)], list(_python_path(command)))


def _reduction(command: Command) -> list[str]:
    """Flags that make a command small."""
    script, arguments = command.script, command.script_arguments
    if "--help" in arguments or "--test" in arguments:
        return []
    if script == SWEEP:
        return [*REDUCED_SWEEP[_task_of(arguments)], *_SWEEP]
    if _UNETS.intersection(arguments):
        return [*_FEW_CLOUDS, "--unet-width", "4"]
    return (REDUCED_EVALUATION if "--eval" in arguments else REDUCED).get(script, [])
