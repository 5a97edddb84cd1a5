"""The gateway's OpenAPI document. `document.describe` adds the document to the app."""
