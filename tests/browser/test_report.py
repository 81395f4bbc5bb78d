"""The report of a walk-forward in a real browser: one small file, offline, on a desk and on a phone, light and dark."""

import numpy as np
import pytest
import pytest_asyncio
from chromium import CHROMIUM, FLAGS, MISSING, Witness, needs_browser

from streamforge.evaluation.permutation import NullDraws
from streamforge.evaluation.portfolio import Curve
from streamforge.evaluation.results import FoldResult
from streamforge.viz.report import report_page

pytestmark = [pytest.mark.slow, needs_browser]
in_browser = pytest.mark.asyncio(loop_scope="module")

HOUR, MINUTE, FIRST = 3_600_000, 60_000, 1_640_995_200_000
NAMES = ("agent", "agent_without_graph", "buy_and_hold", "cash")
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
DESK = {"viewport": {"width": 1200, "height": 1000}}


def walk(rows: int, step: int, folds: int = 3) -> list[FoldResult]:
    "Folds of random walks: as many rows in all, four strategies, two of them trained thrice and compared with a null."
    rng, size = np.random.default_rng(7), rows // folds

    def curve(times: list[int], spread: float) -> Curve:
        moves = rng.normal(0, spread, len(times))
        moves[0] = 0.0
        return Curve(open_time=times, equity=np.exp(moves.cumsum()).tolist(), traded=40.0, exposure=0.4)

    def null(times: list[int]) -> NullDraws:
        points = np.unique(np.linspace(0, size - 1, 120).round().astype(int))
        curves = np.exp(rng.normal(0, 0.01, (99, len(points))).cumsum(1)).round(5)
        return NullDraws(
            kind="bars",
            seeds=[7],
            periods=size - 1,
            observed=(0.01, 1e-5, 0.01),
            growth=rng.normal(0, 0.1, 99).tolist(),
            mean=rng.normal(0, 1e-5, 99).tolist(),
            square=np.full(99, 0.01).tolist(),
            open_time=[times[point] for point in points],
            curves=curves.tolist(),
            traded=True,
            timed=True,
        )

    results = []
    for fold in range(folds):
        times = [FIRST + (fold * size + row) * step for row in range(size)]
        own = {name: curve(times, 0.0 if name == "cash" else 0.003) for name in NAMES}
        results.append(
            FoldResult(
                fold=fold,
                folds=folds,
                dataset_sha256="3f" * 32,
                interval="1h" if step == HOUR else "1m",
                seed=7 + fold,
                seeds=[7 + fold, 1_007 + fold, 2_007 + fold],
                symbols=[f"COIN{n}USDT" for n in range(8)],
                rows={"test": (fold * size, (fold + 1) * size)},
                strategies=own,
                by_seed={name: [own[name]] * 3 for name in NAMES[:2]},
                null={name: null(times) for name in NAMES[:2]},
                gnn={"auc": 0.52, "auc_baseline": 0.51},
                ppo={},
                periods_per_year=31_536_000_000 / step,
            )
        )
    return results


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser():
    if MISSING:
        pytest.fail(MISSING)
    from playwright.async_api import async_playwright

    async with async_playwright() as play:
        chromium = await play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        await chromium.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    "The report of a walk-forward of the demo's size, as a file."
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report_page(walk(1_476, HOUR), facts={"command": "streamforge demo --seed 7"}), encoding="utf-8")
    return path


async def opened(browser, path, **options):
    "The report in a new window, drawn, with its witness and context."
    context = await browser.new_context(**options)
    page = await context.new_page()
    witness = Witness(page, "")
    await page.goto(path.as_uri())
    await page.locator(".drawn .scatterlayer path.js-line").first.wait_for(timeout=60_000)
    return context, page, witness


@in_browser
async def test_it_is_one_small_file_that_asks_for_nothing(browser, report):
    assert report.stat().st_size < 3_000_000
    context, page, witness = await opened(browser, report, **DESK)
    assert await page.locator("strong").first.inner_text() != ""
    await context.close()
    assert witness.faults == []


def test_a_year_of_minutes_stays_below_five_megabytes():
    assert len(report_page(walk(525_600, MINUTE)).encode()) < 5_000_000


@in_browser
async def test_a_phone_scrolls_down_and_never_sideways(browser, report):
    context, page, witness = await opened(browser, report, **PHONE)
    assert await page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    box = await page.locator(".nsewdrag").first.bounding_box()
    axis = "document.querySelector('.js-plotly-plot').layout.xaxis.range.join()"
    before = await page.evaluate(axis)
    session = await context.new_cdp_session(page)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    for kind, down in (("touchStart", 0), ("touchMove", 40), ("touchMove", 80), ("touchEnd", None)):
        points = [] if down is None else [{"x": x - down, "y": y}]
        await session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert await page.evaluate(axis) == before  # a swipe zooms nothing
    await context.close()
    assert witness.faults == []


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_page_and_figure_follow_the_readers_colours(browser, report, scheme):
    context, page, _ = await opened(browser, report, color_scheme=scheme, **DESK)

    async def brightness(expression: str) -> float:
        colour = await page.evaluate(expression)
        numbers = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        return sum(numbers) / 3

    ground = await brightness("getComputedStyle(document.documentElement).backgroundColor")
    if scheme == "light" and ground == 0:  # transparent: the browser's own white
        ground = 255.0
    text = await brightness("getComputedStyle(document.querySelector('strong')).color")
    label = await brightness("getComputedStyle(document.querySelector('.xtick text')).fill")
    assert (ground < 80 < text and label > 120) if scheme == "dark" else (text < 80 < ground and label < 140)
    await context.close()
