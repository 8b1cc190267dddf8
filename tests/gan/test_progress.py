import io
import re

import pytest
from rich.console import Console
from rich.text import Text

from tune_gan.config import GanConfig
from tune_gan.gan.progress import TrainingProgress
from tune_gan.gan.training import iterate

DIGITS = GanConfig(
    dataset="digits", gen_hidden=(16,), disc_hidden=(16,), num_iterations=2, report_every=1
)


def _shown(config: GanConfig, console: Console) -> str:
    output = io.StringIO()
    console.file = output
    with TrainingProgress(config, Console(file=io.StringIO(), width=80), console) as progress:
        progress.start(0)
        for report in iterate(config):
            progress.show(report)
    return output.getvalue()


@pytest.mark.parametrize("width", [20, 80, 200])
def test_samples_are_drawn_with_half_blocks_within_the_width(width: int) -> None:
    shown = _shown(DIGITS, Console(width=width, force_terminal=True, color_system="truecolor"))
    assert "▄" in shown
    assert "\x1b[38;2;" in shown
    lines = Text.from_ansi(shown).plain.splitlines()
    assert 0 < max(map(len, lines)) <= width
    if width > 37:
        # 8x8 pixels and a border of 1: 10 rows, two a line, for each of the two reports.
        assert len(lines) == 10


@pytest.mark.parametrize("terminal", [False, True])
def test_samples_are_drawn_with_shades_where_there_is_no_colour(
    terminal: bool, tiny_ring: GanConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    if terminal:
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm-256color")
    for config, num_lines in ((DIGITS, 2 * 5), (tiny_ring, 3 * 24)):
        shown = _shown(config, Console(width=80, force_terminal=terminal))
        assert "\x1b" not in shown
        lines = shown.splitlines()
        assert len(lines) == num_lines
        assert max(map(len, lines)) <= 80
        assert len(set("".join(lines))) > 3


def test_progress_is_a_bar_on_a_terminal_that_starts_where_a_run_goes_on(
    tiny_ring: GanConfig,
) -> None:
    output = io.StringIO()
    console = Console(file=output, width=100, force_terminal=True, color_system=None)
    with TrainingProgress(tiny_ring, console) as progress:
        assert output.getvalue() == ""
        progress.start(2)
        for report in iterate(tiny_ring):
            progress.show(report)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output.getvalue())
    assert "2/6 iterations" in shown
    assert "6/6 iterations, fid_proxy" in shown
    assert "0/6" not in shown


def test_progress_is_a_line_a_report_without_a_terminal(tiny_ring: GanConfig) -> None:
    output = io.StringIO()
    with TrainingProgress(tiny_ring, Console(file=output, width=40)) as progress:
        progress.start(0)
        for report in iterate(tiny_ring):
            progress.show(report)
    lines = output.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [f"iteration {i}/6" for i in (2, 4, 6)]
    assert "gen_loss" in lines[0]
    assert "epoch 0.0" in lines[0]
