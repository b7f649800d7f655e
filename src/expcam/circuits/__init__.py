"""The circuit of a decision: which channels carried it, and how they feed one another."""
