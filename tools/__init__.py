"""Building and checking the book: run as ``python -m tools.NAME`` from the root of the project."""
