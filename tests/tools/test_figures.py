"""Figures and formatted values of the reports."""

import pytest

from tools.reporting import figures, page


def test_a_figure_is_the_same_every_time():
    drawn = [figures.draw_figure(lambda axes: axes.plot([0, 1]), title="a", alt="b").uri for _ in range(2)]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (figures.number(None), "—"),
        (figures.number(0.12349), "0.123"),
        (figures.with_interval(0.5, None, None), "0.500"),
        (figures.with_interval(0.5, 0.25, 1.0), "0.500 [0.250, 1.000]"),
        (page.share(None), "—"),
        (page.share(0.0123), "1.2 %"),
        (page.signed(None), "—"),
        (page.signed(-0.0104), "-0.010"),
        (page.count(1234), "1,234"),
        (figures.readable("Pleural_Thickening"), "Pleural Thickening"),
    ],
)
def test_values_are_formatted(shown, expected):
    assert shown == expected
