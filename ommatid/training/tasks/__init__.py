"""What models can be trained for: one file per task, and the list of them."""

from ommatid.models.config import require
from ommatid.training.tasks.classification import ClassificationTask
from ommatid.training.tasks.detection import BOXES, MASKS
from ommatid.training.tasks.panoptic import SEGMENTS
from ommatid.training.tasks.pretraining import PretrainingTask
from ommatid.training.tasks.restoration import RestorationTask
from ommatid.training.tasks.segmentation import PIXELS
from ommatid.training.tasks.task import Task, TaskData

_ALL: tuple[Task, ...] = (ClassificationTask(), RestorationTask(), PIXELS, BOXES, MASKS, SEGMENTS, PretrainingTask())

TASKS: dict[str, Task] = {task.name: task for task in _ALL}

__all__ = ["TASKS", "Task", "TaskData", "find_task"]


def find_task(name: str) -> Task:
    """Raises ValueError, naming those there are, for a task that there is not."""
    require(name in TASKS, "task", name, ", ".join(TASKS))
    return TASKS[name]
