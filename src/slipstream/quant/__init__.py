"""Floor 3: weight formats. One file per format in `formats`, found by its name."""
