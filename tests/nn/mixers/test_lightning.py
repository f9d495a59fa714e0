import pytest
import torch
from torch import nn

from ommatid.nn.mixers import GatedLightningAttention, LightningAttention

TOKENS = torch.randn(2, 90, 24, generator=torch.Generator().manual_seed(0))
MIXERS = {
    "low_rank_gate": lambda: LightningAttention(24, 3),
    "plain_gate": lambda: GatedLightningAttention(24, 3, hidden=30),
    "rotary": lambda: GatedLightningAttention(24, 3, rotary=True),
}


@pytest.fixture(params=MIXERS)
def mixer(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return MIXERS[request.param]()


def test_only_distances_matter(mixer: nn.Module) -> None:
    """Tokens of zeros in front leave no trace, and all others where they were to each other."""
    later = mixer(nn.functional.pad(TOKENS, (0, 0, 7, 0)))[:, 7:]
    torch.testing.assert_close(later, mixer(TOKENS), atol=1e-4, rtol=1e-3)


def test_no_token_sees_later_ones(mixer: nn.Module) -> None:
    changed = torch.cat([TOKENS[:, :70], torch.ones(2, 20, 24)], dim=1)
    torch.testing.assert_close(mixer(changed)[:, :70], mixer(TOKENS)[:, :70])
