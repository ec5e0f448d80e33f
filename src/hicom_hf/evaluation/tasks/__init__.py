"""The tasks that `hicom eval` knows, one file each."""

from .shapes import SHAPES
from .task import PROTOCOLS, Mark, Protocol, Task

TASKS: dict[str, Task] = {task.name: task for task in (SHAPES,)}


def task_named(name: str) -> Task:
    """The task of a name.

    Raises:
        ValueError: there is none.
    """
    if name not in TASKS:
        raise ValueError(f"there is no task {name!r}; known are {', '.join(TASKS)}")
    return TASKS[name]


__all__ = ["PROTOCOLS", "TASKS", "Mark", "Protocol", "Task", "task_named"]
