"""The steps that process one job. `consumer` calls them in their order; no step calls another."""
