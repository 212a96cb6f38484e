"""What happens to a setting when a run starts from a checkpoint, and when a sweep runs many trainings.

Every setting has one role. A run that starts from a checkpoint asks the role where the value comes from:

OWN     the command line, a preset or the default, whatever the checkpoint says
STORED  the checkpoint, unless the flag was given
FIXED   the checkpoint; a flag that was given must agree with it
"""

from typing import NamedTuple

OWN, STORED, FIXED = "own", "stored", "fixed"


class Role(NamedTuple):
    """Where the value of a setting comes from, by what is done with the checkpoint, and where the value may be used.

    resume: the run continues (--load); evaluate: --eval; finetune: a new run starts from the weights (--loadfile).
    sweep: "vary" (a normal flag), "machine" (trials are the same whatever its value), "refused" (each trial sets it).
    preset: "always", "run" (only in the preset of the run itself, log/PREFIX.yaml), or "never".
    """

    resume: str
    evaluate: str
    finetune: str
    sweep: str = "vary"
    preset: str = "always"


NETWORK = Role(FIXED, FIXED, FIXED)  # the weights fit no other value
PREPARATION = Role(FIXED, STORED, STORED)  # how the data were prepared that the network was trained on
SELECTION = Role(FIXED, STORED, OWN)  # which events of the data are used
EVENTS = Role(STORED, STORED, OWN)  # where the data are
KEPT_LOSS = Role(STORED, STORED, STORED)  # a loss that further trainings from the weights keep
LOSS = Role(STORED, STORED, OWN)  # an evaluation reports the loss that was trained
TRAINING = Role(STORED, OWN, OWN)  # how to train, and what to write
ORIGIN = Role(FIXED, OWN, OWN)  # a run cannot change it half-way
MOMENT = Role(OWN, OWN, OWN)  # of this command alone
MACHINE = Role(OWN, OWN, OWN, sweep="machine")  # where and with which resources
START = Role(OWN, OWN, OWN, preset="run")  # which checkpoint to start from
NAME = Role(OWN, STORED, OWN, sweep="refused", preset="run")  # an evaluation is named after the run
COMMAND = Role(OWN, OWN, OWN, sweep="refused", preset="never")  # what to do
PRESETS = Role(OWN, OWN, OWN, sweep="machine", preset="never")
