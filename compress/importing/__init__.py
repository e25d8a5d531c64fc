"""Published weights become networks of ours: what a file holds, what it is, how its names map."""
