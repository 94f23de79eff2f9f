"""Floor 0: configuration, registry, errors, logging and the native module. Imports nothing of Slipstream."""
