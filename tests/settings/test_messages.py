"""Messages about settings name flags."""

import pytest

from puffin.errors import InputError
from puffin.settings.clouds import PretrainingSettings
from puffin.settings.flags import defaults, parse
from puffin.settings.jets import ClassifierSettings
from puffin.settings.messages import with_flags


@pytest.mark.parametrize(
    "message, shown",
    [
        ("learning rates: expected lr_init >= lr_final", "learning rates: expected --lr-init >= --lr-final"),
        ("scale: expected 3; the scale is", "--scale: expected 3; the scale is"),
        ("num_channels_m and num_channels_m_out: a", "--num-channels-m and --num-channels-m-out: a"),
        ("use --lr-init, not my_lr_init or file.lr_init", "use --lr-init, not my_lr_init or file.lr_init"),
    ],
)
def test_names_become_flags(message, shown):
    """Breaks if a message names a variable, or if a word of a sentence becomes a flag."""
    assert with_flags(message, ClassifierSettings) == shown


@pytest.mark.parametrize(
    "argv, message",
    [
        ("--num-channels-scalar 25", "--num-channels-scalar: expected fewer than the first width, 25"),
        ("--num-channels-2to2 [4,4]", "--num-channels-m and --num-channels-2to2: expected one entry per block"),
        ("--irc-safe --config-out x", "--config-out: max and min are not IRC-safe"),
    ],
)
def test_contradictions(argv, message):
    """Flags that do not go together."""
    with pytest.raises(InputError) as refusal:
        parse(ClassifierSettings, "", argv.split()).settings()
    assert str(refusal.value).startswith(message)


def test_source_of_a_value(tmp_path):
    """A value that nobody typed is from a preset or a checkpoint, which the message names."""
    (tmp_path / "p.yaml").write_text("\nnum-channels-scalar: 25\n")
    with pytest.raises(InputError, match=r"p.yaml line 2\)$"):
        parse(ClassifierSettings, "", ["--yaml", str(tmp_path / "p.yaml")]).settings()
    damaged = defaults(PretrainingSettings).plain() | {"neighbours": "cube"}
    with pytest.raises(InputError, match=r"^--neighbours: expected one of ball, knn, got 'cube' \(from a.pt\)$"):
        defaults(PretrainingSettings).starting_from(damaged, "evaluate", "a.pt").settings()
