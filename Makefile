# Two commands on a fresh machine: `make demo` and `make test`. Both set up .venv by themselves.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
DEMO   := demo
# the ffmpeg that imageio-ffmpeg bundles is used where none is on the PATH
STAMP  := $(VENV)/.installed
# tests, lint, docs and bench need more: linters, OpenCV, servers to push caches to
DEV    := $(VENV)/.installed-dev
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: setup demo test test-slow test-gpu lint docs bench bench-gpu bench-scale clean

setup: $(DEV)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e .
	touch $(STAMP)

$(DEV): $(BIN)/python pyproject.toml constraints.txt
	$(PIP) -e '.[dev]'
	touch $(STAMP) $(DEV)

demo: $(STAMP)
	$(BIN)/feat sample $(DEMO)/clips --force
	cd $(DEMO) && ../$(BIN)/feat extract --videos clips
	cd $(DEMO) && ../$(BIN)/feat train
	cd $(DEMO) && ../$(BIN)/feat eval

# a worker a core, files whole, the longest first; where nothing may be kept compiled, each worker
# and each `feat` that a test starts would compile all modules anew
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test: $(DEV)
	$(PYTEST) -m "not slow"

test-slow: $(DEV)
	$(PYTEST) -m slow

# on a machine with a GPU: every kernel against the CPU's
test-gpu: $(DEV)
	$(BIN)/python -m pytest -m gpu $$(grep -lE 'mark(s=pytest\.mark)?\.gpu' tests/test_*.py)

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

# the site of docs/, in docs/_build; a warning is an error
docs: $(DEV)
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q docs docs/_build

bench: $(DEV)
	$(BIN)/python -m bench

bench-gpu: $(DEV)
	$(BIN)/python -m bench --gpu

# workers of a cluster, very many videos, a cache of a million entries: an hour, 6 GB of disk
bench-scale: $(DEV)
	$(BIN)/python -m bench --scale

clean:
	rm -rf $(DEMO) build docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
