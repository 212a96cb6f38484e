"""What a transformer on tokens does with them: the attention of each token, and the tokens with similar embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from puffin.layers.grouping import Tokens
from puffin.layers.packed import event_of_row
from puffin.models.point_encoder import PointEncoder

_ROWS = 512  # tokens that are compared at once with all others


@torch.no_grad()
def attention(encoder: PointEncoder, tokens: Tokens) -> Tensor:
    """Compute how much the T tokens of one event attend to each other in the last block, (T, T), averaged over heads.

    Row t belongs to token t, and adds up to 1. The encoder must be in evaluation mode."""
    layer, seen = encoder.transformer.blocks[-1].attention, []
    hook = layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        encoder.encode(tokens)
    finally:
        hook.remove()
    return layer.weights(seen[0]).mean(0)


def similar_tokens(features: Tensor, lengths: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Find for each token those of other events with the most similar embeddings; (T, K) similarities, and rows int64.

    features (T, D); lengths (B,) int64 on the CPU: tokens of each event; K: `number`, or fewer if the other events of
    some token have fewer. The similarity is the cosine after the mean of all embeddings is subtracted, from -1 to 1;
    most similar first."""
    event = event_of_row(lengths).to(features.device)
    unit = F.normalize(features.float() - features.float().mean(0), dim=1)
    number = min(number, len(features) - int(lengths.max()) if len(lengths) else 0)
    values, rows = [unit.new_zeros(0, number)], [event.new_zeros(0, number)]
    for part, of_part in zip(unit.split(_ROWS), event.split(_ROWS), strict=True):
        cosine = (part @ unit.T).masked_fill(of_part[:, None] == event, -torch.inf)
        top = cosine.topk(number, 1)
        values.append(top.values)
        rows.append(top.indices)
    return torch.cat(values), torch.cat(rows)


def points_of_classes(tokens: Tokens, semantic: Tensor, num_classes: int) -> Tensor:
    """Count the points of each class in each token, (T, num_classes) int64; semantic (P,): class of each point.

    Points of further classes are not counted."""
    token = torch.repeat_interleave(tokens.counts).to(semantic.device)
    classes = semantic[tokens.index]
    counted = classes < num_classes
    cells = token[counted] * num_classes + classes[counted]
    return torch.bincount(cells, minlength=len(tokens) * num_classes).view(len(tokens), num_classes)
