"""The readout: wiring of a model, active channels, edges."""
