# The verbs of this project. Each sets up what it needs in .venv; nothing but Python and make is asked for.

PYTHON ?= python3
BIN := .venv/bin
# one thread a process: the tests' models are smaller than what a second thread costs
TEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest

.PHONY: install base demo demo-full test soak check format bench clean

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

test: install ## on all cores; the tests of a file stay together, since they share what they made
	$(TEST) --numprocesses logical --maxprocesses 8 --dist loadfile -m 'not soak'

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

base: install ## the shipped base model again (40 minutes), in runs/base
	$(BIN)/dusk data documentation runs/base/docs
	$(BIN)/dusk data arithmetic runs/base/problems --problems 12000 --seed 0
	$(BIN)/dusk pretrain runs/base/constant --from-scratch recipes/base/config.json \
	  --data runs/base/docs/base.jsonl --data runs/base/problems/text.jsonl \
	  --eval-data runs/base/docs/heldout.jsonl --eval-every-tokens 4M \
	  --optimizer muon --learning-rate 0.015 --schedule constant --warmup 0.01 \
	  --batch-tokens 4096 --sequence-length 256 --tokens 22M --threads 1
	$(BIN)/dusk pretrain runs/base/constant runs/base/decayed \
	  --data runs/base/docs/base.jsonl --data runs/base/problems/text.jsonl \
	  --eval-data runs/base/docs/heldout.jsonl --seed 1 \
	  --optimizer muon --learning-rate 0.015 --schedule wsd --warmup 0.02 --decay 0.98 \
	  --batch-tokens 4096 --sequence-length 256 --tokens 600k --threads 1

bench: install
	$(BIN)/python -m bench

clean:
	rm -rf .venv build dist runs
