# Two commands do everything on a machine with Python 3.11 or newer: `make demo` and `make test`.
# The work is in the package; a target only makes .venv and calls it.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check setup clean

demo: .venv/runtime
	$(BIN)/ommatid compare digits --models pvt_v2_b0,shvit_s1,efficientvit_m2 --recipe quick --out runs/demo

test: .venv/dev
	$(BIN)/python -m pytest -n auto --dist worksteal

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

setup: .venv/dev

.venv/bin/pip:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv

.venv/runtime: .venv/bin/pip pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/dev: .venv/runtime
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache
