"""Analysis: statistics over flights, tables, figures and videos."""
