import pytest
import torch
from torch import Tensor, nn

from ommatid.models.config import PartConfig
from ommatid.models.restorer import Restorer
from ommatid.tasks.restoration import Fidelity, reduced
from ommatid.tasks.restoration_losses import charbonnier, l1
from ommatid.tasks.restoration_metrics import psnr_y


class WithDraft(Restorer):
    """Doubles the brightness, and offers a draft of half the size."""

    def restore(self, image: Tensor) -> Tensor:
        return 2 * image

    def restorations(self, image: Tensor) -> list[Tensor]:
        return [self(image), torch.zeros_like(image[..., ::2, ::2])]


def pictures() -> tuple[Tensor, Tensor]:
    return tuple(torch.rand(2, 3, 3, 32, 24, generator=torch.Generator().manual_seed(0)))


def test_the_loss_is_that_of_the_answer_and_of_each_draft() -> None:
    degraded, clean = pictures()
    objective = Fidelity("charbonnier", border=0)
    expected = charbonnier(2 * degraded, clean) + charbonnier(torch.zeros(3, 3, 16, 12), clean[..., 1::2, 1::2])
    torch.testing.assert_close(objective.loss(WithDraft(PartConfig()), (degraded, clean)), expected)
    torch.testing.assert_close(objective.loss(nn.Identity(), (degraded, clean)), charbonnier(degraded, clean))


@pytest.mark.parametrize(("size", "factor"), [(32, 1), (32, 2), (31, 4), (9, 8)])
def test_a_draft_is_compared_with_the_pixels_in_the_middle_of_its_own(size: int, factor: int) -> None:
    rows = torch.arange(size).float().view(1, 1, size, 1).expand(1, 3, size, size)
    shrunk = reduced(rows, torch.zeros(1, 3, size // factor, size // factor))
    assert shrunk[0, 0, :, 0].tolist() == [factor * row + factor // 2 for row in range(size // factor)]


def test_judging_counts_the_kept_pictures_alone() -> None:
    degraded, clean = pictures()
    objective = Fidelity("l1", border=2)
    losses = objective.judge(nn.Identity(), (degraded, clean), kept=2)
    expected = [l1(degraded[index], clean[index]).item() for index in range(2)]
    assert losses.tolist() == pytest.approx(expected)
    found = objective.metrics.compute()["psnr"].item()
    assert found == pytest.approx(psnr_y(degraded[:2], clean[:2], border=2).mean().item())
    assert len(objective.judge(nn.Identity(), (degraded, clean), kept=0)) == 0
