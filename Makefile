# The two commands to know: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint check clean help

help:
	@echo "make demo   install, then distil a student on real data (about a minute)"
	@echo "make test   install what tests need, then run them"
	@echo "make lint   style, types, floors between the rooms"
	@echo "make check  lint and test: what CI runs"

demo: $(VENV)/.installed-experiments
	@$(BIN)/python -m experiments.response

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "kdjax needs Python 3.11 or later; say which with: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing kdjax[$*] into $(VENV) (half a minute) ..."
	@$(PIP) --editable '.[$*]'
	@# alone, because it asks for an older orbax-checkpoint and more that it does without
	@said=$$($(PIP) --no-deps jax2onnx 2>&1) || { echo "$$said"; exit 1; }
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
