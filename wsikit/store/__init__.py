"""Vectors at rest: the Zarr feature store. Its written specification is docs/reference/store-format.md."""
