"""A model's weights: fetched, checked by digest, cached on disk, and loaded as data only."""
