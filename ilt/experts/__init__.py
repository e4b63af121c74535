"""Experts: how they are trained, the network they end in, and the gate they pass before they demonstrate."""
