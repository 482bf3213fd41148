"""The picture of a trend shows what the figures say."""

from itertools import pairwise

from benchmarks.dashboard.sparkline import EDGE, HEIGHT, WIDTH, Trend


def test_a_picture_is_said_in_words():
    points = [("a" * 40, 2.0, 1.9, 2.1), ("b" * 40, 3.0, 2.9, 3.1), ("c" * 40, 1.0, 0.9, 1.1)]
    assert str(Trend("x", points)) == "x at 3 commits: 2 at aaaaaaaa, 1 at cccccccc, least 1, most 3"
    assert str(Trend("x", points[:1])) == "x: 2 at the one commit measured, aaaaaaaa"


def test_a_picture_reaches_from_edge_to_edge_and_upwards_is_slower():
    trend = Trend("x", [(str(number), 1.0 + number, 0.5 + number, 1.5 + number) for number in range(50)])
    places = [tuple(map(float, pair.split(","))) for pair in trend.line().split()]
    assert places[0][0] == EDGE
    assert places[-1][0] == WIDTH - EDGE
    assert all(first[0] < later[0] and first[1] > later[1] for first, later in pairwise(places))
    assert (trend.y(50.5), trend.y(0.5)) == (EDGE, HEIGHT - EDGE)
    band = trend.band().split()
    assert len(band) == 100
    assert band[0] == f"{float(EDGE)},{trend.y(1.5)}"
    assert band[-1] == f"{float(EDGE)},{trend.y(0.5)}"


def test_noise_is_drawn_flat():
    trend = Trend("x", [("a", 1.0, 0.999, 1.001), ("b", 1.001, 1.0, 1.002)])
    assert abs(trend.y(1.0) - trend.y(1.001)) < 1
    assert Trend("x", [("a", 0.0, 0.0, 0.0)]).y(0.0) == HEIGHT / 2


def test_one_and_the_goal_are_marked_where_the_picture_reaches_them():
    points = [("a", 0.9, 0.8, 1.0), ("b", 1.2, 1.1, 1.3)]
    assert [kind for kind, _ in Trend("x", points, 1.05).marks()] == ["equal", "goal"]
    assert [kind for kind, _ in Trend("x", points, 0.05).marks()] == ["equal"]
    assert Trend("x", points, 1.05).marks()[1][1] == Trend("x", points).y(1.05)
    assert Trend("x", [("a", 0.1, 0.1, 0.1)]).marks() == []
