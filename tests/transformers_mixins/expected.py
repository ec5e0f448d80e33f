"""The tests of transformers' mixins that HICom's classes do not pass, under the reason why."""

EXPECTED_FAILURES: dict[str, dict[str, tuple[str, ...]]] = {
    "model_cases": {},
    "processor_cases": {},
}
