"""Is a candidate slower than a baseline? Rounds, their judgement, and what is told about it."""
