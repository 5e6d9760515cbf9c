"""The quality page in a real browser: readable in both languages, on a telephone and in the dark, and it asks nobody for anything."""

from __future__ import annotations

import pytest

from predator_si.reports.window import write_window_pages
from predator_si_tests.support.browser import ABSENT, browser, browser_is_here
from predator_si_tests.unit.test_reports_window import evidence

pytestmark = [pytest.mark.live, pytest.mark.skipif(not browser_is_here(), reason=ABSENT)]


def test_page_reads_well_in_both_languages_and_widths(tmp_path):
    pages = write_window_pages(tmp_path, evidence("<b>&"))
    with browser() as page:
        for lang, words in (("en", ["Gates, and why not", "Worst slices", "No cycle starts"]), ("uk", ["Пороги, і чому ні", "Найгірші зрізи", "Дрейф"])):
            for width in (1100, 390):
                page.open(pages[lang].as_uri(), width=width)
                text = page.value("document.body.innerText")
                assert all(word in text for word in [*words, "torch<b>& number 0"]), text[:500]
                assert page.value("document.documentElement.lang") == lang
                assert page.value("document.documentElement.scrollWidth") <= width  # tables scroll inside their own box
                assert page.value("[...document.images].length") >= 5
                assert page.value("[...document.images].every(one => one.complete && one.naturalWidth > 100)")
                assert page.value("[...document.images].every(one => one.alt.length > 0)")
                assert page.complaints == []
        page.open(pages["uk"].as_uri())
        page.value("document.querySelector('a[hreflang=en]').click()")
        page.open(pages["en"].as_uri())
        assert page.value("document.querySelector('a[hreflang=uk]').href") == pages["uk"].as_uri()


def test_page_is_dark_where_the_reader_wants_it(tmp_path):
    pages = write_window_pages(tmp_path, evidence())
    with browser() as page:
        back = {}
        for dark in (False, True):
            page.open(pages["en"].as_uri(), dark=dark)
            back[dark] = page.value("getComputedStyle(document.body).backgroundColor")
            shown = page.value("document.images[0].currentSrc")
            back[dark, "picture"] = shown[:2000]
        assert back[False] == "rgb(246, 247, 249)" and back[True] == "rgb(15, 19, 26)"
        assert back[False, "picture"] != back[True, "picture"]
