"""The page in a real browser over a real lab: what it draws, what it does while workers run, what it must never do."""

import asyncio
import math
import time
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from chromium import CHROMIUM, FLAGS, MISSING, Witness, needs_browser, until

from streamforge.bus.base import Message
from streamforge.cli.services import open_lab
from streamforge.client.client import Client
from streamforge.core.names import enriched_collection
from streamforge.core.samples import candles
from streamforge.core.settings import read_places
from streamforge.features.enricher import Enricher
from streamforge.features.indicators import INDICATORS
from streamforge.messages.control import Event, encode_control
from streamforge.messages.records import Decision, candles_of, enriched_type
from streamforge.store.schemas import CANDLES, DECISIONS, EDGES, enriched_schema

pytestmark = [needs_browser, pytest.mark.asyncio(loop_scope="module")]

HOSTILE = '<img src=x onerror="window.hurt=1"><b>bold</b>'
LONG = "x" * 300  # a word that does not end
MARKETS, PRICES = ("BTCUSDT", "ETHUSDT"), ("open_time", "open", "high", "low", "close", "volume")
WIDE = {"viewport": {"width": 1280, "height": 900}}
ACTIONS = ("buy", "hold", "sell", "sell", "hold", "hold", "buy", "buy")  # per candle, again and again


def enriched_rows(symbol):
    table = candles(symbol, "2021-05-10:2021-05-25")
    plain = candles_of({column: table[column].to_numpy() for column in table}, symbol, "1h", 3_600_000)
    values = Enricher().history(*(table[price] for price in PRICES))
    fields = ({name: getattr(candle, name) for name in candle.__struct_fields__} for candle in plain)
    rows = [
        enriched_type(INDICATORS)(
            **own, **{k: None if math.isnan(v) else v for k, v in zip(INDICATORS, row, strict=True)}
        )
        for own, row in zip(fields, values, strict=True)
    ]
    return plain, rows


def decisions_of(agent, rows):
    "An agent that repeats itself, and the turns that change its position."
    decisions, turns, long = [], {"buy": 0, "sell": 0}, False
    for n, row in enumerate(rows):
        action = ACTIONS[n % len(ACTIONS)]
        decisions.append(
            Decision(
                agent=agent,
                symbol=row.symbol,
                interval="1h",
                open_time=row.open_time,
                action=action,
                position=float(long),
                price=row.close,
                equity=1 + n / 1e4,
                model_name="ppo",
                model_version="0",
                latency_ms=1.0,
                queue_id="wf-1",
            )
        )
        if action != "hold" and (action == "buy") != long:
            turns[action], long = turns[action] + 1, action == "buy"
    return decisions, turns


async def fill(store):
    "Two markets with indicators, two agents in one of them, a ring of relations with three snapshots."
    collection = "candles_1h"
    for name, schema in (
        (collection, CANDLES),
        (enriched_collection(collection), enriched_schema(INDICATORS)),
        ("decisions", DECISIONS),
        ("edges", EDGES),
    ):
        await store.ensure(name, schema)
    for symbol in MARKETS:
        plain, enriched = enriched_rows(symbol)
        await store.upsert(collection, plain)
        await store.upsert(enriched_collection(collection), enriched)
        if symbol == "BTCUSDT":
            decisions, turns = decisions_of("an-agent", enriched[-100:])
            await store.upsert("decisions", decisions + decisions_of(HOSTILE, enriched[-20:])[0])
    nodes = ["BTCUSDT", "ETHUSDT", "BNBUSDT", "XRPUSDT", HOSTILE]
    ring = [(a, b) for a, b in zip(nodes, nodes[1:] + nodes[:1], strict=True)]
    await store.upsert(
        "edges",
        [
            {"graph": "relations_1h", "source": a, "target": b, "open_time": at, "weight": 0.5 - n / 4}
            for at in (1, 2, 3)
            for n, (a, b) in enumerate(ring)
        ],
    )
    return {
        "candles": len(plain),
        "turns": turns,
        "nodes": nodes,
        "close": {market: candles(market, "2021-05-10:2021-05-25").close.tolist() for market in MARKETS},
    }


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    "An open lab with stored rows, and a browser."
    assert not MISSING, MISSING
    from playwright.async_api import async_playwright

    places = read_places({"STREAMFORGE_HOME": str(tmp_path_factory.mktemp("lab"))})
    async with open_lab(places, env={"TELEMETRY_INTERVAL": "0.1"}) as lab, async_playwright() as play:
        stored = await fill(lab.store)
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        await browser.new_context(**WIDE)
        yield lab, browser, stored
        await browser.close()


