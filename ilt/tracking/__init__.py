"""The artifact store, run folders, and loggers."""
