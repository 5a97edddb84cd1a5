"""Weights: found in blob storage or a package, checked, kept on disk, and loaded as data only."""
