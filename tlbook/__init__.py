"""Companion package of the book *Transfer Learning, Measured*."""

__version__ = "0.1.0"
