"""Groups of parameters with learning rates of their own, for fine-tuning."""

from collections.abc import Sequence

from torch import nn


def parameter_groups(
    network: nn.Module, stages: Sequence[nn.Module], layer_decay: float = 1.0, head_factor: float = 1.0
) -> list[dict]:
    """Group the trainable parameters by the factor `lr_scale` of their learning rate.

    stages: the parts below the head, in the order in which they compute. The head, which is all the rest, has
    head_factor, the last stage layer_decay, the stage before it layer_decay^2, and so on."""
    trained = [p for p in network.parameters() if p.requires_grad]
    if layer_decay == head_factor == 1:
        return [{"params": trained}]
    groups = [[p for p in stage.parameters() if p.requires_grad] for stage in stages]
    below = {id(p) for group in groups for p in group}
    groups.append([p for p in trained if id(p) not in below])
    factors = [head_factor, *(layer_decay**k for k in range(1, len(groups)))]
    scaled = [{"params": group, "lr_scale": f} for group, f in zip(reversed(groups), factors, strict=True)]
    return [group for group in scaled if group["params"]]
