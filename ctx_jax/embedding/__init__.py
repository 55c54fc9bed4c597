"""Text to layers to vectors."""
