"""`pd-lightning scaling-law`: what a loss will be, from the sizes of models and corpora."""
