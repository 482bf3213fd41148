# Each target sets up all that it needs and can be run again after an interruption.
#   make bench                     time the current commit, print the table, build the dashboard
#   make test                      run the tests
#   make matrix                    run the tests on every torch and Python that is supported: some 20 GB, an hour
#   make examples                  run every example and experiment: half an hour, then some three
#   make bench PYTHON=python3      use an environment that has torch, asv and pytest already
VENV := .venv
PYTHON ?= $(VENV)/bin/python
BASE ?= python3
PIP := "$(VENV)/bin/python" -m pip --disable-pip-version-check

.PHONY: help setup environment bench test slow browser matrix lint format examples clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#  *//p' Makefile

ifeq ($(PYTHON),$(VENV)/bin/python)
setup: $(VENV)/ready
else
setup:
	@"$(PYTHON)" -c "import torch, asv, pytest" || \
	  { echo "$(PYTHON) lacks torch, asv or pytest: install them there, or leave PYTHON= out to have .venv made"; exit 2; }
endif

# The marker is written last, so that an interrupted installation is taken up again.
$(VENV)/ready: constraints.txt pyproject.toml $(wildcard taildropout/selection/_rows.c)
	@"$(BASE)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make $(MAKECMDGOALS) BASE=python3.12"; exit 2; }
	@echo "==> making $(VENV) (about 2 GB with torch; a few minutes the first time)"
	@test -x "$(VENV)/bin/python" || "$(BASE)" -m venv "$(VENV)"
	@$(PIP) install --progress-bar on -c constraints.txt torch setuptools wheel
	@$(PIP) install --progress-bar on -c constraints.txt --no-build-isolation -e ".[bench,examples,lint,plot,prune,test]"
	@touch "$@"

# An environment with TORCH=2.8.0, pinned, newest or nightly, from the index TORCH_INDEX too if that is set (CPU builds are
# smaller). All that does not come with torch is as pinned.
TORCH ?= newest
INDEX := $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)")
environment:
	@"$(BASE)" -m venv "$(VENV)"
	@grep -vE '^(torch|triton|sympy|networkx|fsspec|filelock|setuptools)\b' constraints.txt > "$(VENV)/constraints.txt"
	@$(PIP) install -q --upgrade $(INDEX) $(if $(filter nightly,$(TORCH)),--pre torch,$(if $(filter newest,$(TORCH)),torch,\
	  $(if $(filter pinned,$(TORCH)),-c constraints.txt torch,torch==$(TORCH)))) "setuptools>=77" wheel
	@$(PIP) install -q --no-build-isolation -c "$(VENV)/constraints.txt" -e ".[bench,examples,lint,plot,prune,test]"

bench: setup
	@"$(PYTHON)" -m benchmarks run --profile quick
	@"$(PYTHON)" -m benchmarks dashboard

# As many processes as cores, each of them with one thread.
WORKERS ?= auto
test: setup
	@"$(PYTHON)" -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not browser and not night" \
	  $(if $(REPORT),--junitxml="$(REPORT)") $(ARGS)
	@echo "All held. Next: 'make bench' for the speed, 'make slow' for the statistical tests at full size."

slow: setup
	@"$(PYTHON)" -m pytest -n $(WORKERS) --dist worksteal -m slow $(ARGS)

# The dashboard in a real browser: needs Chromium and npm.
browser: setup
	@"$(PYTHON)" -m pytest -m browser $(ARGS)

matrix:
	@"$(BASE)" .ci/matrix.py --write docs/compatibility.md

lint: setup
	@"$(PYTHON)" -m ruff format --check .
	@"$(PYTHON)" -m ruff check .
	@"$(PYTHON)" -m mypy

format: setup
	@"$(PYTHON)" -m ruff format .
	@"$(PYTHON)" -m ruff check --fix .

EXAMPLES := law masks marginal pca autoencoder width classifier overfit rates
EXPERIMENTS := moons activation_variance feedforward language_model fashion_mlp

# The last three take up to an hour each on one core; all can be interrupted and run again.
examples: setup
	@set -e; for name in $(EXAMPLES) $(EXPERIMENTS:%=experiments.%); do echo "==> examples.$$name"; "$(PYTHON)" -m examples.$$name; done
	@"$(PYTHON)" -m nbconvert --to notebook --execute --inplace examples/tour.ipynb

clean:
	rm -rf "$(VENV)" .asv build dist *.egg-info
