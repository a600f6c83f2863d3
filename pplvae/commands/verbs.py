"""What the verbs do, behind one import, which the command line makes once options have been read."""

from pplvae.commands.checked import check_pair, draw_pair
from pplvae.commands.drafted import write_draft
from pplvae.commands.export import export_from
from pplvae.commands.listing import list_runs
from pplvae.commands.runs import (
    attribute_in,
    calibrate_in,
    compare_in,
    compare_two,
    fit_to,
    has_begun,
    latents_in,
    report_of,
)
from pplvae.commands.verification import verify

__all__ = [
    "attribute_in",
    "calibrate_in",
    "check_pair",
    "compare_in",
    "compare_two",
    "draw_pair",
    "export_from",
    "fit_to",
    "has_begun",
    "latents_in",
    "list_runs",
    "report_of",
    "verify",
    "write_draft",
]
