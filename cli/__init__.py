"""Command-line interface: options, error messages, output streams and tables for terminals."""
