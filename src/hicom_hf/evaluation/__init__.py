"""Evaluation: benchmarks as small tasks, one runner that encodes each video once, strict scores with intervals.

    from hicom_hf.evaluation import evaluate
    evaluate(["shapes"], "hicom-tiny", "results")

`client.py` is the one client of servers that speak OpenAI's chat protocol; `dataset_building` uses it as well.
"""

from .client import AnswerError, ChatClient, Endpoint, EndpointError, Reply
from .comparing import compare
from .evaluating import evaluate, load_session
from .judging import judge
from .paper import evaluate_paper
from .parsing import parse_choice
from .publishing import write_results
from .questions import Clip, Question
from .results import read_answers
from .runner import Asked, Asking, ask_questions
from .scoring import Score, score_answers
from .subtitles import SubtitleRule
from .tasks import TASKS, Mark, Task, needle_task, task_named

__all__ = [
    "TASKS",
    "AnswerError",
    "Asked",
    "Asking",
    "ChatClient",
    "Clip",
    "Endpoint",
    "EndpointError",
    "Mark",
    "Question",
    "Reply",
    "Score",
    "SubtitleRule",
    "Task",
    "ask_questions",
    "compare",
    "evaluate",
    "evaluate_paper",
    "judge",
    "load_session",
    "needle_task",
    "parse_choice",
    "read_answers",
    "score_answers",
    "task_named",
    "write_results",
]
