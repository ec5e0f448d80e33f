"""Damaged and hostile inputs of every kind give a right value, a warning or a clear error, within 2 GB and 20 s; see `fuzz/`."""

import os

import pytest
from fuzz.cases import KINDS, Case, problem
from fuzz.forked import Outcome
from fuzz.run import main
from started import Started

TIMES_FOR_10000 = -(-10_000 // sum(number for _, number in KINDS.values()))


def run_fuzz(*arguments):
    # A process of its own, with one thread: forks of a process with threads may wait for a lock that nobody holds.
    with Started(main, [str(argument) for argument in arguments]) as process:
        lines = process.out.read()
        assert process.wait() == 0, lines[-6000:] + process.err.read()[-2000:]
    return lines


def test_crashes_hangs_foreign_errors_and_nameless_ones_are_problems():
    case = Case("0", lambda: None, "a.mp4")
    clear = ("builtins.ValueError", "builtins.Exception")
    assert problem(case, Outcome("value")) is None
    assert problem(case, Outcome("error", error="ValueError: a.mp4 is cut", types=clear)) is None
    assert "does not name a.mp4" in problem(case, Outcome("error", error="ValueError: it is cut", types=clear))
    assert "KeyError" in problem(case, Outcome("error", error="KeyError: a.mp4", types=("builtins.KeyError",)))
    assert "hang" in problem(case, Outcome("hang"))
    assert "signal 11" in problem(case, Outcome("signal", error="signal 11"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="cases are forked")
def test_a_few_hundred_damaged_inputs_give_what_is_allowed():
    lines = run_fuzz().splitlines()
    assert [line.partition(":")[0] for line in lines if line.partition(":")[0] in KINDS] == list(KINDS)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="cases are forked")
@pytest.mark.parametrize("kind", KINDS)
def test_10000_damaged_inputs_give_what_is_allowed(kind):
    run_fuzz(kind, "--seed", 1, "--times", TIMES_FOR_10000)
