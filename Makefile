# make demo: detect in sample photos     make test: run the tests     (both set up .venv first)
PYTHON ?= python3
PY := .venv/bin/python
WORKERS ?= 2
# byte code is kept, whatever the shell says: without it each process of a test compiles detectron2 and the tests anew
PYTEST := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(WORKERS) --dist loadfile

.PHONY: help setup demo test check lint doctor clean

help:
	@echo "make setup | demo | test | check (lint and quick tests) | lint | doctor | clean"

setup:
	@$(PYTHON) tools/setup_env.py

demo: setup
	$(PY) tools/demo.py --samples --output output/demo

test: setup
	$(PYTEST) --durations=25

check: setup lint
	$(PYTEST) -m "not slow"

lint: setup
	$(PY) -m ruff check .
	$(PY) -m codespell_lib

# needs no setup: it says what is missing
doctor:
	@$$(test -x $(PY) && echo $(PY) || echo $(PYTHON)) tools/doctor.py

clean:
	rm -rf output build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
