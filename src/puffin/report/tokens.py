"""What transformers on tokens of LArTPC events look at: attention, and the nearest tokens in the embedding."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from puffin.checkpoints.checkpoint import Checkpoint
from puffin.checkpoints.networks import settings_of_checkpoint
from puffin.data.packing import CloudBatch
from puffin.detector import PILARNET
from puffin.layers.grouping import Tokens
from puffin.layers.packed import event_of_row, offsets
from puffin.models.point_encoder import PointEncoder
from puffin.plots.clouds import by_attention, by_class, draw_tokens
from puffin.report.blocks import Figure, Table, View, embed, new_figure, view_of
from puffin.runs.clouds import open_datasets
from puffin.tasks.token_views import attention, points_of_classes, similar_tokens

_EVENTS = 32  # whose tokens are compared
_NEAREST = 5


@torch.no_grad()
def token_blocks(method: str, checkpoint: Checkpoint, network: nn.Module) -> list[View | Figure | Table]:
    """Show the attention of a token of each class, and its nearest tokens; [] for a network without tokens.

    InputError if the events that the run was validated on are not there any more."""
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, PointEncoder):
        return []
    settings = settings_of_checkpoint(checkpoint)
    datasets = open_datasets(settings.data, settings.run.seed, save_index=False)
    dataset = datasets.get("valid", datasets["train"])
    batch = dataset[range(min(_EVENTS, len(dataset)))].to("cpu", next(encoder.parameters()).dtype)
    tokens = encoder.tokenize(batch.points, batch.lengths)
    names = PILARNET.classes(settings.data.remove_led)
    counts = points_of_classes(tokens, batch.semantic, len(names))
    event = event_of_row(tokens.lengths)
    number = max(range(len(batch)), key=lambda e: int(counts[event == e].any(0).sum()))  # the one with most classes
    of_event = counts * (event == number)[:, None]
    chosen = {name: int(of_event[:, k].argmax()) for k, name in enumerate(names) if of_event[:, k].any()}
    if not chosen:
        return []
    similarity, nearest = similar_tokens(encoder.encode(tokens), tokens.lengths, _NEAREST)
    found: list[View | Figure | Table] = [_attention(method, encoder, batch, tokens, number, chosen)]
    if nearest.shape[1]:
        for name, token in chosen.items():
            found.append(_nearest(method, name, batch, tokens, [token, *nearest[token].tolist()], similarity[token]))
        found.append(_same_class(method, names, counts, nearest))
    return found


def _attention(
    method: str, encoder: PointEncoder, batch: CloudBatch, tokens: Tokens, number: int, chosen: dict[str, int]
) -> View:
    """Show an event, and the attention of some of its tokens. chosen: rows of the tokens by class."""
    own = event_of_row(tokens.lengths) == number
    first_point, first_token = int(offsets(batch.lengths)[number]), int(offsets(tokens.lengths)[number])
    rows = slice(first_point, first_point + int(batch.lengths[number]))
    points, selected = batch.points[rows].float().numpy(), tokens.select(own)
    members = [m.numpy() - first_point for m in selected.index.split(selected.counts.tolist())]
    weights = attention(encoder, selected).float().numpy()
    pages = [replace(by_class(points, batch.semantic[rows].numpy(), ""), title="classes")]
    for name, row in chosen.items():
        token = row - first_token
        pages.append(
            replace(by_attention(points, members, weights[token], token, ""), title=f"attention of a {name} token")
        )
    text = "how much a token attends to the others in the last block, averaged over heads."
    return view_of(pages, f"{method}, validation event {number}: {text}")


def _nearest(method: str, name: str, batch: CloudBatch, tokens: Tokens, rows: list[int], similarity: Tensor) -> Figure:
    """Draw the points of a token and of its nearest tokens in other events."""
    members, event = tokens.index.split(tokens.counts.tolist()), event_of_row(tokens.lengths)
    titles = [
        "this token",
        *(f"{s:.2f}, event {event[row]}" for s, row in zip(similarity.tolist(), rows[1:], strict=True)),
    ]
    shown = [
        (batch.points[members[row], :3].float().numpy(), batch.semantic[members[row]].numpy(), title)
        for row, title in zip(rows, titles, strict=True)
    ]
    figure = new_figure(height=4.2)
    panels = figure.subplots(2, -(-len(shown) // 2), squeeze=False, sharex=True, sharey=True).flat
    draw_tokens(panels, shown)
    figure.supylabel("distance from the centre of the token [cm]", fontsize=9)
    text = f"{method}: a {name} token of validation event {event[rows[0]]}, and the nearest tokens of other events."
    return embed(figure, f"{text} Above each: cosine similarity of the embeddings.")


def _same_class(method: str, names: tuple[str, ...], counts: Tensor, nearest: Tensor) -> Table:
    """Tell how often the nearest tokens are of the same class, which is that of most points of a token."""
    classes, rows = counts.argmax(1), []
    for k, name in enumerate(names):
        own = classes == k
        if own.any():
            same = (classes[nearest[own]] == k).float().mean()
            rows.append([name, str(int(own.sum())), f"{own.float().mean():.3f}", f"{same:.3f}"])
    header = ["class of most points", "tokens", "fraction of all tokens", f"fraction of the {nearest.shape[1]} nearest"]
    caption = "how often the nearest tokens of other events are of the same class, beside that of random tokens."
    return Table(header, rows, f"{method}: {caption}")
