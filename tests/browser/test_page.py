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
