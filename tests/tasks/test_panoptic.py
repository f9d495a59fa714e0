"""PQ is that of its definition, and of torchmetrics; a perfect answer reaches one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics.detection import PanopticQuality

from ommatid.data.dense import open_scenes
from ommatid.models.dense import MaskTransformer
from ommatid.tasks.panoptic import Segments, segment_masks, segmented
from ommatid.tasks.panoptic_metrics import SegmentQuality

DOG, CAT, SKY = range(3)


def strip(*segments: int) -> Tensor:
    """One row of pixels."""
    return torch.tensor([segments])


def quality(answer: Tensor, labels: list[int], truth: Tensor, there: list[int], crowd: tuple[int, ...] = ()) -> Any:
    metric = SegmentQuality(3, [SKY])
    crowds = torch.tensor([number in crowd for number in range(1, len(there) + 1)], dtype=torch.bool)
    expected = {"segments": truth, "labels": torch.tensor(there, dtype=torch.long), "crowd": crowds}
    metric.update([{"segments": answer, "labels": torch.tensor(labels, dtype=torch.long)}], [expected])
    return metric


def test_an_example_by_hand() -> None:
    # Sky of 4 pixels is found by 5 (overlap 4/5); one dog of two is found whole, the other is told to be a cat.
    truth = strip(1, 1, 1, 1, 2, 2, 2, 3, 3, 3)
    answer = strip(1, 1, 1, 1, 1, 2, 2, 3, 3, 3)
    metric = quality(answer, [SKY, DOG, CAT], truth, [SKY, DOG, DOG])
    pq, sq, rq = metric.by_class()
    # Dogs: one found (2/3), one missed; cats: one wrong; sky: found.
    torch.testing.assert_close(sq, torch.tensor([2 / 3, 0, 4 / 5], dtype=torch.float64))
    torch.testing.assert_close(rq, torch.tensor([1 / 1.5, 0, 1], dtype=torch.float64))
    torch.testing.assert_close(pq, sq * rq)
    means = metric.compute()
    assert means["pq"].item() == pytest.approx((4 / 9 + 0 + 4 / 5) / 3)
    assert means["pq_things"].item() == pytest.approx(2 / 9)
    assert means["pq_stuff"].item() == pytest.approx(4 / 5)


def test_half_is_not_enough() -> None:
    metric = quality(strip(1, 1, 1, 2), [DOG, SKY], strip(1, 1, 2, 2), [DOG, SKY])
    assert metric.compute()["pq"].item() == pytest.approx((2 / 3 + 0) / 2)  # sky: 1 pixel of 2


def test_pixels_without_a_segment_are_not_judged() -> None:
    # Half of what is told to be a dog is nowhere in the truth; a cat is only there.
    metric = quality(strip(1, 1, 1, 1, 2, 2), [DOG, CAT], strip(1, 1, 0, 0, 0, 0), [DOG])
    assert metric.by_class()[0, DOG] == 1
    assert metric.by_class()[0, CAT].isnan()
    assert metric.compute()["pq"] == 1


def test_what_is_told_in_a_crowd_of_its_class_is_no_mistake() -> None:
    truth = strip(1, 1, 1, 2, 2, 2)
    own = quality(strip(1, 1, 1, 2, 2, 2), [DOG, SKY], truth, [DOG, SKY], crowd=(1,))
    assert own.compute()["pq"] == 1
    assert own.by_class()[0, DOG].isnan()
    other = quality(strip(1, 1, 1, 2, 2, 2), [CAT, SKY], truth, [DOG, SKY], crowd=(1,))
    assert other.by_class()[0, CAT] == 0


def test_an_empty_answer_misses_all() -> None:
    metric = quality(strip(0, 0, 0, 0), [], strip(1, 1, 2, 2), [DOG, SKY])
    assert metric.missed.tolist() == [1, 0, 1]
    assert metric.compute()["pq"] == 0


def test_nothing_to_find_is_no_number_but_0() -> None:
    metric = quality(strip(0, 0), [], strip(0, 0), [])
    assert {name: value.item() for name, value in metric.compute().items()} == dict.fromkeys(metric.compute(), 0)


def test_it_is_the_number_of_torchmetrics() -> None:
    generator = torch.Generator().manual_seed(0)
    # What an answer leaves empty is a class of its own: to torchmetrics it would excuse what is missed.
    peer = PanopticQuality({0, 1, 2, 3}, {4, 5, 6}, return_per_class=True, return_sq_and_rq=True)
    ours = SegmentQuality(6, [4, 5])
    for _ in range(6):
        truth = torch.zeros(60, 80, dtype=torch.long)
        for number in range(1, 13):
            top, left = (int(torch.randint(0, most, (), generator=generator)) for most in (50, 70))
            truth[top : top + 20, left : left + 20] = number
        truth[50:], truth[:3], truth[20:24] = 13, 14, 0
        labels = torch.cat([torch.randint(0, 4, (12,), generator=generator), torch.tensor([4, 5])])
        told = labels.clone()
        told[torch.randint(0, 12, (3,), generator=generator)] = 2
        answer = truth.roll((2, 1), (0, 1))
        crowd = torch.zeros(14, dtype=torch.bool)
        ours.update([{"segments": answer, "labels": told}], [{"segments": truth, "labels": labels, "crowd": crowd}])
        peer.update(pairs(answer, told, 6), pairs(truth, labels, -1))
    torch.testing.assert_close(ours.by_class().T, peer.compute()[:6])
    assert 0.2 < ours.compute()["pq"] < 0.9


def pairs(segments: Tensor, labels: Tensor, none: int) -> Tensor:
    classes = torch.cat([torch.tensor([none]), labels])
    return torch.stack([classes[segments], segments], -1)[None]


class Oracle(MaskTransformer):
    """Answers with the truth that it was given, at half of the size."""

    def __init__(self, truth: list[dict[str, Any]]) -> None:
        torch.nn.Module.__init__(self)
        self.truth = truth

    def panoptic(
        self, image: Tensor, *, things: tuple[int, ...] | None = None, score_threshold: float = 0.8
    ) -> list[dict[str, Tensor]]:
        step = self.truth[0]["segments"].shape[-1] // image.shape[-1]
        return [
            {
                "segments": one["segments"][::step, ::step],
                "labels": one["labels"],
                "scores": torch.ones(len(one["labels"])),
            }
            for one in self.truth
        ]

    def losses(self, image: Tensor, targets: Any) -> dict[str, Tensor]:
        assert image.shape[-2:] == targets[0]["masks"].shape[-2:]
        return {"one": image.new_tensor(1.0), "two": image.new_tensor(2.0)}


@pytest.mark.parametrize("sides", [(96, 128), (48, 64)])
def test_the_truth_is_worth_one_and_follows_its_image(sides: tuple[int, int]) -> None:
    data = open_scenes("scenes", "segments")
    truth = [{name: value.as_subclass(Tensor) for name, value in data.val[index][1].items()} for index in range(3)]
    images = torch.rand(3, 3, 96, 128)
    objective = Segments(sides, len(data.classes), (0,))
    losses = objective.judge(Oracle(truth), (images, truth), kept=2)
    assert losses.tolist() == [3, 3]
    assert objective.metrics.compute()["pq"].item() == pytest.approx(1, abs=0 if sides[0] == 96 else 0.15)
    (answer, *_) = segmented(Oracle(truth), images, sides, objective.things)
    assert answer["segments"].shape == (96, 128)


def test_masks_leave_out_crowds_and_what_has_no_pixel() -> None:
    truth = {"segments": strip(1, 1, 3, 0), "labels": torch.tensor([5, 6, 7]), "crowd": torch.tensor([False] * 3)}
    (target,) = segment_masks([truth])
    assert target["labels"].tolist() == [5, 7]
    assert target["masks"].tolist() == [[[True, True, False, False]], [[False, False, True, False]]]
    (target,) = segment_masks([truth | {"crowd": torch.tensor([True, False, False])}])
    assert target["labels"].tolist() == [7]
