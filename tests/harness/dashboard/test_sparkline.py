"""A sparkline shows what the figures say."""

from itertools import pairwise

from benchmarks.dashboard.sparkline import EDGE, HEIGHT, WIDTH, Sparkline


def test_a_sparkline_is_described_in_words() -> None:
    points = [("a" * 40, 2.0, 1.9, 2.1), ("b" * 40, 3.0, 2.9, 3.1), ("c" * 40, 1.0, 0.9, 1.1)]
    assert str(Sparkline("x", points)) == "x at 3 commits: 2 at aaaaaaaa, 1 at cccccccc, least 1, most 3"
    assert str(Sparkline("x", points[:1])) == "x: 2 at the only commit measured, aaaaaaaa"


def test_a_sparkline_reaches_from_edge_to_edge_and_upwards_is_slower() -> None:
    sparkline = Sparkline("x", [(str(number), 1.0 + number, 0.5 + number, 1.5 + number) for number in range(50)])
    places = [tuple(map(float, pair.split(","))) for pair in sparkline.line().split()]
    assert places[0][0] == EDGE
    assert places[-1][0] == WIDTH - EDGE
    assert all(first[0] < later[0] and first[1] > later[1] for first, later in pairwise(places))
    assert (sparkline.y(50.5), sparkline.y(0.5)) == (EDGE, HEIGHT - EDGE)
    band = sparkline.band().split()
    assert len(band) == 100
    assert band[0] == f"{float(EDGE)},{sparkline.y(1.5)}"
    assert band[-1] == f"{float(EDGE)},{sparkline.y(0.5)}"


def test_noise_is_drawn_flat() -> None:
    sparkline = Sparkline("x", [("a", 1.0, 0.999, 1.001), ("b", 1.001, 1.0, 1.002)])
    assert abs(sparkline.y(1.0) - sparkline.y(1.001)) < 1
    assert Sparkline("x", [("a", 0.0, 0.0, 0.0)]).y(0.0) == HEIGHT / 2


def test_the_ratio_one_is_marked_where_the_picture_reaches_it() -> None:
    reaching = Sparkline("x", [("a", 0.9, 0.8, 1.0), ("b", 1.2, 1.1, 1.3)])
    assert reaching.equal() == reaching.y(1.0)
    assert Sparkline("x", [("a", 0.1, 0.1, 0.1)]).equal() is None
