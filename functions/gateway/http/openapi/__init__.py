"""The OpenAPI document. `document.describe` adds it to the app."""
