# Everything runs in .venv, which the first target that needs it makes; installing again follows pyproject.toml.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python -m
INSTALLED := $(VENV)/.installed
# Files of tests go to processes that have a core each: small models gain nothing from a second thread.
PROCESSES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(RUN) pytest -n $(PROCESSES) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo study docs test slow lint clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(INSTALLED) ## distil a student on this machine, ten minutes on two CPU cores; SEEDS=3 repeats it
	@$(RUN) pd_lightning.demo $(if $(SEEDS),--seeds $(SEEDS))

study: $(INSTALLED) ## a small study of the design space, half an hour on two CPU cores
	@$(RUN) pd_lightning study --config configs/study/quick.yaml --workers 2

test: $(INSTALLED) ## run the tests, in two processes; PROCESSES=8 takes eight
	@$(PYTEST)

slow: $(INSTALLED) ## run the tests that take long
	@$(RUN) pytest -m slow

docs: $(INSTALLED) ## build the documentation into site/, every warning an error
	@NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict --quiet
	@echo "Open site/index.html; its search needs a server: $(RUN) http.server -d site"

lint: $(INSTALLED) ## check lint, format and types
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy

clean: ## remove .venv, caches and build folders; runs/ stays
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

# pip leaves no bytecode behind where PYTHONDONTWRITEBYTECODE is set: every start would then compile some 10,000 files.
# Some packages ship templates that are no Python, hence `|| true`.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
	    "Python must be 3.10 or newer, got %d.%d. Run make with PYTHON=python3.12, say." % sys.version_info[:2])'
	@echo "Installing into $(VENV): about 6 GB with torch, 3 to 8 minutes."
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) pip install --quiet --disable-pip-version-check -e '.[dev]'
	@$(RUN) compileall -qq -j 0 $(VENV)/lib || true
	@touch $@
