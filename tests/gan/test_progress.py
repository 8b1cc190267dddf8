import io

import pytest
from rich.console import Console

from tune_gan.config import GanConfig
from tune_gan.gan.progress import TrainingProgress
from tune_gan.gan.training import iterate

DIGITS = GanConfig(
    dataset="digits", gen_hidden=(16,), disc_hidden=(16,), num_iterations=2, report_every=1
)


def _shown(config: GanConfig, width: int, *, colour: bool) -> str:
    output = io.StringIO()
    samples = Console(
        file=output,
        width=width,
        force_terminal=colour,
        color_system="truecolor" if colour else None,
        no_color=not colour,
    )
    with TrainingProgress(config, Console(file=io.StringIO(), width=80), samples) as progress:
        for report in iterate(config):
            progress.show(report)
    return output.getvalue()


@pytest.mark.parametrize("width", [20, 80, 200])
def test_samples_are_drawn_with_half_blocks_within_the_width(width: int) -> None:
    shown = _shown(DIGITS, width, colour=True)
    assert "▄" in shown
    assert "\x1b[38;2;" in shown
    lines = Console(file=io.StringIO(), width=width).render_str(shown).plain.splitlines()
    assert lines
    if width > 37:
        # 8x8 pixels and a border of 1: 10 rows, two a line, for each of the two reports.
        assert len(lines) == 10


def test_samples_are_drawn_with_shades_where_there_is_no_colour(tiny_ring: GanConfig) -> None:
    for config, num_lines in ((DIGITS, 2 * 5), (tiny_ring, 3 * 24)):
        shown = _shown(config, 80, colour=False)
        assert "\x1b" not in shown
        lines = shown.splitlines()
        assert len(lines) == num_lines
        assert max(map(len, lines)) <= 80
        assert len(set("".join(lines))) > 3


def test_progress_is_a_line_a_report_without_a_terminal(tiny_ring: GanConfig) -> None:
    output = io.StringIO()
    with TrainingProgress(tiny_ring, Console(file=output, width=40)) as progress:
        for report in iterate(tiny_ring):
            progress.show(report)
    lines = output.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [f"iteration {i}/6" for i in (2, 4, 6)]
    assert "gen_loss" in lines[0]
    assert "epoch 0.0" in lines[0]
