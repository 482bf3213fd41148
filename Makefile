# Each target installs what it needs and can be run again after an interruption.
#   make bench                     time the current commit, print the table, build the dashboard
#   make test                      run the tests; ARGS="tests/package" runs some
#   make slow                      run the tests that take minutes
#   make browser                   run the tests in a real browser; needs Chromium and npm
#   make docs                      build the site into docs/_build/html, run its examples, check its links
#   make site                      make docs, with the dashboard beside the site
#   make lint                      check format, style and types; make format corrects format and style
#   make ecosystem                 run models and trainers of other libraries, in .venv-ecosystem: about 6 GB
#   make matrix                    run the tests on every supported torch and Python: about 20 GB, an hour
#   make examples                  run all examples (half an hour), then all experiments (about three hours)
#   make bench PYTHON=python3      use an environment that has torch, asv and pytest already
VENV := .venv
PYTHON ?= $(VENV)/bin/python
BASE ?= python3
PIP := "$(VENV)/bin/python" -m pip --disable-pip-version-check

.PHONY: help setup environment bench test slow docs site browser ecosystem matrix lint format examples clean
.DEFAULT_GOAL := help

help:
	@sed -n '/^[^#]/q; s/^# *//p' Makefile

ifeq ($(PYTHON),$(VENV)/bin/python)
setup: $(VENV)/ready
else
setup:
	@"$(PYTHON)" -c "import torch, asv, pytest" || \
	  { echo "$(PYTHON) lacks torch, asv or pytest: install them there, or leave PYTHON= out to have .venv made"; exit 2; }
endif

# The file `ready` is written last, so that an interrupted installation is continued.
$(VENV)/ready: constraints.txt pyproject.toml $(wildcard taildropout/selection/_rows.c)
	@"$(BASE)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one: make $(MAKECMDGOALS) BASE=python3.12"; exit 2; }
	@echo "==> making $(VENV) (about 2 GB with torch; a few minutes the first time)"
	@test -x "$(VENV)/bin/python" || "$(BASE)" -m venv "$(VENV)"
	@$(PIP) install -q -c constraints.txt torch setuptools wheel
	@echo "==> torch is installed; now the other packages"
	@$(PIP) install -q -c constraints.txt --no-build-isolation -e ".[bench,browser,docs,examples,lint,plot,prune,test]"
	@touch "$@"

# Make an environment with TORCH=2.8.0, pinned, newest or nightly. TORCH_INDEX names an additional index, such as that of the
# smaller CPU builds. Packages that torch does not require have the pinned versions.
TORCH ?= newest
OF_TORCH := ^(torch|triton|sympy|networkx|fsspec|filelock|setuptools)\b
INDEX := $(if $(TORCH_INDEX),--extra-index-url "$(TORCH_INDEX)")
environment:
	@"$(BASE)" -m venv "$(VENV)"
	@grep -vE '$(OF_TORCH)' constraints.txt > "$(VENV)/constraints.txt"
	@$(PIP) install -q --upgrade $(INDEX) $(if $(filter nightly,$(TORCH)),--pre torch,$(if $(filter newest,$(TORCH)),torch,\
	  $(if $(filter pinned,$(TORCH)),-c constraints.txt torch,torch==$(TORCH)))) "setuptools>=77" wheel
	@$(PIP) install -q --no-build-isolation -c "$(VENV)/constraints.txt" -e ".[bench,browser,docs,examples,lint,plot,prune,test]"

bench: setup
	@"$(PYTHON)" -m benchmarks run --profile quick
	@"$(PYTHON)" -m benchmarks dashboard

# One process per core, each with one thread.
WORKERS ?= auto
test: setup
	@"$(PYTHON)" -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not browser and not night and not ecosystem" \
	  $(if $(REPORT),--junitxml="$(REPORT)") $(ARGS)
	@echo "All tests passed. Next: 'make bench' for the speed, 'make slow' for the statistical tests at full size."

slow: setup
	@"$(PYTHON)" -m pytest -n $(WORKERS) --dist worksteal -m slow $(ARGS)

# Warnings are errors. The site needs no network: it contains its formulas, fonts and scripts.
SPHINX = PYTHONPATH="$(CURDIR)" "$(PYTHON)" -m sphinx -E -W --keep-going -q $(TAGS)
docs: setup
	@rm -rf docs/_build/html
	@$(SPHINX) -n -b html docs docs/_build/html
	@$(SPHINX) -b doctest docs docs/_build/doctest
	@"$(PYTHON)" docs/links.py docs/_build/html
	@echo "The site is in docs/_build/html; index.html is its first page."

# Build what pages.yml publishes: the site, and beside it the dashboard of the results that nightly runs have stored.
NIGHTS = origin/asv-results
site: setup
	@mkdir -p .asv
	@test -e .asv/results || ! git rev-parse --quiet --verify $(NIGHTS) >/dev/null || \
	  git archive $(NIGHTS) results | tar -x -C .asv
	@if ls .asv/results/*/*.json >/dev/null 2>&1; then \
	  "$(PYTHON)" -m benchmarks dashboard && rm -rf docs/_build/beside && mkdir -p docs/_build/beside && \
	  cp -R .asv/html docs/_build/beside/dashboard && $(MAKE) --no-print-directory docs TAGS="-t dashboard"; \
	else echo "No result is stored yet: the site is without the dashboard."; $(MAKE) --no-print-directory docs; fi

# The dashboard and the site in a real browser: needs Chromium and npm.
browser: setup
	@"$(PYTHON)" -m pytest -m browser $(ARGS)

# An environment of its own: torchvision, which timm needs, asks for one release of torch. Nothing is downloaded but packages.
ECOSYSTEM := .venv-ecosystem
ecosystem: $(ECOSYSTEM)/ready
	@HF_HUB_OFFLINE=1 "$(ECOSYSTEM)/bin/python" -m pytest -n $(WORKERS) --dist worksteal $(or $(ARGS),tests/ecosystem)

# From constraints.txt comes all but what torch asks for.
$(ECOSYSTEM)/ready: constraints.txt tests/ecosystem/constraints.txt pyproject.toml $(wildcard taildropout/selection/_rows.c)
	@test -x "$(ECOSYSTEM)/bin/python" || "$(BASE)" -m venv "$(ECOSYSTEM)"
	@grep -vE '$(OF_TORCH)' constraints.txt | cat - tests/ecosystem/constraints.txt > "$(ECOSYSTEM)/constraints.txt"
	@"$(ECOSYSTEM)/bin/python" -m pip install --progress-bar on $(INDEX) -c "$(ECOSYSTEM)/constraints.txt" torch torchvision setuptools wheel
	@"$(ECOSYSTEM)/bin/python" -m pip install --progress-bar on --no-build-isolation -c "$(ECOSYSTEM)/constraints.txt" \
	  -e ".[ecosystem,prune,test]"
	@touch "$@"

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
EXPERIMENTS := moons activation_variance feedforward language_model one_for_all fashion_mlp

# The last three take up to an hour each on one core. All can be interrupted and run again.
examples: setup
	@set -e; for name in $(EXAMPLES) $(EXPERIMENTS:%=experiments.%); do echo "==> examples.$$name"; "$(PYTHON)" -m examples.$$name; done
	@"$(PYTHON)" -m nbconvert --to notebook --execute --inplace examples/tour.ipynb

clean:
	rm -rf "$(VENV)" "$(ECOSYSTEM)" .asv build docs/_build dist *.egg-info
