# Everything a user or developer runs; `make help` lists it. Every target uses .venv and makes it if it is missing.
SHELL := /bin/bash
PYTHON ?= python3
GPU_PYTHON ?= python3
DEMO ?= demo
BIN := .venv/bin
export PYTHON
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup wheels demo demo-shards preprocess test test-fast test-long test-oldest test-newest test-mutations test-gpu gpu-report gpu-report-data lint format golden bench bench-gpu ablations clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

.venv/.installed: setup.py launch/install.sh
	@launch/install.sh

setup: .venv/.installed ## Make .venv and install everything: [PYTHON=… TORCH_INDEX_URL=… EXTRAS=…], without a network WHEELS=…

wheels: ## Collect wheels for a machine without a network: DIR=… [PYTHON_VERSION=3.12 PLATFORM=… MISSING_FROM=pip-list.txt EXTRAS=…]
	@$(if $(DIR),,$(error give DIR=folder-for-wheels))
	@PYTHONPATH=src $(PYTHON) -m mmbert.wheels collect '$(DIR)' --extras '$(EXTRAS)' \
	  $(if $(PYTHON_VERSION),--python-version '$(PYTHON_VERSION)') $(if $(PLATFORM),--platform '$(PLATFORM)') \
	  $(if $(MISSING_FROM),--missing-from '$(MISSING_FROM)')

# The demo is these commands and nothing else; each continues where it was stopped.
demo: export DS_ACCELERATOR = cpu
demo: demo-shards ## From text to a filled mask on this machine's CPU, in some minutes (DEMO=folder)
	$(BIN)/deepspeed --num_gpus 2 launch/pretrain.py --recipe src/mmbert/recipes/demo.yaml --data $(DEMO)/shards --output $(DEMO)/run
	test -d $(DEMO)/model || $(BIN)/mmbert export $(DEMO)/run $(DEMO)/model
	@$(BIN)/mmbert results $(DEMO)/run
	@echo; echo 'Masked sentences filled by transformers.AutoModelForMaskedLM:'
	@$(BIN)/mmbert fill-mask $(DEMO)/model 'Monday, 4 [MASK] 1995' 'Montag, 4. [MASK] 1995' 'lunes, 4 de [MASK] de 1995'
	@echo; echo 'Shards:      $(DEMO)/shards'; echo 'Model:       $(DEMO)/model'; \
	  echo 'Curves:      $(BIN)/tensorboard --logdir $(DEMO)/run/tensorboard'

demo-shards: setup
	test -d $(DEMO)/corpus || { rm -rf $(DEMO)/corpus.partial; \
	  $(BIN)/python -m mmbert_prep.demo.corpus $(DEMO)/corpus.partial && mv $(DEMO)/corpus.partial $(DEMO)/corpus; }
	$(BIN)/python launch/preprocess.py --input $(DEMO)/corpus --output $(DEMO)/shards --recipe src/mmbert/recipes/demo.yaml --workers 2 --heldout-share 0.05

# With nothing given: the demo's recipe on the demo's shards, on this machine's CPU.
ablations: $(if $(RECIPE)$(DATA),setup,demo-shards) ## What each idea of a recipe does for the loss: [RECIPE=… DATA=… OUTPUT=… SEEDS=3 ARGS=…]
	@$(if $(RECIPE)$(DATA),$(if $(and $(DATA),$(OUTPUT)),,$(error give DATA=folder-of-shards OUTPUT=folder-for-runs)))
	@$(if $(DATA),,DS_ACCELERATOR=cpu) $(BIN)/mmbert ablate '$(or $(RECIPE),src/mmbert/recipes/demo.yaml)' \
	  --data '$(or $(DATA),$(DEMO)/shards)' --output '$(or $(OUTPUT),$(DEMO)/ablations)' --seeds $(or $(SEEDS),3) \
	  $(if $(DATA),,--launch 'deepspeed --num_gpus 2 launch/pretrain.py') $(ARGS)

preprocess: setup ## Text to token shards: INPUT=… OUTPUT=… [TOKENIZER=… VOCAB_SIZE=… WORKERS=… RECIPE=… SOURCE=… ARGS=…]
	@$(if $(and $(INPUT),$(OUTPUT)),,$(error give INPUT=folder-of-text and OUTPUT=folder-for-shards))
	@$(BIN)/python launch/preprocess.py --input '$(INPUT)' --output '$(OUTPUT)' \
	  $(if $(TOKENIZER),--tokenizer '$(TOKENIZER)') $(if $(VOCAB_SIZE),--vocab-size $(VOCAB_SIZE)) \
	  $(if $(WORKERS),--workers $(WORKERS)) $(if $(RECIPE),--recipe '$(RECIPE)') $(if $(SOURCE),--source '$(SOURCE)') $(ARGS)

test: setup ## The test suite (no GPU, no Slurm, no MPI from the system needed): [TESTS=…]
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

test-fast: setup ## The tests that start no process, in little more than a minute
	@$(BIN)/python -m pytest -p tests.support.without_processes -n 2 -r fE

test-long: setup ## The tests that take longer: faults at many moments, fuzzing
	@$(BIN)/python -m pytest -m long

test-oldest: ## The suite with the oldest releases that setup.py allows, in .venv-oldest: [TESTS=…]
	@PYTHONPATH=src $(PYTHON) -m tests.environments oldest -n 2 --dist worksteal $(TESTS)

test-newest: ## The suite with the newest ones, in .venv-newest: [TESTS=…]
	@PYTHONPATH=src $(PYTHON) -m tests.environments newest -n 2 --dist worksteal $(TESTS)

test-mutations: setup ## Put each known fault into a copy and see whether its test fails: [FAULTS='404 31']
	@$(BIN)/python -m tests.mutations $(FAULTS)

test-gpu: setup ## The tests that need a CUDA device, named by file
	@$(BIN)/python -m tests.benchmarks.gpu_report.correctness

# Needs no setup: the interpreter is the GPU machine's own, the wheels (make wheels) what it lacks.
gpu-report: ## A GPU measured: correctness, speed, floors, a real run, as one page: [MINUTES=9 GPU_PYTHON=python3 WHEELS=… ARGS=…]
	@$(if $(WHEELS),PYTHONPATH=src $(GPU_PYTHON) -m mmbert.wheels install '$(WHEELS)' || echo 'the report goes on with what is there')
	@$(GPU_PYTHON) -m tests.benchmarks.gpu_report --minutes $(or $(MINUTES),9) $(ARGS)

gpu-report-data: setup ## The shards that its real run trains on, to be carried along (build/gpu-report-data, 8 MiB at most)
	@$(BIN)/python -m tests.benchmarks.gpu_report.run_data build/gpu-report-data

golden: setup ## Compare the small run's losses with the committed ones, to the bit on their processor and torch
	@$(BIN)/python -m tests.training.golden

bench: setup ## The benchmarks that run on a CPU (each prints its ratios; some take minutes)
	@for name in preprocess data data_scale checkpoint recompute host cpu_step; do \
	  echo "== bench_$$name"; $(BIN)/python -m tests.benchmarks.bench_$$name || exit 1; done

bench-gpu: setup ## The GPU report without its real run, and longer: all kernels with their rivals, transformers in all settings
	@$(BIN)/python -m tests.benchmarks.gpu_report --minutes $(or $(MINUTES),30) --parts machine correctness step kernels experiments transformers

lint: setup ## ruff (style and format), mypy (types), import-linter (floors)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && PYTHONPATH=src:kernels:data_prep $(BIN)/lint-imports

format: setup ## Let ruff format and mend what it can
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

clean: ## Remove what the tools left behind (not .venv, not data)
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
