"""The nearest gallery images of a query."""
