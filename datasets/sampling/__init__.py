"""Which rows form a batch: pure plans of identity-balanced epochs."""
