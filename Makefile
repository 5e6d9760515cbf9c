# Everything a person types. `make demo` and `make test` set themselves up from nothing but Python 3.11-3.13 with venv.
SHELL := /bin/bash
VENV ?= .venv
# The first interpreter that fits; override with `make setup PYTHON=/path/to/python3.12`.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && { command -v $$p; break; }; done)
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done
SCALE ?= full
ARGS ?=
DEMO_JSON ?= demo.json
APPLY ?=

.PHONY: help setup demo readme-table up down logs status optimizer-status optimizer-trigger optimizer-metrics doctor test helm helm-dev helm-oracle helm-nvidia checkov docs lint clean
.DEFAULT_GOAL := help

help: ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1\t/' | expand -t 16

setup: $(STAMP) ## environment with everything pinned (done by the others when needed)

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 with venv found; on Debian: apt-get install python3 python3-venv" >&2; exit 2; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup ## the whole loop on this machine (SCALE=small for a quick one)
	$(BIN)/predator-si demo --scale $(SCALE) $(ARGS)

readme-table: setup ## put the table of a demo's figures (DEMO_JSON=demo.json) into README.md
	$(BIN)/python -m predator_si.proof.readme $(DEMO_JSON) README.md

up: setup ## Dagster, MLflow, search service and reconciler under one supervisor; Ctrl-C ends all
	$(BIN)/predator-si up $(ARGS)

down: setup ## end what `make up` started
	$(BIN)/predator-si down $(ARGS)

logs: setup ## follow the logs of `make up`
	$(BIN)/predator-si logs --follow $(ARGS)

status: setup ## champion, cycle, kill switch, processes
	$(BIN)/predator-si status $(ARGS)

optimizer-status: setup ## what the loop does now, by the REST API
	$(BIN)/predator-si optimizer status $(ARGS)

optimizer-trigger: setup ## begin a cycle (ARGS="--force" insists)
	$(BIN)/predator-si optimizer trigger $(ARGS)

optimizer-metrics: setup ## the newest metrics with their intervals
	$(BIN)/predator-si optimizer metrics $(ARGS)

doctor: setup ## what is missing and how to get it
	$(BIN)/predator-si doctor $(ARGS)

# Two workers for tests in process, one thread of arithmetic each; then, alone, those that start processes and look at the clock. Exit code 5 is pytest's "no
# such test" (of a choice in ARGS), 1 "some failed": those are run once more with nothing beside them, and named; what fails twice fails.
test: setup ## every test that needs no other machine
	@status=0; \
	note() { case $$1 in 0|5) ;; 1) [ $$status = 2 ] || status=1 ;; *) status=2 ;; esac; }; \
	OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --cache-clear --ignore predator_si_tests/live $(if $(REPORTS),--junitxml=$(REPORTS)/in-process.xml) $(ARGS); note $$?; \
	$(BIN)/python -m pytest predator_si_tests/live $(if $(REPORTS),--junitxml=$(REPORTS)/live.xml) $(ARGS); note $$?; \
	if [ $$status = 1 ]; then \
	  printf '\n== what failed, once more and alone: a test that passes now was disturbed by its neighbours, and wants mending all the same\n'; \
	  $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -rA --show-capture no; status=$$?; \
	fi; \
	exit $$status

helm: setup ## Helm 4, found or fetched
	$(BIN)/predator-si chart fetch-helm

helm-dev: helm ## contour dev-mac: render, lint, validate, show what changes (APPLY=1 applies it to kubectl's cluster)
	$(BIN)/predator-si chart check --contour dev-mac $(if $(filter 1,$(APPLY)),--apply) $(ARGS)

helm-oracle: helm ## the same for contour edge-oracle
	$(BIN)/predator-si chart check --contour edge-oracle $(if $(filter 1,$(APPLY)),--apply) $(ARGS)

helm-nvidia: helm ## the same for contour compute-nvidia
	$(BIN)/predator-si chart check --contour compute-nvidia $(if $(filter 1,$(APPLY)),--apply) $(ARGS)

docs: setup ## the documentation's site in build/site; a broken link or a page without a place ends it
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)  # never --quiet: what is not said is not counted

lint: setup ## style, types, import walls
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean: ## remove the environment and caches, never the home folder
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

checkov: helm ## checkov on the rendered contours, in an environment of its own (not part of setup)
	test -x $(VENV)-checkov/bin/checkov || { "$(PYTHON)" -m venv $(VENV)-checkov && $(VENV)-checkov/bin/python -m pip install --quiet 'checkov==3.3.30'; }
	rendered=$$(mktemp -d) && trap 'rm -rf "$$rendered"' EXIT && for contour in dev-mac edge-oracle compute-nvidia; do \
	  $(BIN)/predator-si chart render --contour $$contour > "$$rendered/$$contour.yaml"; done && \
	  $(VENV)-checkov/bin/checkov --skip-download --directory "$$rendered" --config-file deploy/helm/predator-umbrella/checkov.yaml
