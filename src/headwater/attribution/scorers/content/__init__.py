"""Scores by what images show, of which no gradient is taken."""
