"""Feeding: order, columns, fetching, the DataLoader, readers of files."""
