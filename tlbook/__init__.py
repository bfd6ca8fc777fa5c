"""Companion package of the book *Transfer Learning, Measured*."""

import warnings

__version__ = "0.1.0"

# Without ipywidgets, tqdm warns in every notebook that its bars are plain text: that is intended.
warnings.filterwarnings("ignore", message="IProgress not found")
