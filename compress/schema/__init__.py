"""What recipes may say: strict models, one file per table of the TOML."""
