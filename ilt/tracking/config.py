"""Schemas of the config group `logger`; options without a schema are checked against the logger's constructor."""
