# Shortcuts for the commands of the README.
PYTHON ?= .venv/bin/python

.venv:
	python3 -m venv .venv
	.venv/bin/pip install -q -c constraints.txt -e ".[dev]"

.PHONY: test slow lint format docs
test: .venv
	$(PYTHON) -m pytest -q -n 2 -m "not slow and not gpu"

slow: .venv
	$(PYTHON) -m pytest -q -m "slow and not gpu"

lint: .venv
	.venv/bin/ruff check
	.venv/bin/ruff format --check

format: .venv
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

docs: .venv
	.venv/bin/mkdocs build --strict
