"""A concept as one picture shows it: a token that is learned from the picture."""
