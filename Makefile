# `make help` lists the targets. Arguments for a command go into ARGS: make train ARGS="model=small seed=3"

ARGS ?=
RUN ?= $(patsubst %/results.json,%,$(firstword $(shell ls -t outputs/runs/*/results.json 2>/dev/null)))
# the newest sweep, or all single runs
RUNS ?= $(or $(patsubst %/,%,$(firstword $(shell ls -td outputs/multirun/*/ 2>/dev/null))),outputs/runs)
# the first interpreter of a version that works: 3.11 to 3.13
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $$p && break; done)
# uv does not read pip's variable for a local folder of wheels
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)

BIN := .venv/bin
PY := $(BIN)/python
ILT := $(BIN)/ilt
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install run test coverage test-slow test-faults lint format check expert demos train evaluate probe report compare seeds adapt search sync dashboard bench docs docs-serve clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; none was found"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(PY) -c constraints.txt -e '.[dev]'
	@touch $@

install: $(INSTALLED)  ## make .venv and install everything into it

run: install  ## the main job with its defaults: shipped expert to scored student
	$(ILT) train

test: install  ## the tests (minutes)
	$(PY) -m pytest -n 2 --dist worksteal $(ARGS)

coverage: install  ## the tests, and how much of the code they run; measuring takes half as long again
	$(PY) -m pytest -n 2 --dist worksteal --cov --cov-report=term $(ARGS)

test-slow: install  ## the slow tests alone: experts trained from nothing, the default run
	$(PY) -m pytest -m slow $(ARGS)

test-faults: install  ## kills, full disks, damaged and foreign files, wrong inputs (ILT_FAULTS_SEED, ILT_FAULTS_KILLS)
	$(PY) -m pytest -m slow tests/faults -s $(ARGS)

lint: install  ## ruff, without changing anything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## ruff, mending what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint  ## lint, and mypy
	$(BIN)/mypy

expert: install  ## train an expert, or find it: make expert ARGS="expert=a2c"
	$(ILT) expert $(ARGS)

demos: install  ## collect demonstrations, or find them
	$(ILT) collect $(ARGS)

train: install  ## one run: make train ARGS="model=small dataset.context_length=16"
	$(ILT) train $(ARGS)

evaluate: install  ## score a run again: make evaluate RUN=outputs/runs/NAME ARGS="seeds=test:100" (default: the newest)
	$(ILT) evaluate run=$(RUN) $(ARGS)

probe: install  ## what a student knows about what its environment hides: make probe RUN=outputs/runs/NAME
	$(ILT) probe run=$(RUN) $(ARGS)

report: install  ## a table and a page over runs: make report RUNS=outputs/multirun/NAME (default: the newest sweep)
	$(ILT) report runs=$(RUNS) $(ARGS)

compare: install  ## several policies on the same seeds: make compare ARGS="+policies.student=outputs/runs/NAME"
	$(ILT) compare $(ARGS)

seeds: install  ## five training seeds of the default experiment, and one table over them
	$(ILT) train -m seed=0,1,2,3,4 hydra/launcher=joblib hydra.sweep.dir=outputs/multirun/seeds $(ARGS)
	$(ILT) report runs=outputs/multirun/seeds

# the five training seeds of every student, two jobs at once on two cores; what is finished is passed over
LEARN = $(ILT) train -m seed=0,1,2,3,4 hydra/launcher=joblib $(ARGS)
HIDDEN = outputs/multirun/adapt
SHIFT = $(ILT) compare policies=unseen env=lunar_lander_nominal
PHYSICS = env.wrappers.randomized_physics

adapt: install  ## students under hidden physics, and without velocities, by context and way to imitate (hours)
	$(LEARN) experiment=adapt dataset.context_length=32,1,4,8,16,64 hydra.sweep.dir=$(HIDDEN)
	$(LEARN) experiment=adapt dataset.context_length=32 imitation=bc,dart hydra.sweep.dir=$(HIDDEN)
	$(LEARN) experiment=adapt dataset.context_length=1 imitation=bc hydra.sweep.dir=$(HIDDEN)
	$(LEARN) experiment=blind dataset.context_length=32,1 hydra.sweep.dir=outputs/multirun/blind
	$(LEARN) experiment=blind dataset.context_length=32,1 imitation=bc '~imitation.rounds' '~imitation.initial_fraction' \
		hydra.sweep.dir=outputs/multirun/blind
	$(ILT) compare policies=adapt env=lunar_lander_hidden name=adapt 'video=[nominal,dagger-K1,dagger-K32]' \
		+subsets.windy=wind_power:0.75:1 +subsets.heavy=gravity:0:0.25
	$(ILT) compare policies=adapt env=lunar_lander_nominal name=adapt-nominal reference=nominal
	$(SHIFT) '+$(PHYSICS).gravity=[-3.5,-3.5]' name=gravity-3
	$(SHIFT) '+$(PHYSICS).gravity=[-11.9,-11.9]' name=gravity-12
	$(SHIFT) '+$(PHYSICS).main_engine_power=[0.8,0.8]' '+$(PHYSICS).side_engine_power=[0.8,0.8]' name=engines-80
	$(SHIFT) '+$(PHYSICS).main_engine_power=[1.2,1.2]' '+$(PHYSICS).side_engine_power=[1.2,1.2]' name=engines-120
	$(ILT) compare policies=blind env=lunar_lander_blind name=blind
	$(ILT) probe run=$$(ls -d $(HIDDEN)/*-mini-K32-*-dagger-s0-*) \
		other=$$(ls -d $(HIDDEN)/*-mini-K1-*-dagger-s0-*)

search: install  ## hyperparameters by Optuna, and the winner from fresh seeds: make search ARGS="search.n_trials=60" (hours)
	$(ILT) train -m sweep=optuna $(ARGS)

sync: install  ## upload the W&B runs that were kept offline; ARGS=dry_run=true only says what that would be
	$(ILT) sync $(ARGS)

dashboard: install  ## the W&B workspace over all runs: saved there, or without a key written to outputs/dashboard.json
	$(ILT) dashboard $(ARGS)

bench: install  ## how fast each stage is, beside limits and references of the same run (prints): make bench only=score
	$(PY) -m tests.benchmarks $(if $(only),only=$(only)) $(ARGS)

# otherwise Material prints a banner about MkDocs 2
MKDOCS = NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs

docs: install  ## the documentation site, in outputs/site; any warning is an error
	$(MKDOCS) build --strict --quiet -f docs/mkdocs.yml
	@echo outputs/site/index.html

docs-serve: install  ## the documentation site on http://127.0.0.1:8000, built again at each change
	$(MKDOCS) serve -f docs/mkdocs.yml

clean:  ## take away the environment and caches; never outputs/
	rm -rf .venv .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './outputs/*' -prune -exec rm -rf {} +
