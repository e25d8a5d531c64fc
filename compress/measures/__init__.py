"""How good images are: against the truth pair by pair, or against a set as a whole."""
