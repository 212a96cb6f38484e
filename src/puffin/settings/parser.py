"""argparse for scripts: an error is one line, which names the nearest flag."""

import argparse
import os
from collections.abc import Sequence

from puffin.errors import nearest


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line, without the usage, which is longer than a screen.

    further: flags that it does not parse, but which a misspelt flag may mean."""

    further: tuple[str, ...] = ()

    def error(self, message: str):
        """Print the error and exit with status 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists all flags)\n")

    def parse_args(self, args: Sequence[str] | None = None, namespace=None):
        """Parse all arguments; the first that is unknown ends the script, with the flag that may be meant."""
        self.complete()
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(self.unknown(unknown[0]))
        return found

    def complete(self) -> None:
        """If a shell asks for the completions of a command (package argcomplete), answer and exit."""
        if "_ARGCOMPLETE" in os.environ:
            import argcomplete

            argcomplete.autocomplete(self)

    def unknown(self, argument: str) -> str:
        """Return the message about an argument that is no flag, and no value of one."""
        if not argument.startswith("-"):
            return f"unexpected argument '{argument}': it belongs to no flag"
        flag = argument.partition("=")[0]
        elsewhere = self.scripts_with(flag)
        if elsewhere:
            return f"{flag} is a flag of {' and '.join(elsewhere)}, not of this script"
        known = [option for option, action in self._option_string_actions.items() if action.help != argparse.SUPPRESS]
        names = {option.lstrip("-"): option for option in (*self.further, *known)}
        return f"unknown flag {flag}{nearest(flag.lstrip('-').replace('_', '-'), names, names.__getitem__)}"

    def scripts_with(self, flag: str) -> list[str]:
        """Return the names of other scripts that have the flag."""
        return []
