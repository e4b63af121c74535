"""Experts: training, lookup, and the gate that they must pass before they demonstrate."""
