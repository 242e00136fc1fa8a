# `make demo` shows the keeper at work, `make test` runs all tests. Both fetch what they need into
# .work/ and need Rust, a C compiler, Python and Node.js; tests/tools.sh says what is missing. The tests
# also need Chromium, and install it as root on Debian; CHROMIUM=/path/to/it names one that is not on PATH.

# The end-to-end tests each start a homeserver: more of them at once than cores, and they time out.
RUST_TEST_THREADS ?= 2
export RUST_TEST_THREADS

.PHONY: test demo bench lint generate schema setup browser deploy-check guide

# Benchmarks are programs, not tests, so the targets are named one by one.
test: setup browser
	cargo test --lib --bins --tests --examples
	cargo test --doc

# `make demo DEMO_EXIT=1` ends by itself, and fails unless the joiner saw the name.
demo: setup
	cargo build --bins --examples
	cargo run --quiet --example demo

bench: setup
	cargo bench --bench join --bench room_1000 --bench fan_out --bench at_rest --bench requests \
		--bench flood --bench answer --bench ledger --bench rotation --bench seal --bench organisation

# Linters and dry runs for what deploy/ holds.
deploy-check: setup
	cargo build --bins --examples
	tests/deploy/check.sh

# Follows the guides word for word, as root, in name spaces of its own.
guide: setup
	cargo build --bins --examples
	tests/guide.py

lint:
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings

# Writes the configuration's sample, schema and reference anew from its types, and the page of the
# metrics from their definitions. Each goes to a file of its own first, so that a failure leaves the
# old one standing.
generate schema:
	cargo build --quiet --bin statekeeper
	mkdir -p .work config docs
	cargo run --quiet -- config-sample >.work/generated && mv .work/generated config/statekeeper.sample.yaml
	cargo run --quiet -- config-schema >.work/generated && mv .work/generated config/statekeeper.schema.json
	cargo run --quiet -- config-reference >.work/generated && mv .work/generated docs/CONFIGURATION.md
	cargo run --quiet -- metrics-reference >.work/generated && mv .work/generated docs/METRICS.md

setup:
	tests/tools.sh
	tests/setup.sh

# What the dashboard is looked at with.
browser:
	tests/dashboard/setup.sh