@asynccontextmanager
async def visit(lab, browser, **options):
    "The page, drawn; afterwards nothing may have gone wrong in it."
    context = (
        await browser.new_context(**WIDE | options) if options else browser.contexts[0]
    )  # one for all keeps plotly's code warm
    page = await context.new_page()
    page.set_default_timeout(20_000)
    witness = Witness(page, urlsplit(lab.url).netloc)
    await page.goto(lab.url)
    await until(
        page, "document.getElementById('candles').data?.length && document.getElementById('relations').data?.length"
    )
    await page.locator("#link.on").wait_for()
    yield page
    faults = list(witness.faults)
    await (context if options else page).close()
    assert not faults, "\n".join(faults)


TRACE = "(name) => document.getElementById('candles').data.find((o) => o.name === name || o.type === name)"


async def test_candles_indicators_and_markets(world):
    lab, browser, stored = world
    async with visit(lab, browser) as page:
        boxes = "document.querySelectorAll('#candles .boxlayer path.box').length"
        await until(page, f"{boxes} === 300")
        assert (await page.evaluate(TRACE, "candlestick"))["name"] == "BTCUSDT"
        assert await page.evaluate(f"({TRACE})('candlestick').close") == stored["close"]["BTCUSDT"][-300:]
        await page.select_option("#last", "1000")
        await until(page, f"{boxes} === {stored['candles']}")
        await page.select_option("#lower", "macd_hist")
        await until(page, f"({TRACE})('macd_hist') && !({TRACE})('rsi_14')")
        assert await page.evaluate(f"['sma_20', 'bb_upper', 'bb_lower', 'vwap_24'].every((o) => ({TRACE})(o))")
        await page.select_option("#symbol", label="ETHUSDT 1h")
        await until(page, f"({TRACE})('candlestick').name === 'ETHUSDT'")
        assert await page.evaluate(f"({TRACE})('candlestick').close") == stored["close"]["ETHUSDT"]
        assert f"{stored['candles']} candles, 0 decisions" in await page.inner_text("#note")


async def test_decisions_are_marked(world):
    lab, browser, stored = world
    async with visit(lab, browser) as page:
        await page.select_option("#agent", "an-agent")
        await until(page, f"({TRACE})('equity')?.x.length === 100")
        for action, shape in (("buy", "triangle-up"), ("sell", "triangle-down")):
            trace = await page.evaluate(TRACE, action)
            assert len(trace["x"]) == stored["turns"][action] > 0 and trace["marker"]["symbol"] == shape
        drawn = await page.evaluate("document.querySelectorAll('#candles .scatterlayer path.point').length")
        assert drawn == sum(stored["turns"].values())


async def test_relations_are_drawn(world):
    lab, browser, stored = world
    async with visit(lab, browser) as page:
        texts = await page.locator("#relations .textpoint").all_text_contents()
        assert len(texts) == len(stored["nodes"]) and {"BTC", "ETH", "BNB", "XRP"} < set(texts)
        assert "5 edges, 3 snapshots" in await page.inner_text("#when")


async def test_hours_are_utc_wherever_the_reader_is(world):
    lab, browser, _ = world
    async with visit(lab, browser, timezone_id="Asia/Tokyo") as page:
        start, _ = await page.evaluate("document.getElementById('candles')._fullLayout.xaxis.range.map(String)")
    assert start == "2021-05-12 11:30"  # half a candle before the first of 300


