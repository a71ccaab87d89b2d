# Each target does its own set-up, which costs nothing once .venv is up to date.
# The same commands without make, for Windows too: CONTRIBUTING.md.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.set-up
EXTRAS := encoders,segmenters,dicom,cluster,cloud,logging,search,tune,wandb,mlflow,scverse,docs,test

.PHONY: setup demo lint types types-windows docs-check test test-full bench docs

setup: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
# An S3 server for the tests, apart: its botocore wants an older python-dateutil than constraints.txt has.
	$(PYTHON) -m venv $(VENV)/s3
	$(VENV)/s3/bin/python -m pip install --quiet 'moto[s3]==5.2.5' flask==3.1.3 flask-cors==6.0.5
	touch $@

demo: setup
	$(BIN)/wsikit demo --out demo

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(MAKE) --no-print-directory -j 2 types types-windows

types: setup
	$(BIN)/mypy --strict wsikit

types-windows: setup
	$(BIN)/mypy --strict --platform win32 --cache-dir .mypy_cache/win32 wsikit

# The notebooks run in the suite, so this build of the docs shows them as they are.
docs-check: setup
	$(BIN)/sphinx-build -q -W --keep-going -D nb_execution_mode=off docs build/docs-check

test:      MARKERS := not slow and not gpu and not weights
test-full: MARKERS := not gpu and not weights
test test-full: lint docs-check
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "$(MARKERS)"

bench: setup
	set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

docs: setup
	$(BIN)/sphinx-build -W --keep-going docs build/docs
	@echo "open build/docs/index.html"
