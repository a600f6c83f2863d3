"""What long work shows on a terminal."""

import io
import time
from contextlib import redirect_stderr, suppress
from threading import Thread

import pytest
import torch

from pplvae import log_evidence
from pplvae.models import BernoulliVAE
from pplvae.programs import progress
from pplvae.programs.progress import Progress, progress_bar


class Terminal(io.StringIO):
    """What a terminal was told."""

    def isatty(self) -> bool:
        return True


def test_the_clock_of_a_bar_goes_on_while_nothing_ends() -> None:
    with redirect_stderr(Terminal()) as terminal, progress_bar(3, "thinking", "row", progress=True):
        time.sleep(3.5)
        drawn = terminal.getvalue()
    assert "0/3 [00:01<" in drawn
    assert "0/3 [00:03<" in drawn


@pytest.mark.parametrize(("wanted", "output"), [(False, Terminal), (True, io.StringIO)])
def test_nothing_is_shown_where_none_is_wanted_or_there_is_no_terminal(wanted: bool, output: type[io.StringIO]) -> None:
    with redirect_stderr(output()) as shown, progress_bar(3, "thinking", "row", progress=wanted) as bar:
        bar.update(1)
    assert shown.getvalue() == ""


def test_parts_of_a_unit_are_counted_and_not_shown() -> None:
    with redirect_stderr(Terminal()) as terminal, progress_bar(1, "thinking", "row", progress=True) as bar:
        for _ in range(3):
            bar.update(1 / 3)
    assert "| 1/1 [" in terminal.getvalue()


def test_more_than_all_by_rounding_is_all() -> None:
    with redirect_stderr(Terminal()) as terminal, progress_bar(1, "thinking", "row", progress=True) as bar:
        bar.update(1 + 1e-9)  # tqdm's warning would be an error here
        bar.refresh()
    assert "100%" in terminal.getvalue()


class Gone(Terminal):
    """A terminal that is closed when the bar has been there for a while."""

    def write(self, text: str) -> int:
        if "[00:01<" in text or "[00:02<" in text:
            raise BrokenPipeError
        return super().write(text)


def test_a_terminal_that_goes_away_ends_the_work_and_blocks_nobody() -> None:
    def work() -> None:
        with suppress(BrokenPipeError), progress_bar(3, "thinking", "row", progress=True) as bar:
            time.sleep(1.5)
            bar.update(1)

    with redirect_stderr(Gone()):
        thread = Thread(target=work, daemon=True)
        thread.start()
        thread.join(10)
    assert not thread.is_alive()
    with redirect_stderr(Terminal()) as terminal, progress_bar(1, "again", "row", progress=True) as bar:
        bar.update(1)
    assert "1/1" in terminal.getvalue()


def test_a_price_is_named_once_and_only_where_it_is_long() -> None:
    cheap, dear = Progress(shown=True, rows=100), Progress(shown=True, rows=12_000)
    with redirect_stderr(io.StringIO()) as shown:
        cheap.price("sampling", seconds=1.0, rows=10)
        dear.price("sampling", seconds=26.0, rows=200)
        dear.price("sampling", seconds=99.0, rows=200)
    assert shown.getvalue() == "sampling: about 0.13 s a row, 26:00 for 12000 rows\n"


def test_annealing_names_its_price_and_moves_within_a_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_DEAR", 0.0)
    vae = BernoulliVAE(visible=6, latent=2)
    rows = (torch.rand(20, 6) < 0.4).to(torch.get_default_dtype())
    told = []
    with redirect_stderr(Terminal()) as terminal, monkeypatch.context() as patched:
        patched.setattr("tqdm.std.tqdm.update", lambda bar, n=1: told.append((bar.desc, n)))
        log_evidence(vae.model, vae.guide, rows, method="ais", max_steps=20, progress=True)
    assert "annealed importance sampling: about" in terminal.getvalue()
    moves = [n for name, n in told if name == "annealing"]
    assert len(moves) > 20
    assert sum(moves) == pytest.approx(20)
