"""Our mask beside the attributions of other methods, measured on the same footing."""
