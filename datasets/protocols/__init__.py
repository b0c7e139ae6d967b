"""Query, gallery and what counts: evaluation protocols, single-shot draws, divisions of held-out people."""
