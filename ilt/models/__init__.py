"""Models: plain modules from windows to outputs, independent of Lightning and of environments."""
