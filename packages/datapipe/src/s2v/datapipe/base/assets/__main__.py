"""`python -m s2v.datapipe.base.assets fetch` is `s2v-data assets fetch`, without the rest."""

import argparse
import sys

from s2v.datapipe.base.assets.cli import add_arguments, main

parser = argparse.ArgumentParser(prog="s2v-data")
add_arguments(parser.add_subparsers())
sys.exit(main(parser.parse_args(["assets", *sys.argv[1:]])))
