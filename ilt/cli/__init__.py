"""The commands, one thin Hydra app each."""
