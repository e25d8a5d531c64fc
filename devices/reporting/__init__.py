"""A checked bundle for people and for other programs: table, histogram, Markdown, JUnit XML."""
