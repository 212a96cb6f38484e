"""Errors that are the user's to mend; scripts print them as one line and exit with status 1."""


def first_line(error: Exception) -> str:
    """The first line of an error's text, shortened."""
    return (str(error).splitlines() or [""])[0][:200]


class InputError(Exception):
    """Bad flags, files or data.  The message says what was expected, what came and what to do."""
