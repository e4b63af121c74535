"""Hydra configs; a package, so that they are installed with `ilt` as `ilt.conf`."""
