"""The mask: pixels as parts, backgrounds as perturbations, and what the result is worth."""
