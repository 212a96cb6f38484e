"""Read CSV tables, also those that a spreadsheet program has saved."""

import csv
import io
import re
from pathlib import Path

from puffin.errors import InputError

# A number as a spreadsheet writes it where the decimal separator is a comma
_COMMA_NUMBER = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?")
_DELIMITERS = ",;\t"


def read_table(path: str | Path) -> list[list[str]]:
    """Read the rows of a CSV file, the header first; blank lines are left out.

    Excel saves tables with a byte-order mark, in some countries with semicolons between the columns and commas in the
    numbers, or as UTF-16 text with tabs. All of these become the table that was written first: the numbers get decimal
    points. InputError for a file that is no text, or has rows that are longer than the header."""
    text = _text(Path(path))
    first = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=first.count)  # the names of our columns contain none of them
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter) if any(row)]
    except csv.Error as error:
        raise InputError(f"{path}: not readable as a CSV table ({error})") from error
    for number, row in enumerate(rows[1:], 2):
        if len(row) > len(rows[0]):
            raise InputError(
                f"{path}: row {number} has {len(row)} columns, but the header has {len(rows[0])}. Was the table saved "
                "by another program? Correct the row or remove it."
            )
    if delimiter != ",":
        rows = [[_with_point(value) for value in row] for row in rows]
    return rows


def read_records(path: str | Path) -> list[dict[str, str]]:
    """Read the rows of a CSV file as {column: text}, like csv.DictReader; columns that a row lacks are empty."""
    names, *rows = read_table(path) or [[]]
    return [dict(zip(names, [*row, *[""] * (len(names) - len(row))], strict=True)) for row in rows]


def _text(path: Path) -> str:
    data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):  # "Unicode text" of Excel
        encodings = ["utf-16"]
    else:
        encodings = ["utf-8-sig", "cp1252"]  # the latter: "CSV (MS-DOS or Windows)" of Excel, if a name has an accent
    for encoding in encodings:
        try:
            text = data.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text
    raise InputError(f"{path}: expected a CSV table, found a file that is no text. Save it as CSV.")


def _with_point(value: str) -> str:
    return value.replace(",", ".") if _COMMA_NUMBER.fullmatch(value) else value
