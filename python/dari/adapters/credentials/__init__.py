"""What callers prove themselves with: tokens of a file, signed tokens, client certificates."""