async def test_a_late_answer_does_not_replace_a_newer_one(world):
    lab, browser, _ = world
    async with visit(lab, browser) as page:
        held, release = asyncio.Event(), asyncio.Event()

        async def hold(route):
            held.set()
            await release.wait()
            await route.continue_()

        await page.route("**/api/candles*symbol=BTCUSDT*last=120*", hold)
        await page.select_option("#last", "120")
        await asyncio.wait_for(held.wait(), 60)
        await page.select_option("#symbol", label="ETHUSDT 1h")
        await until(page, f"({TRACE})('candlestick').name === 'ETHUSDT'")
        async with page.expect_response(lambda response: "symbol=BTCUSDT" in response.url) as answered:
            release.set()
        await (await answered.value).finished()
        await page.evaluate("fetch('/api/markets').then((o) => o.text())")  # by now the page has seen the answer, too
        assert await page.evaluate(f"({TRACE})('candlestick').name") == "ETHUSDT"


async def test_a_workflow_is_seen_live(world):
    lab, browser, _ = world
    async with visit(lab, browser) as page, Client(lab.url) as client:
        await page.evaluate("window.sameDocument = true")
        await client.start(
            queue_id="seen-live",
            targets=[
                {
                    "target": "dummy-service",
                    "parameters": {"NOOP": "true", "SIMULATE_LOADING": "true", "DUMMY_SECONDS": "0.05"},
                }
            ],
        )
        card = page.locator(".workflow", has_text="seen-live")
        await card.wait_for()
        await page.locator(".workflow.running", has_text="seen-live").wait_for()
        written = (
            "Number([...document.querySelectorAll('.workflow')].find((o) => "
            "o.textContent.includes('seen-live')).querySelectorAll('.target "
            "span')[0].textContent.replace(/[^0-9]/g, ''))"
        )
        first = await until(page, written)
        await until(page, f"{written} > {first}")  # it grows without a reload
        await client.stop("seen-live")
        await page.locator(".workflow.stopped", has_text="seen-live").wait_for()
        assert await page.evaluate("window.sameDocument")


async def fail_with(lab, client: Client, queue_id: str, text: str) -> None:
    "End a workflow with an error that shows `text`: the error is published for a target that has not started yet."
    first, second = f"{queue_id}-1", f"{queue_id}-2"
    targets = [
        {"target": "dummy-service", "telemetry_id": first, "parameters": {"NOOP": True}},
        {"target": "dummy-service", "telemetry_id": second, "after": [first]},
    ]
    await client.start(queue_id=queue_id, targets=targets)
    event = Event(
        queue_id=queue_id, producer=second, status="error", instance="1", seq=1, timestamp=time.time(), message=text
    )
    await lab.bus.publish("queue-events", [Message(encode_control(event), key=queue_id)])
    await client.wait(queue_id, timeout=60, until=lambda flow: flow["targets"][1]["status"] == "error")
    await client.stop(queue_id)
    await client.wait(queue_id, timeout=60)


async def test_hostile_text_stays_text(world):
    lab, browser, _ = world
    async with visit(lab, browser) as page, Client(lab.url) as client:
        await fail_with(lab, client, "hostile", HOSTILE)
        await page.locator(".workflow.error", has_text="hostile").wait_for()
        assert HOSTILE in await page.locator(".workflow.error", has_text="hostile").inner_text()
        await page.select_option("#agent", HOSTILE)
        await until(page, f"({TRACE})('equity')?.x.length === 20")
        await page.locator("#relations .nsewdrag").hover()
        assert await page.locator("img, .workflow b b").count() == 0 and await page.evaluate("window.hurt") is None


