# `make help` lists the targets. ARGS passes arguments to a command: make train ARGS="model=small seed=3"

ARGS ?=
RUN ?= $(patsubst %/results.json,%,$(firstword $(shell ls -t outputs/runs/*/results.json 2>/dev/null)))
# the newest sweep, or all single runs
RUNS ?= $(or $(patsubst %/,%,$(firstword $(shell ls -td outputs/multirun/*/ 2>/dev/null))),outputs/runs)
# the first interpreter with a supported version: 3.11 to 3.13
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
# uv ignores pip's variable for a local folder of wheels
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

BIN := .venv/bin
PY := $(BIN)/python
ILT := $(BIN)/ilt
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test coverage test-slow test-faults lint format check expert demos train evaluate probe report compare seeds search sync dashboard bench zoo docs docs-serve clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(INSTALLED): pyproject.toml constraints.txt ilt/models/_native.c
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; none was found"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(PY) -c constraints.txt -e '.[dev]'
	@touch $@

install: $(INSTALLED)  ## create .venv and install everything into it

run: install  ## train and score the default student, with the shipped expert
	$(ILT) train

test: install  ## run the tests (minutes)
	$(PY) -m pytest -n 2 --dist worksteal $(ARGS)

coverage: install  ## run the tests and measure their coverage (takes 1.5 times as long)
	$(PY) -m pytest -n 2 --dist worksteal --cov --cov-report=term $(ARGS)

test-slow: install  ## run only the slow tests: experts trained from scratch, the default run
	$(PY) -m pytest -m slow $(ARGS)

test-faults: install  ## test kills, full disks, damaged and malicious files, wrong input (ILT_FAULTS_SEED, ILT_FAULTS_KILLS)
	$(PY) -m pytest -n 2 --dist worksteal -m slow tests/faults $(ARGS)

lint: install  ## check with ruff, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## format with ruff, and fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint  ## lint, and check types with mypy
	$(BIN)/mypy

expert: install  ## train an expert, or reuse it: make expert ARGS="expert=a2c"
	$(ILT) expert $(ARGS)

demos: install  ## collect demonstrations, or reuse them
	$(ILT) collect $(ARGS)

train: install  ## train and score a student: make train ARGS="model=small dataset.context_length=16"
	$(ILT) train $(ARGS)

evaluate: install  ## score a run again: make evaluate RUN=outputs/runs/NAME ARGS="seeds=test:100" (default: the newest)
	$(ILT) evaluate run=$(RUN) $(ARGS)

probe: install  ## probe what a student knows about hidden quantities: make probe RUN=outputs/runs/NAME
	$(ILT) probe run=$(RUN) $(ARGS)

report: install  ## report runs in a table and a page: make report RUNS=outputs/multirun/NAME (default: the newest sweep)
	$(ILT) report runs=$(RUNS) $(ARGS)

compare: install  ## compare policies on the same seeds: make compare ARGS="+policies.student=outputs/runs/NAME"
	$(ILT) compare $(ARGS)

seeds: install  ## run the default experiment with twenty training seeds, and compare them with their expert
	$(ILT) train -m 'seed=range(0,20)' hydra/launcher=joblib hydra.sweep.dir=outputs/multirun/seeds $(ARGS)
	$(ILT) report runs=outputs/multirun/seeds
	$(ILT) compare env=lunar_lander +policies.expert=ppo-091d97b2b3 '+policies.student=outputs/multirun/seeds/lunar_lander-*' margin=5 name=seeds

search: install  ## search hyperparameters with Optuna, and retrain the winner: make search ARGS="search.n_trials=60" (hours)
	$(ILT) train -m sweep=optuna $(ARGS)

sync: install  ## upload offline W&B runs; ARGS=dry_run=true only lists them
	$(ILT) sync $(ARGS)

dashboard: install  ## build the W&B workspace for all runs; without a key, write it to outputs/dashboard.json
	$(ILT) dashboard $(ARGS)

bench: install  ## measure the speed of each stage, its limit and references (prints): make bench only=score
	$(PY) -m tests.benchmarks $(if $(only),only=$(only)) $(ARGS)

zoo: install  ## score the shipped experts on test seeds, with videos (minutes): make zoo ARGS=NAME for one
	$(PY) docs/zoo.py $(ARGS)

# without it, Material prints a banner about MkDocs 2
MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

docs: install  ## build the documentation site in outputs/site; any warning is an error
	$(MKDOCS) build --strict --quiet -f docs/mkdocs.yml
	@echo outputs/site/index.html

docs-serve: install  ## serve the documentation site on http://127.0.0.1:8000, rebuilt on each change
	$(MKDOCS) serve -f docs/mkdocs.yml

clean:  ## delete .venv and caches, but not outputs/
	rm -rf .venv .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './outputs/*' -prune -exec rm -rf {} +
