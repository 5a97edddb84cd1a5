"""Jobs: their data (`model`), their end (`lifecycle`), orchestrator, activities and progress."""
