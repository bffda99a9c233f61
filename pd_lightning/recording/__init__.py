"""What `record` and recording callbacks are made of: data in, targets encoded, a store out."""
