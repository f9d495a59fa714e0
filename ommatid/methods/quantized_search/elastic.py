"""Once-for-all's sub-networks with the bits of each of their layers: the space, and what a candidate is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.methods.quantized_search.genotype import Gene, Space
from ommatid.methods.quantized_search.policy import LayerPolicy, fake_quantized, model_bytes, quantizable
from ommatid.models.backbones.once_for_all import OnceForAll
from ommatid.models.subnets import Setting
from ommatid.nn.deploy import deployed_copy
from ommatid.nn.recalibration import recalibrated

MODES = ("symmetric", "asymmetric")


@dataclass(frozen=True)
class ElasticSearch:
    """A trained super-network, its space, and what candidates come to.

    calibration: batches of images (B, C, H, W), for batch norms and ranges. judged: batches with labels (B,).
    bits: what layers may have, of 32 and 8: (32,) searches sub-networks alone.
    """

    supernet: OnceForAll
    calibration: Sequence[Tensor]
    judged: Sequence[tuple[Tensor, Tensor]]
    bits: tuple[int, ...] = (32, 8)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """Names of the largest sub-network's layers; a smaller one's are among them."""
        self.supernet.activate(self.supernet.config.largest)
        return tuple(quantizable(deployed_copy(self.supernet.extract())))

    @cached_property
    def space(self) -> Space:
        config = self.supernet.config
        stages, blocks = range(len(config.largest.depths)), range(len(config.largest.kernels))
        genes = [Gene(f"depth.{stage}", tuple(config.depths)) for stage in stages]
        genes += [Gene(f"kernel.{block}", tuple(config.kernel_sizes)) for block in blocks]
        genes += [Gene(f"expand.{block}", tuple(config.expand_ratios)) for block in blocks]
        genes += [Gene(f"bits.{layer}", self.bits) for layer in self.layers]
        genes += [Gene(f"mode.{layer}", MODES) for layer in self.layers]
        return Space(tuple(genes), self._active)

    def setting(self, choices: dict[str, Any]) -> Setting:
        kinds = (("kernel", "kernels"), ("expand", "expands"), ("depth", "depths"))
        return Setting(
            *(
                tuple(choices[f"{kind}.{number}"] for number in range(len(getattr(self.supernet.config.largest, many))))
                for kind, many in kinds
            )
        )

    def policy(self, choices: dict[str, Any]) -> dict[str, LayerPolicy]:
        """Of the layers that the sub-network has."""
        return {
            layer: LayerPolicy(choices[f"bits.{layer}"], choices[f"mode.{layer}"])
            for layer in self.layers
            if self._has(layer, choices)
        }

    def model(self, choices: dict[str, Any]) -> nn.Module:
        """The sub-network as it would answer quantised."""
        self.supernet.activate(self.setting(choices))
        subnet = deployed_copy(recalibrated(self.supernet.extract(), self.calibration))
        return fake_quantized(subnet, self.policy(choices), self.calibration)

    @torch.no_grad()
    def measure(self, choices: dict[str, Any]) -> tuple[float, float]:
        """Share of wrong answers, and bytes."""
        model = self.model(choices)
        wrong = sum(int((model(images).argmax(1) != labels).sum()) for images, labels in self.judged)
        return wrong / sum(len(labels) for _, labels in self.judged), model_bytes(model, self.policy(choices))

    def _active(self, choices: dict[str, Any]) -> set[str]:
        """Not those of skipped blocks, nor how weights that are not quantised would be."""
        most, active = max(self.supernet.config.depths), set()
        for name in choices:
            kind, _, rest = name.partition(".")
            if kind in ("kernel", "expand"):
                stage, index = divmod(int(rest), most)
                counts = index < choices[f"depth.{stage}"]
            elif kind in ("bits", "mode"):
                counts = self._has(rest, choices) and (kind == "bits" or choices[f"bits.{rest}"] == 8)
            else:
                counts = True
            if counts:
                active.add(name)
        return active

    @staticmethod
    def _has(layer: str, choices: dict[str, Any]) -> bool:
        part, *rest = layer.split(".")
        return part != "stages" or int(rest[1]) < choices[f"depth.{rest[0]}"]
