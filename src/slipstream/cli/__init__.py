"""Floor 11: what a user types. One file per command; nothing heavy is imported before the command that needs it runs."""
