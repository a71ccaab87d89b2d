"""Shipped for tests: slides and cohorts with planted truth."""
