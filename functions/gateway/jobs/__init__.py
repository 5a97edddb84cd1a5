"""Jobs: their data (`model`), their orchestration, and how to find and end them (`lifecycle`)."""
