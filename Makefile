# `make test` and `make demo` do all set-up themselves. RINGZOO_DATA, where set, names a folder of real data for the tests.
.PHONY: setup demo test test-all bench bench-context bench-peers format lint build
.NOTPARALLEL:

swift_sources := Package.swift Sources Plugins Models Tests Scripts Benchmarks

# System libraries; quick when everything is there.
setup:
	@Scripts/setup

# What users run: .build/release/ringzoo.
build: setup
	@Scripts/build

# Everything CI checks. The tests build the program themselves.
test: lint
	@Scripts/test

# The same with the larger shapes and lengths.
test-all: export RINGZOO_TEST_ALL = 1
test-all: test

# Formatting, the direction of imports, and what may be tracked.
lint: setup
	swift format lint --strict --parallel --recursive $(swift_sources)
	@Scripts/check-tree
	@Scripts/check-imports

format:
	swift format --in-place --parallel --recursive $(swift_sources)

demo: build
	@Scripts/demo

bench: build
	@Scripts/bench

# The longest context of 1 to 8 processes, each under a hard memory limit; needs mpirun.
bench-context: build
	@Scripts/bench-context

# RingZoo and PyTorch and JAX in turn; needs Python, and installs both into .build/peers.
bench-peers: build
	@Scripts/bench-peers
