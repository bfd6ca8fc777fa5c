"""One module for each family of methods, the appendix of its chapter."""
