"""The models that `models.toml` names."""
