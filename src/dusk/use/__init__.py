"""Using what was made: talking to it, serving it, publishing it."""
