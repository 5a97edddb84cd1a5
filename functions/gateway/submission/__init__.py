"""Validate requests (`parse`), create their jobs (`create`), and repeat them (`idempotency`)."""
