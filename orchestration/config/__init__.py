"""An experiment: settings, recipes, constraints, and what is built from them."""
