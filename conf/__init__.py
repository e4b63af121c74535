"""Hydra configs, a package so that they travel with an installed `ilt` as `ilt.conf`."""
