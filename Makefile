# `make` alone prints the targets. After installing a C++ compiler, `make clean setup` builds the kernels.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
PROMPT ?= 你好
INDEX_GRPC_ADDRESS ?= 127.0.0.1:50051
export INDEX_GRPC_ADDRESS PROMPT
.DEFAULT_GOAL := help
.PHONY: help setup run ask test test-contract test-mesh lint types protos descriptors protobufs released demo bench peers audit clean

help: ## print the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

PIP := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.venv/service: pyproject.toml clients/python/pyproject.toml constraints.txt $(wildcard index_grpc/native/*.h index_grpc/native/*.cpp)
	@echo "installing into .venv; the first time this takes a few minutes"
	$(PYTHON) -m venv .venv
	$(PIP) -e 'clients/python[cli]' -e '.[http,otel]'
	@touch $@

.venv/ready: .venv/service
	@echo "installing what the tests need"
	$(PIP) -e '.[test,lint]'
	@touch $@

setup: .venv/ready ## make .venv with everything that running and testing need

run: .venv/service ## serve the demo model; pass flags on with ARGS="--port 50077"
	@$(BIN)/index-grpc serve $(ARGS)

ask: .venv/service ## ask the running server, PROMPT=你好
	@$(BIN)/index-client ask "$$PROMPT"

lint: setup ## style, and the rules of the contract
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/buf lint
	@$(BIN)/buf breaking --against protos/released.binpb

types: setup ## strict types
	@$(BIN)/mypy

test: setup lint types ## lint, types and the whole suite; two files at a time, ARGS=-n0 one
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(ARGS)

test-contract: setup ## the contract from Node, C++ and Ruby; needs npm and Debian's packages, installs them for root
	@$(BIN)/python -m tests.contract.prepare
	@$(BIN)/python -m pytest -q tests/contract -m "" $(ARGS)

.venv/mesh: .venv/ready
	@$(PIP) -e '.[mesh]'
	@touch $@

test-mesh: .venv/mesh ## replicas behind Envoy and HAProxy; for root it installs Debian's haproxy
	@$(BIN)/python -m tests.mesh.prepare
	@$(BIN)/python -m pytest -q tests/mesh -m "" $(ARGS)

protos: setup ## generate the client's stubs from protos/
	@$(BIN)/python clients/python/generate_stubs.py

descriptors: setup ## after a change to the contract: what Envoy translates JSON by
	@$(BIN)/python deploy/envoy/descriptors.py

protobufs: setup ## try the client under every supported protobuf, in throw-away environments
	@$(BIN)/python clients/python/check_protobufs.py

released: setup ## at a release: keep the contract as what later ones are held to
	@$(BIN)/buf build --exclude-source-info -o protos/released.binpb

demo: setup ## retrain the demo checkpoint, about 25 minutes
	@$(BIN)/python demo/train.py $(ARGS)

.venv/bench: .venv/ready
	@$(PIP) -e '.[bench]'
	@touch $@

bench: .venv/bench ## compare with the alternatives and measure the rest, an hour; ARGS=--list
	@$(BIN)/python benchmarks/bench.py $(ARGS)

peers: .venv/bench ## install llama.cpp and vLLM to compare with, each in an environment of its own
	@$(BIN)/python benchmarks/environments.py $(ARGS)

audit: setup ## look for known weaknesses in what is installed; needs the network
	@$(PYTHON) -m venv .venv/audit
	@.venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	@.venv/audit/bin/pip-audit --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') --skip-editable

clean: ## remove what the other targets made
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info clients/python/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f index_grpc/native/*.so
