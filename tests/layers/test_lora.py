"""Low-rank updates: nothing at first, their formula later, nothing else that learns."""

import pytest
import torch
from torch import nn

from puffin.layers.lora import LoRALinear, add_lora_
from puffin.layers.transformer import Transformer
from puffin.settings.encoder import TransformerConfig
from tests.conftest import relative

CONFIG = TransformerConfig("vit_tiny", 2, 0.0, 0.0)


def inputs():
    torch.manual_seed(1)
    return torch.randn(9, 192, dtype=torch.float64), torch.randn(9, 192, dtype=torch.float64), torch.tensor([4, 5])


@pytest.mark.parametrize("training", [False, True])
@torch.no_grad()
def test_new_updates_change_nothing(training):
    """Bit for bit; with alpha 0 any update. Breaks if both factors start at random, or the scale ignores alpha."""
    for alpha, grown in ((16.0, False), (0.0, True)):
        model = Transformer(CONFIG).double().train(training)
        before = model(*inputs())
        add_lora_(model, 4, alpha)
        model.double().train(training)
        if grown:
            [nn.init.normal_(p) for name, p in model.named_parameters() if name.endswith(".up")]
        assert torch.equal(model(*inputs()), before)


@torch.no_grad()
def test_merged_equals_unmerged():
    """In training two small products, in evaluation one weight: the same as a plain layer with the merged weight."""
    layer = LoRALinear(6, 5, rank=2, alpha=3.0).double()
    nn.init.normal_(layer.up)
    x = torch.randn(7, 6, dtype=torch.float64)
    plain = nn.Linear(6, 5).double()
    plain.weight.copy_(layer.weight + 3.0 / 2 * layer.up @ layer.down), plain.bias.copy_(layer.bias)
    for training in (True, False):
        assert relative(layer.train(training)(x), plain(x)) < 1e-14
    assert relative(layer(x), nn.functional.linear(x, layer.weight, layer.bias)) > 0.1


def test_only_updates_learn():
    """Two layers of each attention; weights load from, and under, the names of the plain network."""
    plain, model = Transformer(CONFIG), Transformer(CONFIG)
    add_lora_(model, 4, 8.0)
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert sorted(learning) == [
        f"blocks.{k}.attention.{layer}.{part}" for k in (0, 1) for layer in ("proj", "qkv") for part in ("down", "up")
    ]
    result = model.load_state_dict(plain.state_dict(), strict=False)
    assert sorted(result.missing_keys) == sorted(learning) and not result.unexpected_keys
    model(*(x.float() if x.is_floating_point() else x for x in inputs())).square().sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())


def test_bad_rank():
    with pytest.raises(ValueError, match="lora_rank: expected at least 1, got 0"):
        LoRALinear(3, 3, 0, 1.0)
