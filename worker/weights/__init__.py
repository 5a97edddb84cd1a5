"""A model's weights: fetch them, check their digest, cache them on disk, and load them as data."""
