"""Models: plain modules from windows to outputs, which know no Lightning and no environment."""
