"""The report in headless Chromium: it renders at both widths, in light and dark, without a complaint."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dusk.report import report
from report_browser import Browser, find_browser
from report_runs import judge_stage, whole_run, write_grades, write_run, write_scores, write_seeds, write_two

PROGRAM = find_browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine")

# what is wider than the window though it is in no box that scrolls
WIDE = """[...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll, pre, svg, .spoken')
    && e.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML.slice(0, 80))"""


# texts of less contrast than WCAG asks for (4.5 to 1)
POOR = """(() => {
  const rgb = text => text.match(/[\\d.]+/g).map(Number);
  const part = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = c => 0.2126 * part(c[0]) + 0.7152 * part(c[1]) + 0.0722 * part(c[2]);
  const ground = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } };
  const poor = [];
  for (const e of document.querySelectorAll('main *')) {
    if (e.closest('svg') || ![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())) continue;
    const pair = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) poor.push([e.tagName, e.className, e.textContent.trim().slice(0, 30), ratio]);
  }
  return poor; })()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    stages = whole_run()
    stages[4].settings["label"] = "a-name-without-any-place-to-break-it-that-is-far-too-long-for-a-phone"
    stages[5].settings["label"] = '<img src=x onerror="alert(1)">'
    folder = write_run(tmp_path_factory.mktemp("browser") / "run", stages)
    write_scores(folder / "scores")
    return report(folder)


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(write_seeds(tmp_path_factory.mktemp("seeds") / "out"))


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(write_two(tmp_path_factory.mktemp("compared")))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert PROGRAM is not None
    with Browser(PROGRAM) as opened:
        yield opened


