"""Segmentation networks loaded from files: what is known of published ones, how to load and run one."""