async def test_dark_and_light(world):
    lab, browser, _ = world
    async with visit(lab, browser, color_scheme="light") as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        ink = "document.getElementById('candles').layout.font.color"
        light = await page.screenshot(), await page.evaluate(ground), await page.evaluate(ink)
        await page.emulate_media(color_scheme="dark")
        await until(page, f"{ink} !== '{light[2]}'", 5)  # the charts follow, too
        dark = await page.screenshot(), await page.evaluate(ground), await page.evaluate(ink)
    assert all(a != b for a, b in zip(light, dark, strict=True))


@pytest.mark.parametrize("width", [420, 1000])
async def test_nothing_sticks_out(world, width):
    lab, browser, _ = world
    async with Client(lab.url) as client:
        await fail_with(lab, client, f"long-{width}", LONG)
    async with visit(lab, browser, viewport={"width": width, "height": 800}) as page:
        await page.locator(".workflow.error", has_text=LONG).first.wait_for()
        await page.select_option("#agent", "an-agent")
        await until(page, f"({TRACE})('equity')?.x.length === 100")
        seen = (
            "[document.documentElement.scrollWidth, ...[...document.querySelectorAll('section, section *, header "
            "*')].filter((o) => !o.closest('svg')).map((o) => Math.floor(o.getBoundingClientRect().right))]"
        )
        assert max(await page.evaluate(seen)) <= width


MARK = "a-second-market"  # of a collection that has the market of another, too
BOX = "[...document.querySelectorAll('#candles .hoverlayer text')].map((o) => o.textContent).join(' ')"
RANGE = "document.getElementById('candles')._fullLayout.{axis}.range.map(String).join()"


async def pane(page):
    "Where the candles are drawn, in pixels of the page."
    return await page.locator("#candles .nsewdrag").first.bounding_box()


async def hover(page, moment):
    "Move the mouse to a moment, and to the height of its close."
    box = await pane(page)
    x, y = await page.evaluate(
        "(moment) => { const { xaxis, yaxis } = document.getElementById('candles')._fullLayout;"
        f"const o = ({TRACE})('candlestick'); const i = o.x.indexOf(moment); return [xaxis.d2p(moment), yaxis.d2p(o.close[i])]; }}",
        moment,
    )
    await page.mouse.move(box["x"] + x, box["y"] + y)


async def zoom(page):
    "Drag over the first third of the candles, where their prices are."
    box, whole = await pane(page), await page.evaluate(RANGE.format(axis="xaxis"))
    await page.mouse.move(box["x"] + 0.02 * box["width"], box["y"] + 0.02 * box["height"])
    await page.mouse.down()
    await page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.1 * box["height"], steps=4)
    await page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"], steps=4)
    await page.mouse.up()
    await until(page, f"{RANGE.format(axis='xaxis')} !== '{whole}'", 20)
    return whole


VISIBLE = (
    f"(() => {{ const {{ xaxis, yaxis }} = document.getElementById('candles')._fullLayout; const o = ({TRACE})('candlestick');"
    "const [low, high] = xaxis.range.map((t) => xaxis.d2l(t)); return o.x.filter((t, i) => xaxis.d2l(t) > low && "
    "xaxis.d2l(t) < high && o.close[i] > yaxis.range[0] && o.close[i] < yaxis.range[1]).length; })()"
)


async def test_a_zoom_stays_with_what_it_was_made_in(world):
    lab, browser, stored = world
    async with visit(lab, browser) as page:
        assert await page.locator("#reset").is_visible() and await page.locator("#reset").is_disabled()
        whole = await zoom(page)
        near = await page.evaluate(RANGE.format(axis="xaxis"))
        await page.evaluate("refresh()")  # as every ten seconds
        assert await page.evaluate(RANGE.format(axis="xaxis")) == near
        for select, option, drawn in (("#symbol", "ETHUSDT 1h", 300), ("#last", "1000", stored["candles"])):
            await page.select_option(select, label=option)
            await until(page, f"({TRACE})('candlestick').x.length === {drawn} && {VISIBLE} === {drawn}")
            assert await page.locator("#reset").is_disabled()
            await zoom(page)
        await until(page, "!document.getElementById('reset').disabled")
        await page.click("#reset")
        await until(page, f"{VISIBLE} === {stored['candles']} && document.getElementById('reset').disabled")
        await page.select_option("#symbol", label="BTCUSDT 1h")
        await page.select_option("#last", "300")
        await until(page, f"{RANGE.format(axis='xaxis')} === '{whole}'")


