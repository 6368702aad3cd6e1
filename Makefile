# Everything from a fresh checkout: `make run` and `make test` need Python 3.11 and pip, and set the rest up.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run test test-slow check bench chaos docs clean

# The first of these that is 3.11; another one by `make run PYTHON=/path/to/python3.11`.
PYTHON ?= $(shell for one in python3.11 python3 python; do \
	"$$one" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null && { echo "$$one"; break; }; done)
# More for pip, such as --extra-index-url https://download.pytorch.org/whl/cpu (no CUDA libraries: 200 MB instead of 3 GB).
PIP_FLAGS ?=
# What pytest gets on top, such as ARGS='-k cascade -x'.
ARGS ?=

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/ready

help:  ## what there is
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | while IFS=$$'\t' read -r name does; do printf '  make %-10s %s\n' "$$name" "$$does"; done

# The stamp is written last, so that an install that was cut off is done again; it is older than an edited pyproject.toml.
$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "raydistill needs Python 3.11: none of python3.11, python3, python is it (make PYTHON=...)" >&2; exit 2; }
	@test -x $(PY) || "$(PYTHON)" -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --editable '.[all]'
	@touch $@

run: $(READY)  ## the whole chain on the default recipe: teacher, student, report, an answer over HTTP
	@$(PY) -m jobs run digits

test: $(READY)  ## the fast tests
	@$(PY) -m pytest --ignore=tests/benchmarks --ignore=tests/chaos -m "not slow" $(ARGS)

test-slow: $(READY)  ## the rest: whole runs, kills, HTTP under load
	@$(PY) -m pytest --ignore=tests/benchmarks --ignore=tests/chaos -m slow --durations=20 --durations-min=20 $(ARGS)

check: $(READY)  ## lint, format and types
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy

bench: $(READY)  ## measurements beside other tools, into docs/benchmarks.md
	@test -d tests/benchmarks || { echo "no benchmark is written yet" >&2; exit 1; }
	@$(PY) -m pytest tests/benchmarks $(ARGS)

chaos: $(READY)  ## the hard tests: kills at random moments, over and over
	@$(PY) -m pytest tests/chaos $(ARGS)
	@RAYDISTILL_SOAK_S=600 RAYDISTILL_RECORD=1 $(PY) -m pytest tests/serving/deployment/test_live.py \
		tests/serving/deployment/test_split_mode.py -k "overload or killed" $(ARGS)

docs: $(READY)  ## write docs/recipes.md and the README's tables from the code
	@$(PY) -m jobs.after.reference

clean:  ## remove what runs and tools left, but not the environment (.venv) nor your store (runs/)
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
