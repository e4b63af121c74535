"""Experts: how they are trained or found, and the gate they pass before they demonstrate."""
