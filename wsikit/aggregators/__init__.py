"""Bag -> slide embedding, with attention: the contract (``base``), the names (``registry``), one file per model."""
