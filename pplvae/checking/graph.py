"""`draw`: the graphical model of a pair: what is drawn, given what, in which plates."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from pyro.infer.inspect import generate_graph_specification, get_model_relations, render_graph

from pplvae.checking.pair import MOST_ROWS, Pair, bare, stores_of
from pplvae.checking.sites import Site, aligned, sites_of
from pplvae.errors import ProgramError, UnknownNameError, printable
from pplvae.isolate import evaluation_mode, isolated
from pplvae.programs.opening import floating_dtype, one_set
from pplvae.programs.reading import Program

_PROGRAMS = ("model", "guide")
_FORMATS = ("dot", "pdf", "png", "svg")


@dataclass(frozen=True, repr=False)
class Graph:
    """The graphical model of a pair. Printed, it is a table; `save` makes a picture of it.

    Attributes:
        sites: of both programs, on a few rows.
        relations: what Pyro finds of each program by running it: "sample_sample" has the sites that each site was
            computed from, "plate_sample" the sites of each plate.
    """

    sites: tuple[Site, ...]
    relations: Mapping[str, Mapping[str, Any]]

    def given(self, program: str, site: str) -> list[str]:
        """The sites that a site's distribution is computed from, in their order."""
        return list(self.relations[program]["sample_sample"].get(site, ()))

    def source(self, program: str = "model") -> str:
        """The picture in Graphviz's language.

        Args:
            program: "model" or "guide".

        Raises:
            UnknownNameError: another program.
            ImportError: the package graphviz is not installed.
        """
        return self._picture(program).source

    def save(self, path: str | Path, program: str = "model") -> Path:
        """Draw one of the programs: observed sites grey, plates as boxes, arrows from what a site is given.

        Args:
            path: of the picture: .svg, .pdf, .png, or .dot for Graphviz's own language.
            program: "model" or "guide".

        Raises:
            UnknownNameError: another program or format.
            ImportError: the package graphviz is not installed.
            OSError: Graphviz's program `dot` is not installed, or the file cannot be written.
        """
        path = Path(path)
        kind = path.suffix[1:].lower()
        if kind not in _FORMATS:
            raise UnknownNameError("format of a picture", path.suffix or path.name, [f".{each}" for each in _FORMATS])
        picture = self._picture(program)
        path.write_bytes(picture.source.encode() if kind == "dot" else _drawn(picture, kind))
        return path

    def __str__(self) -> str:
        head = [("program", "site", "kind", "given", "distribution", "event", "plates")]
        return "\n".join(aligned(head + [self._line(site) for site in self.sites]))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        """Both pictures, or the table where Graphviz is missing."""
        try:
            return "".join(_drawn(self._picture(program), "svg").decode() for program in _PROGRAMS)
        except (ImportError, OSError):
            return f"<pre>{escape(str(self))}</pre>"

    def _line(self, site: Site) -> tuple[Any, ...]:
        given = ", ".join(map(printable, self.given(site.program, site.name))) or "-"
        return site.program, printable(site.name), site.kind, given, site.distribution, site.event, site.plates

    def _picture(self, program: str) -> Any:
        if program not in _PROGRAMS:
            raise UnknownNameError("program of a pair", program, _PROGRAMS)
        names = {site.name: site.distribution for site in self.sites if site.program == program}
        relations = self.relations[program]
        relations = {**relations, "sample_dist": {**relations["sample_dist"], **names}}
        try:
            return render_graph(generate_graph_specification(relations), render_distributions=True)
        except ImportError as error:
            raise ImportError("Pictures need the package graphviz: pip install 'pplvae[draw]'.") from error
        except NotImplementedError as error:
            raise ProgramError(
                f"Pyro cannot draw plates that overlap without one being inside the other: {error}"
            ) from error


def draw(model: Program, guide: Program, rows: Any) -> Graph:
    """Find the graphical model of a pair, by running it on a few rows; nothing is fitted.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Of several sets, choose one.

    Raises:
        DataError: rows that cannot be read as numbers.
        ProgramError: programs that fail.

    >>> import torch
    >>> from pplvae.models import BernoulliVAE
    >>> vae = BernoulliVAE(visible=4, latent=2)
    >>> print(draw(vae.model, vae.guide, torch.zeros(3, 4)))
    program  site  kind      given  distribution  event  plates
    guide    h     latent    -      Normal        (2,)   data
    model    h     latent    -      Normal        (2,)   data
    model    v     observed  h      Bernoulli     (4,)   data
    """
    tensors = one_set(rows).tensors
    store = stores_of(model, guide)
    programs = {"model": bare(model), "guide": bare(guide)}
    with isolated(0, store=store, dtype=floating_dtype(tensors)), evaluation_mode(*programs.values()):
        pair = Pair.opened(programs["model"], programs["guide"], tensors, None)
        if pair.layout is None and pair.refusals:
            raise pair.refusals[0]
        few = tuple(tensor[:MOST_ROWS] for tensor in tensors)
        relations = {name: get_model_relations(program, few) for name, program in programs.items()}
        return Graph(tuple(sites_of(pair)), relations)


def _drawn(picture: Any, kind: str) -> bytes:
    from graphviz import ExecutableNotFound

    try:
        return picture.pipe(format=kind)
    except ExecutableNotFound as error:
        raise OSError(
            "Pictures need Graphviz's program `dot`, which is not on the path: `apt-get install graphviz`, `brew "
            "install graphviz`, or the like. A .dot file can be written without it."
        ) from error
