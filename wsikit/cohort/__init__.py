"""Patients, their slides and their outcomes: the table, the endpoint, the splits, the bags."""
