"""Reports for people: one file that says what was found, on whom, and what to be careful about."""
