"""The upkeep of an index: what of it is damaged, and how that comes back."""
