"""Errors that the user can correct; scripts print them as one line and exit with status 1."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, shortened to 200 characters."""
    return (str(error).splitlines() or [""])[0][:200]


class InputError(Exception):
    """Bad flags, files or data. The message says what is wrong, where, and what to do."""
