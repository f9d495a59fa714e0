"""Initial weights, as functions for `model.apply(...)`: each changes the layers it is about and leaves the others."""

from __future__ import annotations

import math

from torch import nn


def init_linear_(layer: nn.Module) -> None:
    """Linear layers: weights from N(0, 0.02), cut at +-2; biases 0."""
    if isinstance(layer, nn.Linear):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def init_linear_and_conv_(layer: nn.Module) -> None:
    """Linear layers and convolutions, transposed ones too: weights from N(0, 0.02), cut at +-2; biases 0."""
    init_linear_(layer)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.trunc_normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def init_conv_fan_out_(layer: nn.Module) -> None:
    """Convolutions: weights from N(0, 2 / fan_out), fan_out counted per group; biases 0."""
    if isinstance(layer, nn.Conv2d):
        fan_out = layer.kernel_size[0] * layer.kernel_size[1] * layer.out_channels // layer.groups
        nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_out))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def init_pointwise_fan_out_(layer: nn.Module) -> None:
    """Linear layers, as the 1x1 convolutions they are on a map: weights from N(0, 2 / outputs); biases 0."""
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.out_features))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def init_lecun_normal_(layer: nn.Module) -> None:
    """Linear layers and convolutions, transposed ones too: weights from N(0, 1 / fan_in), cut at +-2 deviations.

    The deviation is that of the cut distribution, as in JAX, and biases are 0.
    """
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        outputs = layer.weight.shape[1] if isinstance(layer, nn.ConvTranspose2d) else len(layer.weight)
        std = math.sqrt(outputs / layer.weight.numel()) / 0.87962566103423978
        nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def init_normal_(layer: nn.Module) -> None:
    """Linear layers: weights from N(0, 0.02), biases 0."""
    if isinstance(layer, nn.Linear):
        nn.init.normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def init_xavier_uniform_(layer: nn.Module) -> None:
    """Linear layers: Xavier-uniform weights, biases 0."""
    if isinstance(layer, nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


def init_joint_(layer: nn.Linear, parts: int) -> None:
    """Xavier-uniform weights of several layers that are one, such as the projection to queries, keys and values."""
    for weight in layer.weight.detach().chunk(parts):
        nn.init.xavier_uniform_(weight)


def init_norm_and_last_(layers: nn.Sequential) -> None:
    """For a network on tokens that begins with a layer norm: what it says about all of them starts the same."""
    norm, last = layers[0], layers[-1]
    assert isinstance(norm, nn.LayerNorm)
    assert isinstance(last, nn.Linear)
    nn.init.constant_(norm.weight, len(norm.weight) ** -0.5)
    nn.init.zeros_(last.weight)
