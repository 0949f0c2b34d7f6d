# The one task file. `make demo` and `make test` need nothing but Python 3.11 or newer: each makes .venv first if missing.
#
# PYTHON      the interpreter that makes .venv                               make test PYTHON=python3.12
# TORCH       which torch .venv gets                                         make test TORCH=torch==2.14.0
# TORCH_ARGS  more pip options for that one install, such as an index        make test TORCH_ARGS="--index-url ..."
# JOBS        processes that run the tests, a file of them each at a time       make test JOBS=8
# CUDA=1      take a CUDA build of torch although no NVIDIA GPU is seen      make test CUDA=1
PYTHON ?= python3
JOBS ?= 2
TORCH ?= torch==2.13.0
TORCH_ARGS ?=
CUDA ?= $(shell nvidia-smi >/dev/null 2>&1 && echo 1)

BIN := .venv/bin
PYTEST := $(BIN)/pytest --numprocesses $(JOBS) --dist loadfile
INSTALLED := .venv/.installed
EXTRAS := dev,docs,mteb,plot

LOWEST := .venv-lowest
# What the lowest versions have to pass: private names, load, encode parity, train and resume, save and load.
LOWEST_TESTS := tests/test_upstream.py tests/test_versions.py tests/test_transformer.py tests/test_training.py

.PHONY: demo test test-lowest slow thorough lint typecheck format docs bench drill compare help
.DELETE_ON_ERROR:

help: ## list the tasks
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

# Rebuilt when pyproject.toml changes. torch comes before all else and is then held where it is, because on Linux the
# other packages would pull its default build: gigabytes of CUDA, which a machine without a GPU cannot use.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@if [ -z "$(CUDA)" ] && $(BIN)/pip install --dry-run "$(TORCH)" $(TORCH_ARGS) 2>/dev/null | grep -q '^Would install.* nvidia-'; then \
		echo "No NVIDIA GPU here, but pip would fetch the CUDA build of $(TORCH): gigabytes of no use to this machine." >&2; \
		echo "Name PyTorch's CPU index (its web site's 'Get started' page): make ... TORCH_ARGS='--index-url INDEX'" >&2; \
		echo "or set PIP_FIND_LINKS to a folder that holds a CPU wheel, or say CUDA=1 to take the CUDA build after all." >&2; \
		exit 2; \
	fi
	$(BIN)/pip install --quiet "$(TORCH)" $(TORCH_ARGS)
	@$(BIN)/python -c 'import torch; print("torch==" + torch.__version__)' > .venv/constraints.txt 2>/dev/null
	$(BIN)/pip install --quiet --constraint .venv/constraints.txt --editable ".[$(EXTRAS)]"
	@touch $@

demo: $(INSTALLED) ## the paper in miniature, offline: train, evaluate, save, plot (about 10 minutes on two cores)
	$(BIN)/lacos-st demo $(DEMO_ARGS)

test: $(INSTALLED) ## the tests, offline
	$(PYTEST) $(TEST_ARGS)

# torch comes first here too; the lowest that installs without CUDA is the one that .venv has by default.
$(LOWEST)/.installed: pyproject.toml tests/lowest.txt
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet "$$(grep '^torch==' tests/lowest.txt)" $(TORCH_ARGS)
	$(LOWEST)/bin/pip install --quiet --constraint tests/lowest.txt --editable . hypothesis pytest pytest-timeout
	@touch $@

test-lowest: $(LOWEST)/.installed ## a quick part of the tests on the lowest versions that pyproject.toml allows
	$(LOWEST)/bin/pytest $(LOWEST_TESTS) $(TEST_ARGS)

slow: $(INSTALLED) ## the tests marked slow
	$(PYTEST) -m "slow and not thorough" $(TEST_ARGS)

thorough: $(INSTALLED) ## every test, for half an hour or more
	$(PYTEST) -m "slow or not slow" $(TEST_ARGS)

lint: $(INSTALLED) ## format and lint, checked
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(INSTALLED) ## format and lint, mended
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

typecheck: $(INSTALLED) ## mypy, strict
	$(BIN)/mypy

docs: $(INSTALLED) ## the documentation as a site, into site/; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

bench: $(INSTALLED) ## each short benchmark once, adding a row to benchmarks/results; then README's table
	$(BIN)/python -m benchmarks.format
	$(BIN)/python -m benchmarks.parity
	$(BIN)/python -m benchmarks.loading
	$(BIN)/python -m benchmarks.readme

drill: $(INSTALLED) ## 200 kills, full and read-only disks: nothing lost, nothing corrupted; half an hour
	$(BIN)/python -m benchmarks.crash_drill

compare: $(INSTALLED) ## ours against stock, half an hour on idle cores; then README's table
	$(BIN)/python -m benchmarks.training
	$(BIN)/python -m benchmarks.encoding --ways stock ours-8bit ours-float
	$(BIN)/python -m benchmarks.latency
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.prediction
	$(BIN)/python -m benchmarks.curves
	$(BIN)/python -m benchmarks.bloom_7b1
	$(BIN)/python -m benchmarks.readme
