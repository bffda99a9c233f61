"""`python -m pd_lightning` is `pd-lightning`."""

from pd_lightning.cli import main

raise SystemExit(main())
