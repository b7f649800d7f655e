"""From an explanation to the circuit that carries its decision."""
