# `make bench` and `make test` need no preparation: they set up .venv by themselves.
#
# Variables, as in `make bench BATCHES=1 TARGET=llvm`:
#   MODELS   what bench runs: names out of the zoo, with commas
#   BATCHES  and at which batch sizes
#   TARGET   llvm, cuda, or auto: cuda where there is a GPU
#   JOBS     processes that run tests; auto: one for each core
#   ARGS     further arguments, for pytest or for the benchmark
#   PYTHON   makes .venv: Python 3.10 to 3.13
#   PY       runs everything as it is: nothing is made, nothing installed
MODELS  ?= resnet18
BATCHES ?= 1,16
TARGET  ?= auto
ARGS    ?=
JOBS    ?= auto
PYTHON  ?= python3

VENV := .venv
ifeq ($(origin PY),command line)
READY :=
else
PY    := $(VENV)/bin/python
READY := $(VENV)/.ready
endif
# Where there is a GPU, NVRTC and the CUDA runtime are installed as well.
EXTRAS ?= dev$(shell command -v nvidia-smi >/dev/null && echo ,cuda)

# Every family, at sizes that fill no tile, and a spread of configurations.
SANITIZED := tests/schedules/families/test_families.py -k "onnxruntime_gives or spread_of_the_space"

.DEFAULT_GOAL := help
.PHONY: setup bench test test-gpu test-slow test-faults sanitize lint format size docs clean help

setup: $(READY) ## Makes .venv, with all that the other targets need

$(VENV)/.ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 10) <= v < (3, 14) or sys.exit( \
	  "Python %d.%d will not do. Note: tvmconv needs 3.10 to 3.13. Hint: make PYTHON=..." % v)'
	@echo 'Setting up $(VENV), about 750 MB. This takes a minute or two, and once only.'
	@$(VENV)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --editable '.[$(EXTRAS)]'
	@touch $@

bench: $(READY) ## ResNet-18, checked and timed; also MODELS= BATCHES= TARGET=
	$(PY) -m benchmarks.bench --models $(MODELS) --batches $(BATCHES) --target $(TARGET) $(ARGS)

test: $(READY) ## The tests that need no GPU and little time
	$(PY) -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-gpu: $(READY) ## The tests that need a GPU
	$(PY) -m pytest -m gpu $(ARGS)

test-slow: $(READY) ## The tests that take long
	$(PY) -m pytest -n $(JOBS) --dist worksteal -m 'slow and not gpu' $(ARGS)

test-faults: $(READY) ## Plants faults, and shows that the tests notice each; JOBS= at a time
	$(PY) -m tests.faults.run --jobs $(JOBS) $(ARGS)

sanitize: $(READY) ## compute-sanitizer over every family; needs a GPU
	compute-sanitizer --tool memcheck --error-exitcode 9 $(PY) -m pytest -m gpu $(SANITIZED) $(ARGS)
	compute-sanitizer --tool racecheck --error-exitcode 9 $(PY) -m pytest -m gpu $(SANITIZED) $(ARGS)

lint: $(READY) ## ruff, mypy, and the direction of imports
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-cache

format: $(READY) ## Formats all code, and mends what ruff can mend
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

size: ## Lines of every file; marks long files and long functions
	@$(if $(READY),$(PYTHON),$(PY)) tests/size.py

docs: $(READY) ## Writes the pages and pictures of docs/ that are made out of the code
	$(PY) docs/generate.py

clean: ## Removes all that was built, and .venv
	rm -rf build dist $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

help: ## Lists the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
	  awk -F'|' '{printf "%-11s %s\n", $$1, $$2}'
