"""Plans of identity-balanced epochs: which rows form each batch."""
