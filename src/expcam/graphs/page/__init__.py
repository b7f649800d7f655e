"""What the page is told: circuits and their channels, tests, and how it was made."""
