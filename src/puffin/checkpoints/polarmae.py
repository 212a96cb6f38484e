"""Published PoLAr-MAE and Point-MAE checkpoints (`.ckpt`): from their settings and weights to our networks.

Their weights depend on two choices that ours make differently: padding rows in the mini-PointNet and a norm over the
whole minibatch (docs/MATHEMATICS_CLOUDS.md, "compat"). The networks are built with them (--published-norms).
"""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from puffin.errors import InputError
from puffin.models.point_mae import PointMAE
from puffin.models.segmentation import Segmentation
from puffin.settings.clouds import PointMAEConfig, SegmentationConfig
from puffin.settings.declare import build
from puffin.settings.encoder import TOKENIZERS, EncoderConfig, TokenizerConfig, TransformerConfig

# published names -> ours, applied in this order
_NAMES = [
    (r"^encoder\.tokenizer\.embedding\.", "encoder.embedding."),
    (r"^encoder\.pos_embed\.pos_enc\.", "encoder.position."),
    (r"^decoder\.transformer\.", "decoder."),
    (r"^equivariant_patch_encoder\.", "energy.embedding."),
    (r"position_encoder\.time_embed\.1\.", "order.linear."),
    (r"^energy_decoder\.", "energy.linear."),
    (r"^increase_dim\.", "points."),
    (r"first_conv\.0\.", "first."),
    (r"first_conv\.1\.", "first_norm."),
    (r"first_conv\.3\.", "stage."),
    (r"second_conv\.0\.", "second."),
    (r"second_conv\.1\.", "second_norm."),
    (r"second_conv\.3\.", "out."),
    (r"\.attn\.", ".attention."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"\.gamma$", ".weight"),
    (r"\.beta$", ".bias"),
    (r"^upsampler\.mlp_convs\.0\.", "upsampler.linear1."),
    (r"^upsampler\.mlp_convs\.1\.", "upsampler.linear2."),
    (r"^upsampler\.mlp_bns\.0\.", "upsampler.norm1."),
    (r"^upsampler\.mlp_bns\.1\.", "upsampler.norm2."),
    (r"^seg_head\.conv", "head.linear"),
    (r"^seg_head\.bn", "head.norm"),
]
_NOT_WEIGHTS = ("loss_func.",)  # class weights of the loss
# what a published tokenizer's argument sets in ours
_TOKENIZER_ARGUMENTS = {
    "group_radius": "radius",
    "context_length": "context",
    "group_max_points": "group_size",
    "group_upscale_points": "upscale",
    "overlap_factor": "overlap",
    "reduction_method": "reduction",
}
# settings that must be as they are in every published network; others are not supported
_REQUIRED = {
    "add_pos_at_every_layer": True,
    "apply_relative_position_bias": False,
    "seg_decoder": None,
    "condition_global_features": True,
}


def published_network(checkpoint: dict, path: str) -> PointMAE | Segmentation:
    """The network of a published checkpoint (`published.read_checkpoint`), with its weights, in evaluation mode.

    InputError if it is of another kind, or has settings or weights that our networks have no place for."""
    settings, state = checkpoint.get("hyper_parameters"), checkpoint.get("state_dict")
    if not isinstance(settings, dict) or not isinstance(state, dict) or "encoder" not in settings:
        raise InputError(
            f"{path}: not a published point-cloud checkpoint (has no state_dict or no hyper_parameters.encoder)"
        )
    try:
        model = _build(settings, state)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: the stored settings describe no network of ours: {error}") from error
    _load_(model, state, path)
    return model.eval()


def published_settings(config: PointMAEConfig | SegmentationConfig, path: str | Path) -> dict[str, Any]:
    """Return the settings, by name, with which our scripts build a published network.

    The tokens are written out, so that --voxels does not matter. InputError if our flags cannot describe the
    network."""
    tokens, transformer = config.encoder.tokens, config.encoder.transformer
    found = {entry.name: getattr(tokens, entry.name) for entry in fields(tokens)} | {"voxels": "5"}
    found |= {"arch": transformer.arch, "depth": transformer.depth, "published_norms": config.encoder.published_norms}
    if isinstance(config, PointMAEConfig):
        found |= {"model": config.model, "decoder_depth": config.decoder.depth, "mask_ratio": config.mask_ratio}
        ours = build(PointMAEConfig, found)
    else:
        if config.num_classes not in (4, 5):
            raise InputError(f"{path}: expected 4 classes, or 5 with low-energy deposits, got {config.num_classes}")
        found |= {"layers": config.layers, "head_depth": 0, "head_dim": config.head_dim, "finetune": "fft"}
        found["remove_led"] = config.num_classes == 4
        ours = replace(build(SegmentationConfig, found), num_classes=config.num_classes)
    if _without_preset(ours) != _without_preset(config):
        raise InputError(
            f"{path}: the stored settings describe a network that our flags cannot; expected one like {ours}"
        )
    return found


