"""Code blocks, inline commands and links of the documentation."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIALS = sorted((ROOT / "docs/tutorials").glob("*.py"))
LANGUAGES = ("bash", "python", "yaml", "cpp")
PROGRAMS = ("python", "python3", ".venv/bin/python")

_FENCE = re.compile(r"^```(\w*)$")
_NOT_RUN = re.compile(r"^<!-- not run: (\S.*) -->$")
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_VARIABLE = re.compile(r"^([A-Z_]+)=(.*)$")
_SHELL_WORDS = ("for", "done")  # lines of a loop; the commands within it are checked like others


@dataclass(frozen=True)
class Block:
    """A fenced block, or an inline command.

    page, line: where it begins (from 1); language: "" if the fence names none; not_run: the reason in the comment above
    the fence, "" if the block runs."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass(frozen=True)
class Command:
    """One command of a shell block: environment variables before it, program, arguments."""

    variables: dict[str, str]
    program: str
    arguments: list[str]

    def __str__(self) -> str:
        return shlex.join([self.program, *self.arguments])

    @property
    def script(self) -> str | None:
        """The Python file that it starts, as written; None for modules and other programs."""
        if self.program == "torchrun":
            return next(word for word in self.arguments if word.endswith(".py"))
        runs_file = self.program in PROGRAMS and self.arguments and self.arguments[0].endswith(".py")
        return self.arguments[0] if runs_file else None

    @property
    def script_arguments(self) -> list[str]:
        """What the script gets."""
        return self.arguments[self.arguments.index(self.script) + 1 :]


def blocks_of(page: Path) -> list[Block]:
    """Fenced blocks and inline `python3 SCRIPT.py ...` commands of a page, in their order."""
    found, opened, lines = [], None, page.read_text().splitlines()
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if opened is None and fence:
            opened = number
        elif opened is not None and line == "```":
            before = _NOT_RUN.match(lines[opened - 1]) if opened else None
            text = "\n".join(lines[opened + 1 : number])
            language = _FENCE.match(lines[opened])[1]
            found.append(Block(page, opened + 1, language, text, before[1] if before else ""))
            opened = None
        elif opened is None:
            commands = [span for span in _SPAN.findall(line) if re.match(r"python3 [\w/]+\.py ", span)]
            found += [Block(page, number + 1, "bash", text, "") for text in commands]
    assert opened is None, f"{page.name}:{opened + 1}: the fence is never closed"
    return found


def blocks_of_tutorial(tutorial: Path) -> list[Block]:
    """Cells of a tutorial in jupytext's percent format, in their order; without its text."""
    found = []
    for cell in re.finditer(r"^# %%(.*)\n((?:(?!# %%).*\n)*)", tutorial.read_text(), flags=re.M):
        line = tutorial.read_text().count("\n", 0, cell.start()) + 1
        if 'language="bash"' in cell[1]:
            found.append(Block(tutorial, line, "bash", re.sub(r"^# ?", "", cell[2], flags=re.M), ""))
        elif "[markdown]" not in cell[1]:
            found.append(Block(tutorial, line, "python", cell[2], ""))
    return found


def commands_of(block: Block) -> list[Command]:
    """Commands of a shell block; comments and the lines of loops are dropped."""
    commands = []
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if not words or words[0] in _SHELL_WORDS:
            continue
        variables = {}
        while match := _VARIABLE.match(words[0]):
            variables[match[1]] = match[2]
            words = words[1:]
        commands.append(Command(variables, words[0], words[1:]))
    return commands


def prose_of(page: Path) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)


def spans_of(page: Path) -> list[str]:
    """Inline code."""
    return _SPAN.findall(prose_of(page))


def links_of(page: Path) -> list[str]:
    """Targets of links and pictures."""
    return _LINK.findall(prose_of(page))
