"""The command line: arguments → one call → a table or JSON."""
