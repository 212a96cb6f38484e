"""From the weights of a pretrained network to a network with another head, or with other features of particles."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from puffin.checkpoints.checkpoint import CLASSIFIER, Checkpoint
from puffin.checkpoints.networks import pelican_config, settings_of_checkpoint
from puffin.data.scalars import scalars_of
from puffin.errors import InputError
from puffin.layers.activations import make_activation
from puffin.layers.observable_inputs import ObservableHead
from puffin.models.pelican import PelicanBackbone, PelicanClassifier, PelicanRegressor
from puffin.settings.jets import JetDataSettings
from puffin.settings.pelican import PelicanConfig

OBSERVABLES = "observables"  # the part of a classifier that reads them
_NOT_ZERO = 1e-6  # the embedding has no gradient at 0


def load_partly_(model: nn.Module, weights: Mapping[str, Tensor], is_new: Callable[[str], bool], source: str) -> None:
    """Copy pretrained weights into a network; those whose name is_new keep their initial values.

    InputError, about the file `source`, if other weights are missing, or some have no place in the network."""
    try:
        result = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise InputError(f"--pretrained {source}: {str(error).splitlines()[-1].strip()[:200]}") from error
    wrong = [name for name in result.missing_keys if not is_new(name)] + result.unexpected_keys
    if wrong:
        raise InputError(f"--pretrained {source}: the weights belong to another network ({wrong[0]})")


def load_jets_(
    model: PelicanBackbone, data: JetDataSettings, checkpoint: Checkpoint, classes: Sequence[int] = ()
) -> list[str]:
    """Copy the weights of a pretrained jet network into one with a new last layer; return lines for the log.

    The last layer keeps its initial values, or takes those of these classes of the checkpoint. All after the last
    messages keeps its initial values too, if the checkpoint predicts momenta and the network classes, or the other way
    round. Features of particles that only the network has get the weight 0. data: settings of the data of the network.
    InputError for what cannot be carried over."""
    kind = PelicanClassifier if checkpoint.network == CLASSIFIER else PelicanRegressor
    if isinstance(model, kind):
        new = old = [model.last_layer]
    else:
        new, old = list(model.head[1:]), list(kind.head[1:])
    had, has = (any(_belongs(n, [OBSERVABLES]) for n in names) for names in (checkpoint.weights, model.state_dict()))
    of_observables = f"{OBSERVABLES}.{ObservableHead.last_layer}" if had and has else OBSERVABLES
    old = [*old, of_observables]
    if has:
        new = [*new, of_observables]
    renamed = {kind.head[0]: model.head[0]}
    weights = {}
    for name, weight in checkpoint.weights.items():
        part, _, rest = name.partition(".")
        if not _belongs(name, old):
            weights[f"{renamed.get(part, part)}.{rest}"] = weight
    if classes:
        rows = _rows_of_classes(checkpoint, [name for name in old if name in new], classes)
        weights |= rows
        new = [name for name in new if not any(_belongs(row, [name]) for row in rows)]
    lines = [f"layers with new weights: {', '.join(new) or 'none'}", *_fit_features_(weights, model, data, checkpoint)]
    if had and not has:
        lines.append(f"the observables of {checkpoint.path} are not used by this run")
    load_partly_(model, weights, lambda name: _belongs(name, new), str(checkpoint.path))
    return lines


def _rows_of_classes(checkpoint: Checkpoint, layers: Sequence[str], classes: Sequence[int]) -> dict[str, Tensor]:
    """Return the weights of the last layers for these classes of a checkpoint."""
    found = {name: weight for name, weight in checkpoint.weights.items() if _belongs(name, layers)}
    number = min((len(weight) for weight in found.values()), default=0)
    wrong = [c for c in classes if c >= number]
    if wrong:
        has = f"has {number} classes, numbered from 0" if number else "predicts momenta, not classes"
        raise InputError(f"--pretrained-classes {wrong[0]}: {checkpoint.path} {has}")
    return {name: weight[list(classes)] for name, weight in found.items()}


def _belongs(name: str, parts: Iterable[str]) -> bool:
    """Return whether a weight is of one of these parts of a network."""
    return name.startswith(tuple(f"{part}." for part in parts))


# -- features of particles -------------------------------------------------------------------------------------------


def _fit_features_(
    weights: dict[str, Tensor], model: PelicanBackbone, data: JetDataSettings, checkpoint: Checkpoint
) -> list[str]:
    """Reorder the weights of input features for a network that may have others; return lines for the log."""
    before, path = settings_of_checkpoint(checkpoint), checkpoint.path
    old, new = pelican_config(before.network, before.data), model.config
    had, has = _columns(before.data, old), _columns(data, new)
    added, dropped = ([column[0] for column in a if column not in b] for a, b in ((has, had), (had, has)))
    if added and not had:
        raise InputError(
            f"--pretrained {path}: its network has no input for features of particles, but this run has "
            f"{', '.join(added)}; leave out --dataset, --read-pid and --scalars-keys"
        )
    if added and model.frozen:
        raise InputError(
            f"--finetune head: {path} has no weights for the features {', '.join(added)}; they start at zero and would "
            "never be trained. Use --finetune all, or leave these features out"
        )
    if has:
        for name in [name for name in weights if _belongs(name, ["eq1to2.alphas"]) or name == "eq1to2.coefs"]:
            weights[name] = _selected(weights[name], 0 if name == "eq1to2.coefs" else 1, had, has)
    elif had:
        _replace_labels_(weights, model)
    lines = [f"features that {path} does not have, whose weights start at zero: {', '.join(added)}"] if added else []
    return lines + ([f"features of {path} that this run does not use: {', '.join(dropped)}"] if dropped else [])


def _columns(data: JetDataSettings, config: PelicanConfig) -> list[tuple[str, int]]:
    """Return names of the label inputs of a network, each with its number among those of the same name."""
    found = [name for scalar in scalars_of(data) for name in scalar.names]
    found += [f"label {k}" for k in range(config.num_labels - config.num_scalars)]
    seen: Counter[str] = Counter()
    numbered = []
    for name in found:
        numbered.append((name, seen[name]))
        seen[name] += 1
    return numbered


def _selected(weight: Tensor, axis: int, had: list, has: list) -> Tensor:
    """Return a weight with the columns `has` instead of `had` along an axis; 0 for those that it did not have."""
    columns = dict(zip(had, weight.unbind(axis), strict=True))
    zero = torch.zeros_like(weight.select(axis, 0))
    return torch.stack([columns.get(column, zero) for column in has], axis)


def _replace_labels_(weights: dict[str, Tensor], model: PelicanBackbone) -> None:
    """Let channels of pairs take the place of the label channels, which the network does not have.

    Label channels come last in the input of the first block. Their successors have the weight 0, and the bias with
    which the embedding gives what features that are 0 gave."""
    bias = weights["eq1to2.bias"].float()
    for name in [name for name in weights if _belongs(name, ["eq1to2"])]:
        del weights[name]
    alphas = model.input_encoder.rank2_alphas.detach()[-len(bias) :].to(bias)
    value, exponent = make_activation(model.config.activation)(bias), 1e-6 + alphas.square()
    inverse = value.sign() * ((1 + exponent * value.abs()) ** (1 / exponent) - 1)
    inverse = inverse.where(inverse.abs() > _NOT_ZERO, _NOT_ZERO)
    new = (inverse.new_zeros(len(bias), model.linear.in_features), inverse, alphas)
    for name, tail in zip(("linear.weight", "linear.bias", "input_encoder.rank2_alphas"), new, strict=True):
        weights[name] = torch.cat([weights[name], tail.to(weights[name])])
