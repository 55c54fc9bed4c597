"""Train a model: `python train.py [NAME|CONFIG.py] [--flags]`, the same as `ctx-jax train`.

Without a configuration it is `quickstart`: a small biLM on this interpreter's own documentation, in minutes. The same
command with the same --run-dir resumes where it was stopped.
"""

import sys

from ctx_jax.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
