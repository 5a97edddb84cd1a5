"""What OpenAPI says of the routes."""
