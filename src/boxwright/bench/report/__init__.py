"""The report of a race: one HTML page, plots, and the numbers as JSON and CSV."""
