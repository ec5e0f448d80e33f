"""`torchrun ... -m hicom_hf.training RECIPE.yaml [--set key=value ...]`: `hicom train` for several processes."""

import sys

from ..cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
