"""Slides -> feature store, on Dask."""
