"""One file per aggregator; the registry imports every file of this folder when it is first asked."""
