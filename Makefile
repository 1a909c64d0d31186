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

setup: .venv/ready ## create .venv with all packages for running and testing

run: .venv/service ## serve the demo model; ARGS="--port 50077" passes flags on
	@$(BIN)/index-grpc serve $(ARGS)

ask: .venv/service ## ask the running server, PROMPT=你好
	@$(BIN)/index-client ask "$$PROMPT"

lint: setup ## check the style, and the contract by the rules of buf.yaml
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/buf lint
	@$(BIN)/buf breaking --against protos/released.binpb

types: setup ## check the types with mypy
	@$(BIN)/mypy

test: setup lint types ## run lint, types and the whole suite, two test files at a time; ARGS=-n0 runs one at a time
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(ARGS)

test-contract: setup ## test the contract from Node, C++ and Ruby; run by root, it installs the Debian packages that are missing
	@$(BIN)/python -m tests.contract.prepare
	@$(BIN)/python -m pytest -q tests/contract -m "" $(ARGS)

.venv/mesh: .venv/ready
	@$(PIP) -e '.[mesh]'
	@touch $@

test-mesh: .venv/mesh ## test replicas behind Envoy and HAProxy; run by root, it installs Debian's haproxy
	@$(BIN)/python -m tests.mesh.prepare
	@$(BIN)/python -m pytest -q tests/mesh -m "" $(ARGS)

protos: setup ## generate the client's stubs from protos/
	@$(BIN)/python clients/python/generate_stubs.py

descriptors: setup ## after a change to the contract: write the descriptors with which Envoy translates JSON
	@$(BIN)/python deploy/envoy/descriptors.py

protobufs: setup ## test the client with every supported version of protobuf, in temporary environments
	@$(BIN)/python clients/python/check_protobufs.py

released: setup ## at a release: save the contract, with which later ones must be compatible
	@$(BIN)/buf build --exclude-source-info -o protos/released.binpb

demo: setup ## retrain the demo checkpoint, about 25 minutes
	@$(BIN)/python demo/train.py $(ARGS)

.venv/bench: .venv/ready
	@$(PIP) -e '.[bench]'
	@touch $@

bench: .venv/bench ## compare with the alternatives and run the other benchmarks, about an hour; ARGS=--list lists them
	@$(BIN)/python benchmarks/bench.py $(ARGS)

peers: .venv/bench ## install llama.cpp and vLLM for the comparison, each in a separate environment
	@$(BIN)/python benchmarks/environments.py $(ARGS)

audit: setup ## check the installed packages for known vulnerabilities; needs the network
	@$(PYTHON) -m venv .venv/audit
	@.venv/audit/bin/pip install --quiet --disable-pip-version-check pip-audit
	@.venv/audit/bin/pip-audit --path $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') --skip-editable

clean: ## remove what the other targets made
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info clients/python/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f index_grpc/native/*.so
