"""One reader per file; ``wsikit.slides.base.READERS`` finds them."""
