"""The command line: arguments become one call, and its answer a table or JSON."""
