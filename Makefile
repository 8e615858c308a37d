# The commands of the README. `make help` lists them.

CARGO ?= cargo
PYTHON := scripts/python3

.DEFAULT_GOAL := help
.PHONY: help runtime clean-runtime reference

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

runtime: ## Fetch ONNX Runtime into .fugato (once)
	@$(PYTHON) scripts/fetch_runtime.py

clean-runtime: ## Remove the fetched ONNX Runtime
	rm -rf .fugato/onnxruntime

reference: ## Write the generated pages of docs/reference anew
	FUGATO_BLESS=1 $(CARGO) test -p fugato --test cli_reference
