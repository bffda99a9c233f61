"""`pd-lightning study`: axes of the design space, trained with seeds beside fair controls, and reported."""
