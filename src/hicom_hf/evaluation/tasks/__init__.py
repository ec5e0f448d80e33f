"""The tasks that `hicom eval` knows, one file each."""

from .activitynet_qa import ACTIVITYNET_QA
from .egoschema import EGOSCHEMA, EGOSCHEMA_SUBSET
from .lvbench import LVBENCH
from .mlvu import MLVU_DEV
from .mvbench import MVBENCH
from .needle import NEEDLE, needle_task
from .shapes import SHAPES, SHAPES_CHOICE
from .task import PROTOCOLS, Mark, Protocol, Task
from .videochatgpt import VIDEOCHATGPT
from .videomme import VIDEOMME, VIDEOMME_SUBTITLES

_ALL = (
    SHAPES,
    SHAPES_CHOICE,
    NEEDLE,
    VIDEOMME,
    VIDEOMME_SUBTITLES,
    MVBENCH,
    EGOSCHEMA,
    EGOSCHEMA_SUBSET,
    MLVU_DEV,
    LVBENCH,
    ACTIVITYNET_QA,
    VIDEOCHATGPT,
)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}
"""The tasks by name."""


def task_named(name: str) -> Task:
    """The task of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}; known are {', '.join(TASKS)}")
    return TASKS[name]


__all__ = ["PROTOCOLS", "TASKS", "Mark", "Protocol", "Task", "needle_task", "task_named"]
