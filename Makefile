# Two commands: `make run` and `make test`. Each sets up what it needs in .venv and says what it does.
PYTHON ?= python3
# A build of torch of your own choice: make TORCH=torch==2.9.0
TORCH  ?= torch==2.13.0
VENV   := .venv
BIN    := $(VENV)/bin
SEEDS  ?= 1-3
# Processes that run tests; each has one thread of the framework. Where a test wants two, the one that waits gives the
# processor to the other process.
JOBS   ?= 2
OPENMP := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive

.PHONY: help run results docs docs-serve vectors test test-long fuzz bench check dist constraints format install develop clean
help:            ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(VENV)/.installed: pyproject.toml
	@echo "Setting up $(VENV) (once; about a minute) ..."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[cli]"
	@touch $@

# Flower with Ray, Triton and the checkers: many times what a run needs.
$(VENV)/.developed: $(VENV)/.installed constraints.txt
	@echo "Adding what tests need (once; some minutes) ..."
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[cli,dev]"
	@touch $@

install: $(VENV)/.installed  ## Set up the virtual environment for runs
develop: $(VENV)/.developed  ## The same, with what tests, benchmarks and formatting need

run: install     ## FedAvg and FedMRN side by side on digits: a table, and plots in runs/digits
	$(BIN)/fedmrn compare digits --seeds $(SEEDS) --resume

results: install ## Tables and figures of docs/results.md and docs/results/, from their records
	$(BIN)/fedmrn results docs/results

vectors: install ## Test vectors of the wire format, the same bytes each time; a new codec or frame joins them
	$(BIN)/python vectors/make.py

docs: develop    ## The documentation site, into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

docs-serve: develop  ## The same on http://127.0.0.1:8000, built anew whenever a page changes
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve --watch src

check: develop   ## Formatting, lint, types, import layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check      ## Everything that CI checks
	$(OPENMP) $(BIN)/python -m pytest -n $(JOBS) --dist loadgroup --no-loadscope-reorder --cov --cov-report=term:skip-covered --cov-fail-under=95

test-long: develop  ## What takes minutes of waiting: the bytes on a socket, fedmrn against stock Flower
	$(OPENMP) $(BIN)/python -m pytest -m long -rA

fuzz: develop    ## Fuzz what reads bytes from outside, a minute each (ARGS=--help, ARGS="frame --runs 10000000"); Linux on x86-64
	OMP_NUM_THREADS=1 $(BIN)/python tests/fuzz/run.py $(ARGS)

bench: develop   ## Time everything against its baselines (ARGS=--help); a quarter of an hour, best on a quiet machine
	$(BIN)/python bench/suite.py $(ARGS)

format: develop  ## Rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

dist: develop    ## Wheel and source distribution in dist/, built in an environment of their own and checked
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

constraints: install  ## constraints.txt anew: the newest that pip finds for the tests; installs nothing
	$(BIN)/pip install --quiet --disable-pip-version-check --dry-run --ignore-installed --report .newest.json "$(TORCH)" ".[cli,dev]"
	$(BIN)/python .ci/constraints.py .newest.json
	rm .newest.json
	@echo "constraints.txt is new; next: make test"

clean:           ## Remove what was built; results in runs/ stay
	rm -rf $(VENV) build dist site .newest.json .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache src/*.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
