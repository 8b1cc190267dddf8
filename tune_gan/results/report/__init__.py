"""One HTML file that shows a run: its numbers, its figures, its page."""
