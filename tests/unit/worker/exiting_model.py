"""A model that calls sys.exit while it is imported."""

raise SystemExit("the labels are missing")