async def test_a_zoomed_indicator_does_not_hide_the_next(world):
    lab, browser, _ = world
    async with visit(lab, browser) as page:
        box = await page.locator("#candles .nsdrag[data-subplot='xy2']").bounding_box()
        whole = await page.evaluate(RANGE.format(axis="yaxis2"))
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        await page.mouse.move(x, y)
        await page.mouse.down()
        await page.mouse.move(x, y - 20, steps=4)
        await page.evaluate("window.drawn = document.getElementById('candles').data")
        async with page.expect_response("**/api/candles?*"):  # new data come in the middle of the gesture
            await page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        await page.wait_for_timeout(500)
        await page.mouse.move(x, y - 40, steps=4)
        assert await page.evaluate("window.drawn === document.getElementById('candles').data")  # they wait
        await page.mouse.up()
        await until(page, "window.drawn !== document.getElementById('candles').data", 20)
        await until(page, f"{RANGE.format(axis='yaxis2')} !== '{whole}'", 20)
        await page.select_option("#lower", "log_return")
        await until(page, f"({TRACE})('log_return')")
        low, high = await page.evaluate("document.getElementById('candles')._fullLayout.yaxis2.range")
        values = [value for value in await page.evaluate(f"({TRACE})('log_return').y") if value is not None]
        assert low < min(values) and max(values) < high < low + 2 * (max(values) - min(values))


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_box_says_exactly_what_is_there(world, scheme):
    lab, browser, _ = world
    async with visit(lab, browser, color_scheme=scheme) as page:
        await page.select_option("#agent", "an-agent")
        await until(page, f"({TRACE})('equity')?.x.length === 100")
        candle = await page.evaluate(
            "fetch('/api/candles?collection=candles_1h&symbol=BTCUSDT&interval=1h&last=300').then((o) => o.json())"
        )
        columns, decided = candle["columns"], {d["open_time"] for d in candle["decisions"] if d["agent"] == "an-agent"}
        first = next(n for n, moment in enumerate(columns["open_time"]) if moment in decided)
        for n in (first - 1, first, first + 1):
            moment = await page.evaluate(f"({TRACE})('candlestick').x[{n}]")
            await hover(page, moment)
            text = await until(
                page,
                f"(() => {{ const text = {BOX}; return text.includes('{moment[:10]} {moment[11:16]} UTC') && text; }})()",
            )
            for name in ("open", "high", "low", "close", "volume"):
                assert f"{name} {columns[name][n]!r}".removesuffix(".0") in text
            assert f"rsi_14 {columns['rsi_14'][n]:.7g}" in text and "sma_20" in text and "vwap_24" in text
            assert ("an-agent: " in text) == (n >= first)  # no decision of another hour
        ink, ground = await page.evaluate(
            "[getComputedStyle(document.querySelector('#candles .hoverlayer text')).fill,"
            "getComputedStyle(document.querySelector('#candles .hoverlayer rect.bg')).fill]"
        )
        shade = [sum(map(int, color[4:-1].split(", "))) for color in (ink, ground)]
        assert (shade[0] < 200 and shade[1] > 650) if scheme == "light" else (shade[0] > 600 and shade[1] < 150)
        ticks = await page.locator("#candles .yaxislayer-above .ytick text, #candles .ytick text").all_text_contents()
        assert ticks and not any("k" in tick for tick in ticks)


