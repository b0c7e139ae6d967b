"""The papers' tables and the phenomenon itself, trained on rendered people."""
