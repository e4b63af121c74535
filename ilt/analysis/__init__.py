"""Probes, attention maps, figures, videos, and the report page."""
