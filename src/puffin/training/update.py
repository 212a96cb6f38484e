"""One update of the weights: the gradient of a few minibatches, of all processes, and a step of the optimizer."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from puffin.errors import NonFiniteError
from puffin.training import distributed
from puffin.training.task import Progress, StepOutput, Task


class Update(NamedTuple):
    """What an update did.

    loss: mean over the items of all processes; norm: of the gradient, before clipping; minibatches: of each process;
    must_stop: whether any process was asked to stop; last: outputs of the last minibatch of this process."""

    loss: float
    norm: float
    minibatches: int
    must_stop: bool
    last: StepOutput


def autocast(device: torch.device, amp: str) -> torch.autocast:
    """Return the context of a forward pass; amp: "" or "bf16"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=amp == "bf16")


class Updater:
    """Makes updates of `task.model`.

    clip: limit of the gradient norm (0: off); device: where to compute; amp: "" or "bf16"; requested(): whether this
    process was asked to stop."""

    def __init__(
        self,
        task: Task,
        optimizer: torch.optim.Optimizer,
        clip: float,
        device: torch.device,
        amp: str,
        requested: Callable[[], bool],
    ):
        self.task, self.optimizer, self.clip, self.requested = task, optimizer, clip, requested
        self.device, self.amp, self.dtype = device, amp, next(task.model.parameters()).dtype
        self._step = distributed.training_step(task)

    def __call__(self, group: list, lr: float, progress: Progress) -> Update:
        """Update the weights with the mean gradient of a few minibatches, and count them in `progress`.

        lr: learning rate. NonFiniteError, before the update, if the loss or the gradient is not finite."""
        for settings in self.optimizer.param_groups:
            settings["lr"] = lr * settings.get("lr_scale", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        loss_sum, items, must_stop, last = self._gradients(group)
        gradient_norm = nn.utils.clip_grad_norm_(self.task.model.parameters(), self.clip or math.inf)
        loss, norm = loss_sum / (items or 1), gradient_norm.item()
        p = progress
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise NonFiniteError(
                f"step {p.step} (epoch {p.epoch + 1}, batch {p.batch}): loss {loss}, gradient norm {norm}; stopped "
                "before the update. The last checkpoint is intact. Try a lower --lr-init or --clip, or look at the "
                "events of this batch"
            )
        self.optimizer.step()
        p.step += 1
        p.batch += len(group)
        p.batches += len(group)
        p.loss_sum += loss_sum
        p.items += items
        return Update(loss, norm, len(group), must_stop, last)

    def _gradients(self, group: list) -> tuple[float, float, bool, StepOutput]:
        """Set the gradients to those of the mean loss over all items of the group, of all processes.

        Returns the sum of the loss over the items, their number, whether any process was asked to stop, and the last
        outputs."""
        loss_sum, items, must_stop = 0.0, 0.0, 0.0
        for batch in group:
            with autocast(self.device, self.amp):
                output = self._step(batch.to(self.device, self.dtype))
            loss, totals = distributed.global_loss(output[0], output[1], self.requested())
            if len(group) == 1:
                loss.backward()
                loss_sum, items, must_stop = totals()
            else:  # the sum over all items, which is divided by their number below
                sums = totals()
                (loss * sums[1]).backward()
                loss_sum, items, must_stop = loss_sum + sums[0], items + sums[1], must_stop or sums[2]
        if len(group) > 1:
            gradients = [q.grad for q in self.task.model.parameters() if q.grad is not None]
            torch._foreach_div_(gradients, items or 1.0)
        return loss_sum, items, bool(must_stop), StepOutput(*output)
