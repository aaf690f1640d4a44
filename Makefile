# Everything on a fresh machine: `make run` and `make test` make .venv themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# With -c, torch is taken in the one version that constraints.txt names, before any range can pull in a GPU build.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
WORKERS ?= 2
export HF_HUB_DISABLE_TELEMETRY = 1
export TOKENIZERS_PARALLELISM = false

.PHONY: run paper test slow check bench docs clean

run: $(VENV)/mini.stamp
	$(BIN)/cos run mini --out runs/mini --seed 0

# Hours: about thirty models a seed. The same command goes on with it.
SEEDS ?= 0-2
paper: $(VENV)/mini.stamp
	OMP_NUM_THREADS=1 $(BIN)/cos run paper --out runs/paper --seeds $(SEEDS) --jobs 2 --results docs/results.md

# One thread a worker: two workers with two threads each on two cores are slower than either alone.
PYTEST := OMP_NUM_THREADS=1 MPLBACKEND=Agg HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test: $(VENV)/dev.stamp
	$(PYTEST) -m "not slow"

slow: $(VENV)/dev.stamp
	$(PYTEST) -m slow

check: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/mini.stamp
	$(BIN)/python -m benchmarks

# The documentation as a site, in build/site: open index.html, or serve the folder.
docs: $(VENV)/docs.stamp
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "open build/site/index.html"

# The results in runs/ stay.
clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find src tests -name __pycache__ -prune -exec rm -rf {} +

$(VENV)/created.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "chain-of-step needs Python 3.11 or newer, and '$(PYTHON)' is not: try make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/mini.stamp: $(VENV)/created.stamp pyproject.toml constraints.txt
	$(INSTALL) "torch==2.13.0"
	$(INSTALL) -e ".[mini,data,serve,ray]"
	@touch $@

$(VENV)/dev.stamp: $(VENV)/mini.stamp
	$(INSTALL) -e ".[dev]"
	@touch $@

$(VENV)/docs.stamp: $(VENV)/created.stamp pyproject.toml
	$(INSTALL) -e ".[docs]"
	@touch $@
