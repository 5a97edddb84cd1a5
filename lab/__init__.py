"""Tools that measure the project. Nothing here is needed to change or to run the product."""
