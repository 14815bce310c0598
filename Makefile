# Entry points for users and developers; `make help` lists them. Targets that need .venv create it.
# Values that users give reach the shell as variables ("$$INPUT"), so that quotes in them are text.
SHELL := /bin/bash
PYTHON ?= python3
GPU_PYTHON ?= python3
DEMO ?= demo
BIN := .venv/bin
export PYTHON DEMO
export PATH := $(CURDIR)/$(BIN):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup wheels demo demo-shards preprocess decay fault-drill test test-fast test-without-linux test-long test-oldest test-newest test-versions test-mutations test-gpu test-slurm gpu-report gpu-report-data lint format docs golden bench bench-gpu ablations clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

.venv/.installed: setup.py launch/install.sh
	@launch/install.sh

setup: .venv/.installed ## Create .venv and install everything: [PYTHON=… TORCH_INDEX_URL=… EXTRAS=…], offline: WHEELS=…

wheels: ## Collect wheels for an offline machine: DIR=… [PYTHON_VERSION=3.12 PLATFORM=… MISSING_FROM=pip-list.txt EXTRAS=…]
	@$(if $(DIR),,$(error DIR is required: the folder to put the wheels in))
	@PYTHONPATH=src $(PYTHON) -m mmbert.wheels collect "$$DIR" --extras "$$EXTRAS" \
	  $(if $(PYTHON_VERSION),--python-version "$$PYTHON_VERSION") $(if $(PLATFORM),--platform "$$PLATFORM") \
	  $(if $(MISSING_FROM),--missing-from "$$MISSING_FROM")

# Each command continues where it was interrupted.
demo: export DS_ACCELERATOR = cpu
demo: demo-shards ## Text to filled masks on the CPU, in a few minutes: [DEMO=folder]
	$(BIN)/deepspeed --log_level error --num_gpus 2 launch/pretrain.py --recipe demo --data "$$DEMO/shards" --output "$$DEMO/run"
	test -d "$$DEMO/model" || $(BIN)/mmbert export "$$DEMO/run" "$$DEMO/model"
	@$(BIN)/mmbert results "$$DEMO/run"
	@echo; echo 'Masks filled by transformers.AutoModelForMaskedLM:'
	@$(BIN)/mmbert fill-mask "$$DEMO/model" 'Monday, 4 [MASK] 1995' 'Montag, 4. [MASK] 1995' 'lunes, 4 de [MASK] de 1995'
	@echo; echo "Shards:      $$DEMO/shards"; echo "Model:       $$DEMO/model"; \
	  echo "Curves:      $(BIN)/tensorboard --logdir $$DEMO/run/tensorboard"

demo-shards: setup
	test -d "$$DEMO/corpus" || { rm -rf "$$DEMO/corpus.partial"; \
	  $(BIN)/python -m mmbert_prep.demo.corpus "$$DEMO/corpus.partial" && mv "$$DEMO/corpus.partial" "$$DEMO/corpus"; }
	$(BIN)/python launch/preprocess.py --input "$$DEMO/corpus" --output "$$DEMO/shards" --recipe demo --workers 2 --heldout-fraction 0.05

# By default the demo recipe on the demo shards, on the CPU.
ablations: $(if $(RECIPE)$(DATA),setup,demo-shards) ## Train without each idea of a recipe and compare losses: [RECIPE=… DATA=… OUTPUT=… SEEDS=3 ARGS=…]
	@$(if $(RECIPE)$(DATA),$(if $(and $(DATA),$(OUTPUT)),,$(error DATA (folder of shards) and OUTPUT (folder for the runs) are required)))
	@$(if $(DATA),,DS_ACCELERATOR=cpu) $(BIN)/mmbert ablate "$${RECIPE:-demo}" \
	  --data "$${DATA:-$$DEMO/shards}" --output "$${OUTPUT:-$$DEMO/ablations}" --seeds "$${SEEDS:-3}" \
	  $(if $(DATA),,--launch 'deepspeed --num_gpus 2 launch/pretrain.py') $(ARGS)

preprocess: setup ## Preprocess text into token shards: INPUT=… OUTPUT=… [TOKENIZER=… VOCAB_SIZE=… WORKERS=… RECIPE=… SOURCE=… ARGS=…], for several sources SOURCES_IN=… RECIPE=…
	@$(if $(and $(INPUT)$(SOURCES_IN),$(OUTPUT)),,$(error INPUT (folder of text) or SOURCES_IN (folder with one for each source of RECIPE), and OUTPUT (folder for the shards) are required))
	@$(BIN)/python launch/preprocess.py $(if $(INPUT),--input "$$INPUT") --output "$$OUTPUT" \
	  $(if $(SOURCES_IN),--sources-in "$$SOURCES_IN") \
	  $(if $(TOKENIZER),--tokenizer "$$TOKENIZER") $(if $(VOCAB_SIZE),--vocab-size "$$VOCAB_SIZE") \
	  $(if $(WORKERS),--workers "$$WORKERS") $(if $(RECIPE),--recipe "$$RECIPE") $(if $(SOURCE),--source "$$SOURCE") $(ARGS)

