"""The page of shards in a browser: charts, search, right-to-left text, hostile texts as texts."""

from pathlib import Path
from typing import Any

from mmbert.report.shards.page import write_shards_report
from tests.report.test_browser import opened
from tests.report.test_page import HOSTILE
from tests.support.encoded_shards import write_encoded_shards

ARABIC = "يلعب الأطفال في الحديقة خلف البيت"
DIRECTION = "element => getComputedStyle(element).direction"


def test_a_language_is_found_and_folds_out(browser: Any, tmp_path: Path) -> None:
    texts = {
        "arb_Arab": [f"{ARABIC} {number}" for number in range(30)],
        "eng_Latn": [f"{HOSTILE} words of a document {number}" for number in range(30)],
        "swh_Latn": [f"maneno ya hati {number}" for number in range(30)],
    }
    write_encoded_shards(tmp_path / "shards", texts, vocabulary_size=400)
    page_path = tmp_path / "page.html"
    write_shards_report(tmp_path / "shards", page_path)
    with opened(browser, page_path) as page:
        assert page.evaluate("window.reportReady") == 4
        shown = page.locator("#list > details:visible")
        assert shown.count() == 3
        page.fill("#search", "Latin swah")
        assert shown.count() == 1
        assert page.inner_text("#found") == "1"
        assert not page.locator("[lang=sw-Latn]").first.is_visible()
        shown.first.locator("summary").click()
        assert page.locator("[lang=sw-Latn]:visible").count() == 10
        page.fill("#search", "")
        assert shown.count() == 3
        arabic, english = (page.locator(f"[lang={tag}]").first for tag in ("ar-Arab", "en-Latn"))
        assert arabic.evaluate(DIRECTION) == "rtl"
        assert english.evaluate(DIRECTION) == "ltr"
        assert "onerror=alert(1)" in english.text_content()
        assert page.locator("img").count() == 0