@pytest.mark.parametrize("width", [1280, 390, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_renders(browser: Browser, page: Path, width: int, scheme: str) -> None:
    browser.open(page, width=width, scheme=scheme)
    assert browser.problems == []
    assert browser.requests == [page.as_uri()]
    assert browser.run("innerWidth") == width
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert "passed its 8-layer base after 600k tokens" in browser.run(
        "document.querySelector('.lede').textContent"
    )
    drawn = """[...document.querySelectorAll('main > section > figure svg, .charts svg')]
        .every(svg => svg.getBoundingClientRect().width > 20)"""
    assert browser.run(drawn)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_of_several_seeds_renders(browser: Browser, seeds: Path, width: int) -> None:
    browser.open(seeds, width=width)
    assert browser.problems == []
    assert browser.requests == [seeds.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(WIDE) == []
    # three arms in two charts: a thin line for each of three seeds, a thick one for the mean
    assert browser.run("document.querySelectorAll('.charts .line.faint').length") == 18
    assert browser.run("document.querySelectorAll('.charts [data-points]').length") == 6
    assert browser.run("document.querySelectorAll('.forest circle.seed').length") == 6


@pytest.mark.parametrize("width", [1280, 390])
def test_ablation_tables_render(browser: Browser, tmp_path: Path, width: int) -> None:
    rows = {name: {"Pages": True, "Mathematics": name == "sft_v4"} for name in ("sft_v3", "sft_v4")}
    table = {"title": "Data", "paper": "table3", "columns": ["Pages", "Mathematics"], "rows": rows}
    folder = write_run(tmp_path / "run", whole_run(), tables={"table3": table})
    write_scores(folder / "scores")
    browser.open(report(folder), width=width)
    assert browser.problems == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(WIDE) == []
    on = """[...document.querySelectorAll('.ablation td.choice span')].map(e => e.getAttribute('aria-label'))"""
    assert browser.run(on) == ["on", "off", "on", "on"]
    assert browser.run("document.querySelectorAll('.ablation .best b').length") > 0


@pytest.mark.parametrize("width", [1280, 390, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_compared_runs_renders(browser: Browser, compared: Path, width: int, scheme: str) -> None:
    browser.open(compared, width=width, scheme=scheme)
    assert browser.problems == []
    assert browser.requests == [compared.as_uri()]
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert browser.run(WIDE) == []
    assert browser.run(POOR) == []
    assert browser.run("document.querySelectorAll('#curves ~ .charts [data-points]').length") == 4
    assert browser.run("document.querySelectorAll('.scores tbody tr').length") == 15
    browser.run("document.querySelectorAll('.scores thead th')[3].querySelector('button').click()")
    first = "document.querySelector('.scores tbody th').textContent.trim()"
    assert browser.run(first) == "merge_average (wide)"


@pytest.mark.parametrize("width", [1200, 400])
def test_a_judges_grades_render(browser: Browser, tmp_path: Path, width: int) -> None:
    folder = write_run(tmp_path / "run", [*whole_run(), judge_stage()])
    write_scores(folder / "scores")
    write_grades(folder / "judged")
    for scheme in ("light", "dark"):
        browser.open(report(folder), width=width, scheme=scheme)
        assert browser.problems == []
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run(WIDE) == []
        assert browser.run(POOR) == []
    names = "[...document.querySelectorAll('.judged tbody tr')].map(e => e.cells[0].textContent.trim())"
    assert browser.run(names)[:2] == ["candidate_1 reference", "candidate_2"]
    browser.run("document.querySelectorAll('.judged thead th')[3].querySelector('button').click()")
    overall = "[...document.querySelectorAll('.judged tbody tr')].map(e => Number(e.cells[3].dataset.value))"
    assert browser.run(overall) == sorted(browser.run(overall), reverse=True)


def test_all_that_scrolls_or_opens_is_reached_by_the_keyboard(browser: Browser, compared: Path) -> None:
    """With Tab alone, in the page's order, and what has the focus is named."""
    browser.open(compared, width=390)
    focused = """(() => { const e = document.activeElement; if (e === document.body) return null;
        return [e.tagName, e.getAttribute('aria-label') || e.textContent.trim()] })()"""
    wanted = browser.run(
        "document.querySelectorAll('main a, main button, main summary, main .scroll').length"
    )
    hidden = browser.run("document.querySelectorAll('main details:not([open]) .scroll').length")
    seen = []
    for _ in range(wanted - hidden):
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        seen.append(browser.run(focused))
    assert all(each and each[1] for each in seen)
    assert [each[0] for each in seen[:3]] == ["DIV", "A", "A"]
    assert ["SUMMARY", "The numbers"] in seen
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_the_links_of_several_seeds_open_their_reports(browser: Browser, seeds: Path) -> None:
    browser.open(seeds, width=1280)
    link = browser.run("document.querySelector('.seeds tbody a').href")
    assert link == (seeds.parent / "seed-0" / "report.html").as_uri()
    browser.open(seeds.parent / "seed-0" / "report.html", width=1280)
    assert "passed its 8-layer base after 650k tokens" in browser.run(
        "document.querySelector('.lede').textContent"
    )


def test_names_of_models_are_whole(browser: Browser, seeds: Path) -> None:
    """One line at a desktop's width; on a phone a new line begins after an underscore or a space alone."""
    lines = """[...document.querySelectorAll('.scores tbody th')].map(th => {
        const range = document.createRange(), found = [];
        const walk = document.createTreeWalker(th, NodeFilter.SHOW_TEXT);
        for (let node = walk.nextNode(); node; node = walk.nextNode()) {
          if (node.parentElement.closest('.tag')) continue;
          for (let i = 0; i < node.length; i++) {
            range.setStart(node, i); range.setEnd(node, i + 1);
            const top = Math.round(range.getBoundingClientRect().top), last = found[found.length - 1];
            if (last && last[0] === top) last[1] += node.data[i]; else found.push([top, node.data[i]]);
          }
        }
        return found.map(line => line[1].trim()).filter(Boolean) })"""
    names = ["decayed", "scaled", "recovered", "base_same_tokens", "base_same_compute"]
    browser.open(seeds, width=1280)
    assert browser.run(lines) == [[name] for name in names]
    browser.open(seeds, width=390)
    for name, parts in zip(names, browser.run(lines), strict=True):
        assert "".join(parts) == name
        assert all(part.endswith("_") for part in parts[:-1])


def test_only_boxes_that_scroll_are_wider_than_a_phone(browser: Browser, page: Path) -> None:
    browser.open(page, width=390)
    assert browser.run(WIDE) == []
    sticky = """(() => { const box = document.querySelector('.scores').parentElement; box.scrollLeft = 150;
        const first = document.querySelector('.scores tbody th');
        return first.getBoundingClientRect().left - box.getBoundingClientRect().left })()"""
    assert browser.run(sticky) == 0


def test_text_is_read(browser: Browser, page: Path) -> None:
    """Every text has at least the contrast that WCAG asks for (4.5 to 1), in both schemes."""
    for scheme in ("light", "dark"):
        browser.open(page, width=1280, scheme=scheme)
        assert browser.run(POOR) == []


def test_the_table_sorts(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    names = "[...document.querySelectorAll('.scores tbody th')].map(e => e.textContent.trim())"
    head = "document.querySelectorAll('.scores thead th')[{}]"
    before = browser.run(names)
    browser.run(f"{head.format(3)}.querySelector('button').click()")
    assert browser.run(f"{head.format(3)}.getAttribute('aria-sort')") == "descending"
    assert browser.run(names)[:2] == ["merge_average", "merge_slerp"]
    browser.run(f"{head.format(4)}.querySelector('button').click()")
    assert browser.run(f"{head.format(4)}.getAttribute('aria-sort')") == "ascending"  # fewer bits are better
    assert browser.run(names)[-1] == "scaled"
    assert sorted(browser.run(names)) == sorted(before)
    assert browser.problems == []


def test_the_pointer_tells_values(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    box = browser.run(
        "(() => { const s = document.querySelector('svg[data-chart]'); s.scrollIntoView({block: 'center'});"
        "const b = s.getBoundingClientRect(); return [b.left, b.top, b.width, b.height] })()"
    )
    x, y = box[0] + box[2] * 48 / 460 + 1, box[1] + box[3] / 2
    browser.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    told = browser.run("document.querySelector('.tip').textContent")
    assert "2.500 at 0" in told
    assert "base, same tokens" in told
    assert browser.problems == []


def test_the_policy_stops_what_is_not_ours(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.run(
        "(() => { const s = document.createElement('script');"
        "s.textContent = 'window.ran = 1'; document.body.append(s) })()"
    )
    assert browser.run("window.ran === undefined")