async def test_a_swipe_on_a_phone_moves_the_page(world):
    lab, browser, _ = world
    phone = {"viewport": {"width": 390, "height": 700}, "has_touch": True, "is_mobile": True}
    async with visit(lab, browser, **phone) as page:
        box, before = await pane(page), await page.evaluate(RANGE.format(axis="xaxis"))
        finger = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        devtools = await page.context.new_cdp_session(page)
        for n in range(11):
            points = [{"x": finger["x"] + 3 * n, "y": finger["y"] - 20 * n}]
            kind = "touchMove" if n else "touchStart"
            await devtools.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        await devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        await until(page, "window.scrollY > 100", 20)
        assert await page.evaluate(RANGE.format(axis="xaxis")) == before
        await page.evaluate("window.scrollTo(0, 0)")
        box = await pane(page)
        await page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        await until(page, f"{BOX}.includes(' UTC')", 20)  # a tap shows what a mouse does


async def test_labels_of_the_graph_are_whole(world):
    lab, browser, stored = world
    for width in (390, 1280):
        async with visit(lab, browser, viewport={"width": width, "height": 800}) as page:
            sticking = await page.evaluate(
                "(() => { const frame = document.getElementById('relations').getBoundingClientRect();"
                "return [...document.querySelectorAll('#relations .textpoint text')].filter((o) => { const box = "
                "o.getBoundingClientRect(); return box.left < frame.left || box.right > frame.right || "
                "box.top < frame.top || box.bottom > frame.bottom; }).map((o) => o.textContent); })()"
            )
            assert sticking == [] and await page.locator("#relations .textpoint text").count() == len(stored["nodes"])


async def test_one_market_in_two_collections_is_told_apart(world):
    lab, browser, _ = world
    labels = "[...document.getElementById('symbol').options].map((o) => o.label)"
    async with visit(lab, browser) as page:
        plain = await page.evaluate(labels)
        assert plain == ["BTCUSDT 1h", "ETHUSDT 1h"]
        answer = await page.evaluate("fetch('/api/markets').then((o) => o.json())")
        more = [*answer, answer[0] | {"collection": MARK}]
        await page.route("**/api/markets", lambda route: route.fulfill(json=more))
        await page.evaluate("refresh()")
        assert await page.evaluate(labels) == ["BTCUSDT 1h in candles_1h", "ETHUSDT 1h", f"BTCUSDT 1h in {MARK}"]


async def test_only_indicators_are_offered(world):
    lab, browser, _ = world
    async with visit(lab, browser) as page:
        offered = await page.evaluate("[...document.getElementById('lower').options].map((o) => o.value)")
        assert offered[0] == "rsi_14" and set(offered) < set(INDICATORS)


async def test_an_empty_page_says_what_to_do(world):
    lab, browser, _ = world
    page = await browser.contexts[0].new_page()
    for path in ("**/api/markets", "**/api/graphs"):
        await page.route(path, lambda route: route.fulfill(json=[]))
    await page.goto(lab.url)
    await page.locator("#empty").wait_for()
    assert "streamforge start BTCUSDT --type api_candles_1h" in await page.inner_text("#empty")
    assert "graph-builder" in await page.inner_text("#when")
    assert not await page.locator("#candles, #relations, #reset, #symbol").locator("visible=true").count()
    await page.unroute_all()
    await page.evaluate("refresh()")  # the first candles have come
    await until(page, "document.getElementById('candles').data?.length && document.getElementById('empty').hidden")
    await page.close()


async def test_a_lost_server_says_what_to_do(world):
    lab, browser, _ = world
    async with visit(lab, browser) as page:
        assert await page.locator("#lost").is_hidden()
    page = await browser.contexts[0].new_page()
    await page.goto(lab.url)
    await page.locator("#link.on").wait_for()
    await page.route("**/api/**", lambda route: route.abort("connectionrefused"))
    await page.evaluate("refresh()")
    await page.locator("#lost").wait_for()
    assert "streamforge up" in await page.inner_text("#lost")
    await page.unroute_all()
    await page.evaluate("refresh()")
    await page.locator("#lost").wait_for(state="hidden")
    await page.close()
