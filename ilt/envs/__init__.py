"""Environments: what a config says about one, and many of them stepped in one process."""
