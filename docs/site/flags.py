"""Pages with the flags of the scripts, made from their parsers."""

import argparse
import html
import re
from collections.abc import Sequence
from pathlib import Path

from tests.docs.scripts import parser_of


def page_of_script(script: str) -> str:
    """Write the page of one script: a table for each group of flags."""
    return f"# Flags of {script}\n\n{_flags_of(parser_of(script), '##')}"


def page_of_folder(folder: str, scripts: Sequence[str]) -> str:
    """Write one page for the scripts of a folder; those without flags of their own are left out."""
    parsers = {script: parser_of(script) for script in scripts}
    sections = [f"## {script}\n\n{_flags_of(parser, '###')}" for script, parser in parsers.items() if parser]
    return f"# Flags of the scripts in {folder}/\n\n" + "\n".join(sections)


def _flags_of(parser: argparse.ArgumentParser, heading: str) -> str:
    first, _, rest = (parser.description or "").strip().partition("\n")
    lines = [_plain(first), ""]
    if rest.strip():
        lines += ["```text", rest.strip("\n"), "```", ""]
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        actions = [action for action in actions if not isinstance(action, argparse._HelpAction)]
        if actions:
            title = {"options": "flags", "positional arguments": "arguments"}.get(group.title, group.title)
            lines += [f"{heading} {title[0].upper()}{title[1:]}", "", "| flag | meaning |", "|---|---|"]
            lines += [_row(parser, action) for action in actions] + [""]
    return "\n".join(lines)


def _row(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    formatter = argparse.HelpFormatter(parser.prog, width=10_000)
    invocation = formatter._format_action_invocation(action)
    meaning = _plain(formatter._expand_help(action)) if action.help else ""
    anchor = f'<span id="{action.option_strings[0].lstrip("-")}"></span>' if action.option_strings else ""
    return f"| {anchor}`{_cell(invocation)}` | {_cell(meaning)} |"


def _plain(text: str) -> str:
    """Return text in which Markdown finds no markup."""
    return re.sub(r"[\[\]*_`]", lambda character: f"&#{ord(character[0])};", html.escape(text, quote=False))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def scripts_of(root: Path, folder: str) -> list[str]:
    """Return the scripts of a folder, which are the files that a shell can start."""
    files = sorted((root / folder).glob("*.py"))
    return [file.relative_to(root).as_posix() for file in files if '__name__ == "__main__"' in file.read_text()]
