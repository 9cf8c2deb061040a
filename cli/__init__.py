"""The command lines: options, error messages, and text that fits a terminal."""
