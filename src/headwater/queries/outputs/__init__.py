"""Questions about what the model puts out: its loss on pictures, and what words gain there."""
