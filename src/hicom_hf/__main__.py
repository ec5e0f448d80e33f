"""`python -m hicom_hf` is `hicom`."""

import sys

from .cli.main import main

sys.exit(main())
