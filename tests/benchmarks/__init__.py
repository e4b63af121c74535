"""Benchmarks measure and print, and assert nothing. Run `make bench`, or `make bench only=score`."""
