from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ommatid.data import (
    Augmentation,
    DataError,
    ImageData,
    Loader,
    Samples,
    batch_mix,
    eval_transform,
    make_loader,
    open_data,
    train_transform,
)

AUG = Augmentation(crop="padded", crop_padding=1, rand_augment=5, erasing=0.3, mixup=0.5, cutmix=0.5)


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return open_data("digits")


def training(samples: Samples, **options: int) -> Loader:
    settings = {"batch": 64, "seed": 7} | options
    return make_loader(samples, train_transform(AUG, 8), shuffle=True, mix=batch_mix(AUG, 10), **settings)


def epoch_of(loader: Loader, epoch: int) -> list[tuple[Tensor, Tensor]]:
    loader.set_epoch(epoch)
    return list(loader)


def same(one: list[tuple[Tensor, Tensor]], other: list[tuple[Tensor, Tensor]]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_evaluation_gives_every_image_once_in_order(digits: ImageData) -> None:
    transform = eval_transform(8)
    batches = list(make_loader(digits.val, transform, batch=50, shuffle=False, seed=0))
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert labels.tolist() == digits.val.labels
    assert torch.equal(images, torch.stack([transform(digits.val[i][0]) for i in range(len(digits.val))]))


def test_workers_change_nothing(digits: ImageData) -> None:
    alone, helped = training(digits.val), training(digits.val, workers=2)
    for epoch in (0, 1):
        assert same(epoch_of(alone, epoch), epoch_of(helped, epoch))


def test_a_training_resumed_at_an_epoch_sees_the_same_batches(digits: ImageData) -> None:
    through = training(digits.val)
    epochs = [epoch_of(through, epoch) for epoch in range(3)]
    torch.manual_seed(999)
    assert same(epoch_of(training(digits.val), 2), epochs[2])
    assert not same(epochs[1], epochs[2])


def test_the_order_of_a_seed_is_no_other_seeds_later_epoch(digits: ImageData) -> None:
    orders = []
    for seed, epoch in ((7, 0), (7, 1), (8, 0)):
        loader = training(digits.val, seed=seed)
        loader.set_epoch(epoch)
        orders.append(tuple(index for _, index in loader.sampler))
    assert len(set(orders)) == 3


def test_each_seed_augments_an_image_differently(digits: ImageData) -> None:
    transform = train_transform(AUG, 8)
    one, other = (next(iter(make_loader(digits.val, transform, batch=400, shuffle=False, seed=s))) for s in (1, 2))
    assert torch.equal(one[1], other[1])
    assert (one[0] != other[0]).flatten(1).any(1).float().mean() > 0.9


def test_each_epoch_augments_an_image_anew(digits: ImageData) -> None:
    aug = Augmentation(crop="padded", crop_padding=2)
    loader = make_loader(digits.val, train_transform(aug, 8), batch=400, shuffle=False, seed=0)
    (first, _), (second, _) = epoch_of(loader, 0)[0], epoch_of(loader, 1)[0]
    differing = (first != second).flatten(1).any(1).float().mean()
    assert differing > 0.9


def test_the_global_generator_is_left_alone(digits: ImageData) -> None:
    loader = training(digits.val)
    before = torch.get_rng_state()
    list(loader)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("count", [2, 3])
def test_ranks_share_the_batches_of_one_process(digits: ImageData, count: int) -> None:
    plain = train_transform(Augmentation(crop="centre", flip=0), 8)
    whole = make_loader(digits.train, plain, batch=16 * count, shuffle=True, seed=3)
    shares = [
        make_loader(digits.train, plain, batch=16, shuffle=True, seed=3, rank=r, ranks=count) for r in range(count)
    ]
    for (images, labels), *parts in zip(epoch_of(whole, 4), *(epoch_of(s, 4) for s in shares), strict=True):
        joined = torch.stack([part[0] for part in parts], 1).flatten(0, 1)
        assert torch.equal(joined[: len(images)], images)
        assert torch.equal(torch.stack([part[1] for part in parts], 1).flatten()[: len(labels)], labels)


def test_two_ranks_partition_an_epoch(digits: ImageData) -> None:
    shares = [training(digits.train, rank=rank, ranks=2) for rank in (0, 1)]
    indices = [[index for _, index in share.sampler] for share in shares]
    assert set(indices[0]) | set(indices[1]) == set(range(len(digits.train)))
    assert len(set(indices[0]) & set(indices[1])) == len(digits.train) % 2


def test_drop_last(digits: ImageData) -> None:
    assert {len(images) for images, _ in training(digits.val, drop_last=True)} == {64}


def test_lightning_sets_the_epoch(digits: ImageData, tmp_path: Path) -> None:
    import lightning

    class Recorder(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))
            self.seen: dict[int, list[tuple[Tensor, Tensor]]] = {0: [], 1: []}

        def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
            self.seen[self.current_epoch].append(batch)
            return self.weight * batch[0].mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    recorder = Recorder()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", default_root_dir=tmp_path, **quiet)
    trainer.fit(recorder, training(digits.val))
    assert same(recorder.seen[0], epoch_of(training(digits.val), 0))
    assert same(recorder.seen[1], epoch_of(training(digits.val), 1))


def test_batches_that_cannot_be(digits: ImageData) -> None:
    with pytest.raises(DataError, match=r"batch is 0; allowed: 1 or more"):
        training(digits.val, batch=0)
    with pytest.raises(DataError, match=r"do not fill one batch of 4096 on 1 process"):
        training(digits.val, batch=4096, drop_last=True)
