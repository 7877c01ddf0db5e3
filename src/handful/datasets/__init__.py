"""Named data sets: find, download and verify them; load them as NumPy arrays."""