decay: setup ## Train a decay phase of your own: MODEL=… INPUT=… OUTPUT=… OLD=…|WITHOUT_OLD=1 [STATE=file.pt ONTO=… MERGE=… LANGUAGES=… TOKENS=… RECIPE=your-decay WORKERS=… LAUNCH=… ARGS=…]
	@$(if $(and $(MODEL),$(INPUT),$(OUTPUT)),,$(error MODEL (folder or name), INPUT (folder of text) and OUTPUT (folder for everything) are required))
	@$(BIN)/mmbert decay "$$MODEL" --input "$$INPUT" --output "$$OUTPUT" \
	  $(if $(OLD),--old "$$OLD") $(if $(WITHOUT_OLD),--without-old) $(if $(STATE),--state "$$STATE") \
	  $(if $(ONTO),--onto "$$ONTO") $(if $(MERGE),--merge "$$MERGE") $(if $(LANGUAGES),--languages "$$LANGUAGES") \
	  $(if $(TOKENS),--tokens "$$TOKENS") $(if $(RECIPE),--recipe "$$RECIPE") $(if $(WORKERS),--workers "$$WORKERS") \
	  $(if $(LAUNCH),--launch "$$LAUNCH") $(ARGS)

fault-drill: setup ## Disturb a small run as nodes do, and say what it survives; YES=1 does it: [OUTPUT=build/fault-drill YES=1 ARGS=…]
	@$(BIN)/mmbert fault-drill "$${OUTPUT:-build/fault-drill}" $(if $(YES),--yes) $(ARGS)

test: setup ## Run the test suite; needs no GPU, Slurm or system MPI: [TESTS=…]
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

test-fast: setup ## Run the tests that start no process, in about two minutes
	@$(BIN)/python -m pytest -p tests.support.without_processes -n 2 -r fE

test-without-linux: setup ## Run the tests of all but training without what other systems than Linux lack
	@PYTHONPATH=tests/support/without_linux $(BIN)/python -m pytest -n 2 --dist worksteal tests/data_prep tests/data/shards \
	  tests/recipe tests/planner tests/report tests/evaluation tests/hub tests/merging tests/cli tests/test_without_linux.py

test-long: setup ## Run the slow tests: fault injection, fuzzing: [TESTS=…]
	@$(BIN)/python -m pytest -m 'long and not slurm' $(TESTS)

# Each of two workers starts a cluster of its own, in namespaces.
test-slurm: setup ## Run the tests on a virtual Slurm cluster, long ones too; as root: [REQUIRE_SLURM=1 TESTS=…]
	@REQUIRE_SLURM=$(REQUIRE_SLURM) $(BIN)/python -m pytest -m slurm -n 2 --dist worksteal tests/slurm $(TESTS)

test-oldest: ## Run the suite with the oldest releases allowed by setup.py, in .venv-oldest: [TESTS=…]
	@PYTHONPATH=src $(PYTHON) -m tests.environments oldest -n 2 --dist worksteal $(TESTS)

test-newest: ## Run the suite with the newest ones, in .venv-newest: [TESTS=…]
	@PYTHONPATH=src $(PYTHON) -m tests.environments newest -n 2 --dist worksteal $(TESTS)

test-versions: setup ## Run the tests of packed live models in older releases of transformers: [TESTS=…]
	@$(BIN)/python -m tests.environments versions -n 2 --dist worksteal $(or $(TESTS),tests/hub/live \
	  $(addprefix tests/hub/test_export_users.py::test_,sentence_transformers_guesses_nothing a_folder_without_the_files_is_guessed))

test-mutations: setup ## Apply each known fault to a copy and check that its test fails: [FAULTS='404 31']
	@$(BIN)/python -m tests.mutations $(FAULTS)

test-gpu: setup ## Run the tests that need a CUDA device
	@$(BIN)/python -m tests.benchmarks.gpu_report.correctness

# No setup: runs in the Python of the GPU machine; WHEELS (from `make wheels`) has the missing packages.
gpu-report: ## Measure a GPU: correctness, speed, lower bounds, a real run, on one page: [MINUTES=9 GPU_PYTHON=python3 WHEELS=… ARGS=…]
	@$(if $(WHEELS),PYTHONPATH=src $(GPU_PYTHON) -m mmbert.wheels install "$$WHEELS" || echo 'continuing with the packages that are installed')
	@$(GPU_PYTHON) -m tests.benchmarks.gpu_report --minutes $(or $(MINUTES),9) $(ARGS)

gpu-report-data: setup ## Make the shards for its real run, to take along (build/gpu-report-data, at most 8 MiB)
	@$(BIN)/python -m tests.benchmarks.gpu_report.run_data build/gpu-report-data

golden: setup ## Compare losses of a small run with the committed ones; bitwise on the same CPU and torch
	@$(BIN)/python -m tests.training.golden

bench: setup ## Run the CPU benchmarks; some take minutes
	@for name in preprocess data data_scale checkpoint recompute host cpu_step pack report; do \
	  echo "== bench_$$name"; $(BIN)/python -m tests.benchmarks.bench_$$name || exit 1; done

bench-gpu: setup ## A longer GPU report without the real run: all kernels and alternatives, transformers in all settings
	@$(BIN)/python -m tests.benchmarks.gpu_report --minutes $(or $(MINUTES),30) --parts machine correctness step kernels pack experiments transformers

lint: setup ## Run ruff (style, format), mypy (types), import-linter (layers) and shellcheck if it is installed
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && PYTHONPATH=src:kernels:data_prep $(BIN)/lint-imports
	@if command -v shellcheck >/dev/null; then shellcheck -x $$(git ls-files '*.sh' '*.sbatch' '*.bash') .ci/run && echo 'shellcheck: passed'; \
	  else echo 'shellcheck: not installed, shell scripts were not checked'; fi

format: setup ## Format and fix with ruff
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

docs: setup ## Draw the pictures, generate the reference pages and build the documentation site in build/docs
	@$(BIN)/python -m docs.scripts
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet && echo 'Documentation: build/docs/index.html'

clean: ## Remove caches and build files, not .venv or data
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
