"""What a board tells about itself while something is measured on it."""
