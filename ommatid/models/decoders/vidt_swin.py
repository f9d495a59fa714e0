"""The backbone of ViDT: a Swin Transformer that carries detection tokens beside its patches.

"ViDT: An Efficient and Effective Fully Transformer-based Object Detector" (arXiv 2110.03921). The patches never look at
the detection tokens: their maps are those of a plain Swin Transformer (arXiv 2103.14030).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ommatid.nn.block import Block
from ommatid.nn.deploy import scale_output_
from ommatid.nn.embed import PatchEmbed, PatchMerging
from ommatid.nn.feedforward import MLP
from ommatid.nn.init import init_linear_
from ommatid.nn.mixers import WindowAttention
from ommatid.nn.mixers.window import MASKED
from ommatid.nn.residual import stochastic_depth
from ommatid.nn.sine_position import sine_position, sine_position_within
from ommatid.ops.attention import attend
from ommatid.ops.windows import pad_to_multiple

PATCH = 4
Size = tuple[int, int]


class ReconfiguredAttention(nn.Module):
    """Window attention of the patches, and attention of detection tokens: (B, H W + D, C) -> the same.

    One projection makes queries, keys and values of both. From ViDT (arXiv 2110.03921). Cost: that of
    `WindowAttention`, and 4 D C^2 + 2 D^2 C multiply-adds; with `crosses`, 3 H W C^2 + 2 D H W C more.

    Args:
        dim: C.
        heads: number of heads; divides C.
        window_size: side of the patches' windows.
        shift: of the windows.
        place_dim: width of the detection tokens' positions.
        crosses: whether detection tokens look at the patches too, and not only at one another.
    """

    def __init__(self, dim: int, heads: int, window_size: int, *, shift: int, place_dim: int, crosses: bool) -> None:
        super().__init__()
        self.window = WindowAttention(dim, heads, window_size, shift=shift)
        self.place = nn.Linear(place_dim, dim)
        self.crosses = crosses

    def forward(self, tokens: Tensor, size: Size, places: Tensor, wave: Tensor, hidden: Tensor | None) -> Tensor:
        """
        Args:
            tokens: patches row by row, then detection tokens.
            size: (H, W).
            places: (1, D, place_dim), positions of the detection tokens.
            wave: (1 or B, H W, C), positions of the patches, for detection tokens that look at them.
            hidden: (B, 1, 1, H W + D), what is added to the scores of such looks; None for nothing.
        """
        cells = size[0] * size[1]
        patches, things = tokens[:, :cells], tokens[:, cells:] + self.place(places)
        mixed = self.window(patches.unflatten(1, size)).flatten(1, 2)
        query, key, value = self._heads(things)
        if not self.crosses:
            answer = attend(query, key, value)
        else:
            _, seen_key, seen_value = self._heads(patches + wave)
            bias = None if hidden is None else hidden.to(query.dtype)
            keys, values = torch.cat([seen_key, key], dim=1), torch.cat([seen_value, value], dim=1)
            answer = attend(query, keys, values, bias=bias)
        return torch.cat([mixed, self.window.proj(answer)], dim=1)

    def _heads(self, tokens: Tensor) -> Sequence[Tensor]:
        """(B, N, C) -> queries, keys and values (B, N, heads, d)."""
        return self.window.qkv(tokens).unflatten(-1, (3, self.window.heads, -1)).unbind(2)

    def scale_output_(self, scale: Tensor) -> None:
        scale_output_(self.window.proj, scale)


class DetectionSwin(nn.Module):
    """Image (B, H, W, C_in) -> maps (B, H_i, W_i, C_i) of the stages, and detection tokens (B, D, C) of the last.

    Some published parameters influence nothing; they are kept, frozen, so that weights and counts agree: a second way
    through every merging, and norms of the maps.

    Args:
        in_channels: C_in.
        dims, depths, heads: of each stage.
        window_size: side of a window.
        mlp_ratio: inner width of the MLPs, in widths.
        tokens: D. place_dim: width of their positions.
        cross_stages: stages in which they look at the patches.
        reduced_dim: width of a further map, the last one merged once more; None for none.
        drop_path_rate: stochastic depth.
    """

    def __init__(
        self,
        in_channels: int,
        dims: Sequence[int],
        depths: Sequence[int],
        heads: Sequence[int],
        *,
        window_size: int,
        mlp_ratio: float,
        tokens: int,
        place_dim: int,
        cross_stages: Sequence[int],
        reduced_dim: int | None,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        self.dims, self.cross_stages = tuple(dims), tuple(cross_stages)
        self.stem = PatchEmbed(in_channels, dims[0], PATCH, norm=nn.LayerNorm(dims[0]))
        self.tokens = nn.Parameter(torch.zeros(1, tokens, dims[0]))
        self.places = nn.Parameter(torch.zeros(1, tokens, place_dim))
        rates = stochastic_depth(drop_path_rate, depths)

        def block(stage: int, index: int) -> Block:
            dim, shift = dims[stage], window_size // 2 if index % 2 else 0
            crosses = stage in cross_stages
            mixer = ReconfiguredAttention(
                dim, heads[stage], window_size, shift=shift, place_dim=place_dim, crosses=crosses
            )
            return Block(dim, mixer, MLP(dim, int(mlp_ratio * dim)), drop_path=rates[stage][index])

        self.stages = nn.ModuleList(
            nn.ModuleList(block(stage, index) for index in range(depth)) for stage, depth in enumerate(depths)
        )
        out_dims = [*dims[1:], *([reduced_dim] if reduced_dim else [])]
        pairs = list(zip(dims, out_dims, strict=False))
        self.merging = nn.ModuleList(PatchMerging(dim, out_dim) for dim, out_dim in pairs)
        self.unread = nn.ModuleDict(
            {
                "expansion": nn.ModuleList(nn.Linear(dim, out_dim, bias=False) for dim, out_dim in pairs),
                "merging_norm": nn.ModuleList(nn.LayerNorm(dim) for dim, _ in pairs),
                "map_norm": nn.ModuleList(nn.LayerNorm(dim) for dim in dims[1:]),
            }
        ).requires_grad_(False)
        self.apply(init_linear_)
        for table in (self.tokens, self.places):
            nn.init.trunc_normal_(table, std=0.02)

    def forward(self, image: Tensor, valid: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """`valid`: (B, H, W) booleans, false where the image is padding only; None for no padding."""
        x = self.stem(pad_to_multiple(image, (PATCH, PATCH)))
        things, maps = self.tokens.expand(len(x), -1, -1), []
        if valid is not None:
            factor = 2 ** (len(self.stages) - len(self.cross_stages))
            valid = resized_mask(valid, (max(x.shape[1] // factor, 1), max(x.shape[2] // factor, 1)))
        for stage, blocks in enumerate(self.stages):
            size, tokens = (x.shape[1], x.shape[2]), torch.cat([x.flatten(1, 2), things], dim=1)
            context = self._context(stage, size, valid, x)
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                tokens = block(tokens, size, self.places, *context)
            x = tokens[:, : -things.shape[1]].unflatten(1, size)
            things = tokens[:, -things.shape[1] :]
            maps.append(x)
            if stage < len(self.merging):
                merging = self.merging[stage]
                assert isinstance(merging, PatchMerging)
                x = merging(x)
                if stage + 1 < len(self.stages):
                    things = merging.reduction(merging.norm(things.repeat(1, 1, 4)))
        return (maps if x is maps[-1] else [*maps, x]), things

    def _context(self, stage: int, size: Size, valid: Tensor | None, like: Tensor) -> tuple[Tensor | None, ...]:
        """In cross stages the patches' positions (1 or B, H W, C), and what is added to scores (B, 1, 1, H W + D)."""
        dim = self.dims[stage]
        if stage not in self.cross_stages:
            return None, None
        if valid is None:
            return sine_position(*size, dim, like.device).flatten(0, 1)[None].to(like.dtype), None
        inside = resized_mask(valid, size)
        wave = sine_position_within(inside, dim).flatten(1, 2).to(like.dtype)
        hidden = MASKED * (~inside).flatten(1).to(like.dtype)
        return wave, F.pad(hidden, (0, self.tokens.shape[1]))[:, None, None]


def resized_mask(mask: Tensor, size: Size) -> Tensor:
    """(B, H, W) booleans -> (B, h, w), each the nearest one."""
    if mask.shape[1:] == size:
        return mask
    return F.interpolate(mask[:, None].float(), size=size, mode="nearest")[:, 0] > 0.5
