import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score
from torch import Tensor, nn
from torch.nn import functional as F

from ommatid.tasks.classification import Classification, classification_metrics


def optimizer(model: nn.Module) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    return sgd, torch.optim.lr_scheduler.ConstantLR(sgd)


def task(average: float = 0.0, label_smoothing: float = 0.0) -> Classification:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 7))
    return Classification(
        model,
        num_classes=7,
        val_samples=10,
        make_optimizer=optimizer,
        label_smoothing=label_smoothing,
        average=average,
    )


def logits_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(200, 7, generator=generator), torch.randint(0, 7, (200,), generator=generator)


def test_metrics_are_those_of_scikit_learn() -> None:
    logits, labels = logits_and_labels()
    metrics = classification_metrics(7)
    for part in (slice(0, 90), slice(90, 200)):
        metrics.update(logits[part], labels[part])
    found = {name: value.item() for name, value in metrics.compute().items()}
    assert found["accuracy"] == pytest.approx(top_k_accuracy_score(labels, logits, k=1))
    assert found["top5"] == pytest.approx(top_k_accuracy_score(labels, logits, k=5))
    assert found["macro_accuracy"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))


def test_top5_of_three_classes_is_all_of_them() -> None:
    metrics = classification_metrics(3)
    metrics.update(torch.eye(3), torch.tensor([1, 2, 0]))
    assert metrics.compute()["top5"] == 1
    assert metrics.compute()["accuracy"] == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_labels_and_their_one_hot_targets_give_the_same_loss(smoothing: float) -> None:
    images, labels = torch.randn(5, 3, 2, 2), torch.tensor([0, 3, 6, 2, 2])
    subject = task(label_smoothing=smoothing)
    hard = subject.training_step((images, labels), 0)
    soft = subject.training_step((images, F.one_hot(labels, 7).float()), 1)
    torch.testing.assert_close(hard, soft)
    torch.testing.assert_close(subject.loss_sum, (hard + soft).detach())


def test_the_average_is_judged_and_not_trained() -> None:
    averaging, plain = task(average=0.9), task()
    assert plain.judged is plain.model
    assert averaging.judged is not averaging.model
    assert not any(parameter.requires_grad for parameter in averaging.judged.parameters())
    assert set(averaging.state_dict()) > {f"model.{name}" for name in averaging.model.state_dict()}
