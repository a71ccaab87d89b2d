"""Shared torch blocks for bags of any size: packed and padded layouts, attention. No whole models."""
