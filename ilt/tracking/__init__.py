"""The artifact store, run folders, checkpoints, safe file reading, and loggers."""
