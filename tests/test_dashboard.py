"""The page loads nothing from elsewhere once the assets lie beside it."""

import pytest

from benchmarks import assets

PAGE = """<script src="https://elsewhere.example/ajax/jquery.flot.min.js" integrity="sha512-x" onerror="f()"></script>
<script src="graphdisplay.js"></script>
<link rel="stylesheet" href="https://elsewhere.example/css/bootstrap.min.css" integrity="sha256-y" crossorigin="anonymous">
<a href="https://elsewhere.example/asv/">asv</a>"""


def test_remote_scripts_and_styles_become_local() -> None:
    assert assets.local(PAGE).splitlines() == [
        '<script src="assets/jquery.flot.min.js"></script>',
        '<script src="graphdisplay.js"></script>',
        '<link rel="stylesheet" href="assets/bootstrap.min.css">',
        '<a href="https://elsewhere.example/asv/">asv</a>',
    ]


def test_a_page_that_asks_for_more_is_no_silent_matter() -> None:
    with pytest.raises(KeyError, match=r"new\.js"):
        assets.local('<script src="https://elsewhere.example/new.js"></script>')
