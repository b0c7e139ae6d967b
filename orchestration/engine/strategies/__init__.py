"""How one step is spread over workers."""
