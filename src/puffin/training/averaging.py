"""An exponential moving average of the weights, with which a network is evaluated."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """The average of a model's weights over the updates; does nothing if the decay is 0.

    Buffers, such as running statistics, are never averaged."""

    def __init__(self, model: nn.Module, decay: float):
        self.model = model
        self.average = None
        if decay:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=False)

    def update(self) -> None:
        """Take in the weights after an update."""
        if self.average is not None:
            self.average.update_parameters(self.model)

    def switch_off(self) -> None:
        """Use the model's own weights from now on, for example because they are averaged ones from a checkpoint."""
        self.average = None

    def state_dict(self) -> dict[str, Any] | None:
        """Return the averaged weights; None if there are none."""
        return None if self.average is None else self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Continue from the averaged weights of a checkpoint, if both have any."""
        if self.average is not None and state is not None:
            self.average.load_state_dict(state)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """A context in which the model has the averaged weights, if there are any."""
        if self.average is None:
            yield
            return
        own = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict({**own, **dict(self.average.module.named_parameters())})
        try:
            yield
        finally:
            self.model.load_state_dict(own)
