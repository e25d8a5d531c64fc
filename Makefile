# Every recipe runs from the repository root with relative paths, so that the path of the
# checkout may hold spaces. `make` alone lists what there is.

RECIPE ?= restore
DEVICE ?= cpu
BASELINE ?=
PYTHON ?= python3.11 python3.12 python3.13 python3.14 python3
CHECK_FLAGS ?=
PYTEST_FLAGS ?=
WORKERS ?= 2

BIN := .venv/bin
INSTALLED := .venv/.installed
POCKETGAN := $(BIN)/python -m deploy.main
OUT = build/$(patsubst %.toml,%,$(notdir $(RECIPE)))/$(patsubst %.toml,%,$(notdir $(DEVICE)))
EXPORT = $(OUT)/export
BUNDLE = $(OUT)/bundle

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
# the rooms are folders named like the targets; and what measures latency must not share the cores
.PHONY: help setup train compress deploy inspect check serve gate lint format test test-fast test-arm64 report results clean
.NOTPARALLEL:

ifneq ($(filter gate,$(MAKECMDGOALS)),)
ifeq ($(strip $(BASELINE)),)
$(error which bundle is the baseline? make gate BASELINE=path/to/bundle)
endif
endif

help: ## this list
	@echo "pocketgan: compress image-to-image GANs and deploy them to edge devices"
	@echo
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "variables, with their values now:"
	@echo "  RECIPE=$(RECIPE)    a recipe by name, or the path of a .toml file"
	@echo "  DEVICE=$(DEVICE)        a device profile by name, or the path of a .toml file"
	@echo "  BASELINE=$(BASELINE)         the bundle that \`make gate\` compares with"
	@echo "  CHECK_FLAGS=$(CHECK_FLAGS)      options for \`make check\`; PYTEST_FLAGS=$(PYTEST_FLAGS) for the tests"
	@echo "  WORKERS=$(WORKERS)         files of tests that run side by side"

setup: $(INSTALLED) ## make .venv with the tested versions (the other targets do it when needed)
	@echo ".venv holds the versions of constraints.txt"

train: $(INSTALLED) ## train a teacher, e.g. RECIPE=restore-teacher
	@$(POCKETGAN) train '$(RECIPE)'

compress: $(INSTALLED) ## teacher -> pruned, distilled student, exported to build/RECIPE/DEVICE/export
	@$(POCKETGAN) compress '$(RECIPE)' --device '$(DEVICE)' --out '$(EXPORT)'

deploy: compress ## student -> quantized, compiled, verified bundle in build/RECIPE/DEVICE/bundle
	@$(POCKETGAN) deploy '$(EXPORT)' --device '$(DEVICE)' --out '$(BUNDLE)'

# A bundle that is there is used as it is: on a board it was copied there, without its student.
$(BUNDLE)/manifest.json:
	@$(MAKE) --no-print-directory deploy

inspect: $(INSTALLED) $(BUNDLE)/manifest.json ## what is in the bundle, and why this engine was chosen
	@$(POCKETGAN) inspect '$(BUNDLE)'

report: $(INSTALLED) $(BUNDLE)/manifest.json ## one HTML page of what the bundle does, beside it
	@$(POCKETGAN) report '$(BUNDLE)'

check: $(INSTALLED) $(BUNDLE)/manifest.json ## latency of the bundle on this machine, against its budget
	@$(POCKETGAN) check '$(BUNDLE)' $(CHECK_FLAGS)

serve: $(INSTALLED) $(BUNDLE)/manifest.json ## the bundle over HTTP; POCKETGAN_* variables set it up
	@$(POCKETGAN) serve '$(BUNDLE)'

gate: $(INSTALLED) $(BUNDLE)/manifest.json ## is the bundle slower than BASELINE=path/to/bundle?
	@$(POCKETGAN) gate --baseline '$(BASELINE)' --candidate '$(BUNDLE)'

lint: $(INSTALLED) ## ruff, mypy --strict and the floor plan of the rooms
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports --no-logo

format: $(INSTALLED) ## let ruff lay out the code
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

test: $(INSTALLED) ## every test
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_FLAGS)

test-fast: $(INSTALLED) ## every test that takes seconds
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m 'not slow' $(PYTEST_FLAGS)

test-arm64: $(INSTALLED) ## the bundle for an arm64 board, emulated (qemu-user-static, debootstrap)
	@$(BIN)/python -m pytest -m arm64 tests/arm64 $(PYTEST_FLAGS)

results: $(INSTALLED) ## train and measure the methods on facades, three seeds each (hours; resumes)
	@$(BIN)/python benchmarks/methods.py --out build/results

clean: ## remove what was built (not .venv, not runs/)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

# pip's own settings (environment, pip.conf) say where packages come from. torch is pinned in
# constraints.txt and named here, so that no later build of it is tried.
$(INSTALLED): pyproject.toml constraints.txt
	@for python in $(PYTHON) none; do \
	  if [ "$$python" = none ]; then \
	    echo "pocketgan needs Python 3.11 or newer: install it, or name it: make PYTHON=/path/to/python3.11 ..." >&2; exit 2; fi; \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then break; fi; \
	done; \
	echo "setting up .venv with $$python (once, some minutes)"; \
	"$$python" -m venv .venv
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt torch --editable '.[dev]'
	@touch $(INSTALLED)
