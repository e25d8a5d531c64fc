"""One HTML file that shows what bundles do, to people who have none of this installed."""
