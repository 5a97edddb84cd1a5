"""The models of the catalogue `models.toml`, one model in each module."""