def _without_preset(config: PointMAEConfig | SegmentationConfig) -> PointMAEConfig | SegmentationConfig:
    """Return what weights and their outputs depend on; --voxels is not needed once the tokens are complete."""
    config = config.without_dropout()
    return replace(config, encoder=replace(config.encoder, tokenizer=replace(config.encoder.tokens, voxels="5")))


def _build(settings: dict, state: dict[str, Tensor]) -> PointMAE | Segmentation:
    _check_required(settings)
    encoder = _encoder(settings["encoder"]["init_args"])
    if any(name.startswith("seg_head.") for name in state):
        return Segmentation(
            SegmentationConfig(
                encoder,
                num_classes=settings["num_classes"],
                layers=tuple(settings["seg_head_fetch_layers"]),
                head_dim=settings["seg_head_dim"],
                head_dropout=settings["seg_head_dropout"],
            )
        )
    energy = any(name.startswith("energy_decoder.") for name in state)
    ratio = settings["encoder"]["init_args"].get("masking_ratio", 0.6)
    decoder = _transformer(settings["decoder"]["init_args"], depth=4)
    model = "polarmae" if energy else "pointmae"
    config = PointMAEConfig(
        encoder, model=model, decoder_depth=decoder.depth, mask_ratio=ratio, published_decoder=decoder
    )
    return PointMAE(config)


def _check_required(settings: dict) -> None:
    for name, value in settings.items():
        if isinstance(value, dict):
            _check_required(value)
        elif name in _REQUIRED and value != _REQUIRED[name]:
            raise ValueError(f"{name}: expected {_REQUIRED[name]}, got {value!r}")


def _encoder(arguments: dict) -> EncoderConfig:
    return EncoderConfig(
        _tokenizer(arguments),
        _transformer(arguments, depth=12),
        arguments.get("num_channels", 4),
        published_norms=True,
    )


def _tokenizer(arguments: dict) -> TokenizerConfig:
    voxels = f"{arguments.get('voxel_size', 5):g}"
    if voxels not in TOKENIZERS:
        raise ValueError(f"voxel_size: expected one of {', '.join(TOKENIZERS)}, got {voxels}")
    given = arguments.get("tokenizer_kwargs") or {}
    changes = {ours: given[name] for name, ours in _TOKENIZER_ARGUMENTS.items() if name in given}
    if "use_fps_seed" in given:
        changes["seeds"] = given["num_init_groups"] if given["use_fps_seed"] else 0
    return replace(TokenizerConfig(voxels=voxels).complete(), **changes)


def _transformer(arguments: dict, depth: int) -> TransformerConfig:
    given = arguments.get("transformer_kwargs") or {}
    return TransformerConfig(
        arguments["arch"],
        given.get("depth", depth),
        given.get("attn_drop_rate", 0.0),
        given.get("drop_path_rate", 0.0),
        final_norm=given.get("postnorm", False),
        batch_wide_norm=True,
    )


def _load_(model: nn.Module, state: dict[str, Tensor], path: str) -> None:
    """Copy the weights; every one of theirs must have a place, and every one of ours a value."""
    ours, found = model.state_dict(), {}
    for published, value in state.items():
        if published.startswith(_NOT_WEIGHTS):
            continue
        name = published
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        if name not in ours or ours[name].numel() != value.numel():
            why = "no such weight"
            if name in ours:
                why = f"expected {tuple(ours[name].shape)}, got {tuple(value.shape)}"
            raise InputError(f"{path}: {published}: {why} in the network that the settings describe")
        found[name] = value.reshape(ours[name].shape)  # a convolution of width 1 is a linear layer
    missing = [name for name in ours if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        raise InputError(f"{path}: {len(missing)} weights are missing, {missing[0]} among them; is the file complete?")
    model.load_state_dict(found, strict=False)
