"""Where tissue is: one segmentation method per file; ``wsikit.slides.tissue_mask.SEGMENTERS`` finds them."""
