# The verbs of this project. Each sets up what it needs in .venv; nothing but Python and make is asked for.

PYTHON ?= python3
BIN := .venv/bin
# one thread a process: the tests' models are smaller than what a second thread costs
TEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

.PHONY: install demo demo-full test soak check format bench clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install ## the main job on this machine: grow, recover, tune, align, merge, evaluate, report
	$(BIN)/dusk demo --out runs/demo

demo-full: install ## the same with five seeds and paired intervals
	$(BIN)/dusk demo --full --out runs/demo-full

test: install
	$(TEST) -m 'not soak'

soak: install ## kills, fuzzing and grids; DUSK_SOAK=short for the form that CI runs
	$(TEST) -m soak

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .

bench: install
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist runs
