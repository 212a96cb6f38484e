"""Errors of settings that contradict each other name flags, as users type them, and where the values come from."""

import re
from collections.abc import Mapping

from puffin.settings.declare import declared


def with_flags(message: str, schema, sources: Mapping[str, str] | None = None) -> str:
    """Replace the names of settings in a message by their flags, such as lr_init by --lr-init.

    A name that is also an English word (scale) is replaced only where the message begins with it. sources: where values
    come from that nobody typed, by name; the first of a setting that the message names is added."""
    named = []
    for entry in declared(schema):
        word = rf"(?<![-\w.]){re.escape(entry.name)}(?!\w)"
        pattern = word if "_" in entry.name else rf"^{word}(?=:)"
        message, found = re.subn(pattern, entry.flag, message)
        if found:
            named.append(entry.name)
    places = [(sources or {})[name] for name in named if name in (sources or {})]
    return f"{message} (from {places[0]})" if places else message
