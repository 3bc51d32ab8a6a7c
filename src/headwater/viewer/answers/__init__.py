"""What the page shows of an index."""
