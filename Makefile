# `make setup` makes .venv, `make demo` shows the whole way, `make test` is what CI runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo check test trial clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --config-settings editable_mode=compat \
		--editable '.[dev]'  # compat: a folder named autotimm where Python starts must not win over the package
	touch $@

demo: setup
	$(BIN)/python examples/demo.py

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu and not slow" \
		--numprocesses auto --maxprocesses 4 --dist loadfile  # a process a core, each with one thread of torch

# Trains on the reference data in ../shared for some minutes; not part of CI.
trial: setup
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache runs
