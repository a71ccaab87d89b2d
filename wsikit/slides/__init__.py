"""One scanned file of any vendor: its pixels, where its tissue is, and its grid of tiles."""
