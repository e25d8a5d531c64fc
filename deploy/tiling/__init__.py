"""Images larger than an engine should see at once: cut into tiles whose result is the whole's."""
