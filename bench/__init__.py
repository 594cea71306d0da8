"""Benchmarks: each runs two things side by side; `make bench` runs them all."""
