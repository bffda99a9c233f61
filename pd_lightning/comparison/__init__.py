"""`pd-lightning compare`: what a student costs in use, beside its teacher, on this machine."""
