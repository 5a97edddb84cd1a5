"""The models of the model catalogue `models.toml`. Each module contains one model."""
