"""Benchmarks: they measure and print, and assert nothing. `make bench`, or `make bench only=score`."""
