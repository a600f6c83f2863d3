"""`python -m pplvae` is `pplvae`."""

from pplvae.cli import main

main()
