"use strict";
// Reads /api and the WebSocket; draws with plotly. Text from outside goes in by textContent only.
const $ = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const get = async (path) => {
  const answer = await fetch(path).catch(() => { throw Object.assign(new Error("the server does not answer"), { lost: true }); });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({})))?.error?.message || answer.statusText);
  return answer.json();
};
const element = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text ?? "", className: name ?? "" });
const utc = (ms) => new Date(ms).toISOString(); // plotly shows numbers and Date objects in the reader's own zone, texts as they are
const market = ({ exchange, symbol }) => (exchange && exchange !== "binance" ? `${exchange}:${symbol}` : symbol); // as core.names.market_key
const clock = (ms) => `${utc(ms).slice(0, ms % 1000 ? 23 : ms % 60_000 ? 19 : 16).replace("T", " ")} UTC`; // 2021-05-19 13:00 UTC
const exact = (n) => (n == null ? "none" : /e/.test(String(n)) ? n.toFixed(20).replace(/\.?0+$/, "") : String(n)); // all digits, no 30.3k, no 1e-7
const rounded = (n) => (n == null ? "none" : exact(Number(n.toPrecision(7))));
const escaped = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); // plotly reads <b> and <a> in a text
const byTouch = () => matchMedia("(pointer: coarse)").matches; // there a swipe moves the page
const latest = { candles: "", graph: "" }; // what was asked for last

// A drawing that is replaced under the pointer forgets the drag that was begun in it: new data wait until the pointer is released.
let released = Promise.resolve(), release = () => {};
$("candles").addEventListener("pointerdown", () => { release(); released = new Promise((done) => { release = done; }); }, true);
for (const end of ["pointerup", "pointercancel", "blur"]) addEventListener(end, () => setTimeout(() => release())); // after plotly's own mouseup

function layout(more) {
  const axis = { fixedrange: byTouch(), exponentformat: "none", separatethousands: true, gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line") };
  return { paper_bgcolor: css("--panel"), plot_bgcolor: css("--panel"), font: { color: css("--ink"), size: 12 }, margin: { l: 60, r: 12, t: 12, b: 34 }, autosize: true,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, hovermode: "x unified", hoversubplots: "axis", hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--line"), font: { color: css("--ink"), size: 12 } }, dragmode: byTouch() ? false : "zoom", xaxis: { ...axis, type: "date", spikecolor: css("--quiet"), spikethickness: 1, spikedash: "dot", rangeslider: { visible: false } }, yaxis: axis, yaxis2: axis, yaxis3: axis, ...more };
}

function options(select, values, keep) {
  const before = keep ?? select.value;
  if (JSON.stringify([...select.options].map((option) => [option.value, option.label])) === JSON.stringify(values)) return;
  select.replaceChildren(...values.map(([value, label]) => Object.assign(element("option", label), { value })));
  if (values.some(([v]) => v === before)) select.value = before;
}

async function refreshMarkets() {
  const [markets, graphs] = await Promise.all([get("/api/markets"), get("/api/graphs")]);
  const labels = markets.map((m) => `${market(m)} ${m.interval}`);
  const twice = (label) => labels.indexOf(label) !== labels.lastIndexOf(label); // the same market in two collections
  options($("symbol"), markets.map((m, i) => [JSON.stringify([m.collection, m.exchange, m.symbol, m.interval]), twice(labels[i]) ? `${labels[i]} in ${m.collection}` : labels[i]]));
  options($("graph"), graphs.map((g) => [JSON.stringify([g.collection, g.graph]), g.graph]));
}

// What the box says about one candle below its time: its values, the indicators that are drawn, and the agent's decision on it.
function describe(columns, i, shown, decision) {
  const prices = [["open", "high"], ["low", "close"], ["volume"]].map((names) => names.map((name) => `${name} ${exact(columns[name][i])}`).join(", "));
  const lines = [...prices, ...shown.map((name) => `${escaped(name)} ${rounded(columns[name][i])}`)];
  if (columns.filled?.[i]) lines.push("filled in: the exchange has no such candle");
  if (decision) lines.push(`${escaped(decision.agent)}: ${decision.action}, position ${rounded(decision.position)}, equity ${rounded(decision.equity)}`);
  return lines.join("<br>");
}

function showEmpty(empty) {
  $("empty").hidden = !empty;
  $("candles").hidden = empty;
  $("market").classList.toggle("none", empty);
}

let resets = 0;
async function drawCandles() {
  showEmpty(!$("symbol").value);
  if (!$("symbol").value) { $("note").textContent = ""; return; }
  const [collection, exchange, symbol, interval] = JSON.parse($("symbol").value);
  const query = new URLSearchParams({ collection, exchange, symbol, interval, last: $("last").value });
  const asked = (latest.candles = query.toString());
  const { columns, decisions, overlays, panels } = await get(`/api/candles?${query}`);
  await released;
  if (latest.candles !== asked) return; // another choice was made while this answer was on its way
  options($("lower"), panels.map((name) => [name, name]), $("lower").value);
  const agents = [...new Set(decisions.map((d) => d.agent))].sort();
  options($("agent"), agents.map((name) => [name, name]));
  const x = columns.open_time.map(utc);
  const lower = $("lower").value;
  const mine = decisions.filter((d) => d.agent === $("agent").value).sort((a, b) => a.open_time - b.open_time);
  const decided = new Map(mine.map((d) => [d.open_time, d]));
  const shown = [...overlays, ...(lower ? [lower] : [])];
  const text = columns.open_time.map((ms, i) => describe(columns, i, shown, decided.get(ms)));
  // One line per pane carries the box; without it, plotly lists for each trace the nearest point that it has, however far away.
  const boxed = { text, hovertemplate: "%{text}<extra></extra>" };
  const quiet = { hoverinfo: "skip" };
  const traces = [{ type: "candlestick", name: market({ exchange, symbol }), x, open: columns.open, high: columns.high, low: columns.low, close: columns.close, ...quiet,
    increasing: { line: { color: css("--good"), width: 1 } }, decreasing: { line: { color: css("--bad"), width: 1 } } }];
  overlays.forEach((name) => traces.push({ type: "scatter", mode: "lines", name, x, y: columns[name], line: { width: 1 }, opacity: 0.8, ...quiet }));
  if (lower) traces.push({ type: "scatter", mode: "lines", name: lower, x, y: columns[lower], yaxis: "y2", line: { width: 1.2, color: css("--accent") }, ...quiet });
  const price = new Map(columns.open_time.map((ms, i) => [ms, columns.close[i]]));
  const turns = mine.filter((d) => (d.action === "buy" && d.position < 0.5) || (d.action === "sell" && d.position > 0.5));
  for (const [action, shape, color] of [["buy", "triangle-up", "--good"], ["sell", "triangle-down", "--bad"]]) {
    const these = turns.filter((d) => d.action === action && price.has(d.open_time));
    traces.push({ type: "scatter", mode: "markers", name: action, x: these.map((d) => utc(d.open_time)), y: these.map((d) => price.get(d.open_time)), ...quiet,
      visible: mine.length > 0, marker: { symbol: shape, size: 11, color: css(color), line: { width: 1, color: css("--panel") } } });
  }
  if (mine.length) traces.push({ type: "scatter", mode: "lines", name: "equity", x: mine.map((d) => utc(d.open_time)), y: mine.map((d) => d.equity), yaxis: "y3", line: { width: 1.2 }, ...quiet });
  traces.push({ type: "scatter", mode: "lines", name: "box", x, y: columns.close, line: { width: 0 }, showlegend: false, ...boxed });
  const panes = [mine.length ? "y3" : "", lower ? "y2" : "", "y"].filter(Boolean); // from below
  const domains = { 1: { y: [0, 1] }, 2: { [panes[0]]: [0, 0.24], y: [0.28, 1] }, 3: { y3: [0, 0.17], y2: [0.2, 0.37], y: [0.4, 1] } }[panes.length];
  const base = layout({ margin: { l: 64, r: 12, t: 40, b: 34 } });
  const revision = JSON.stringify([asked, resets]); // a zoom lives as long as what it was made in
  const pane = (name, axis, more) => ({ ...axis, domain: domains[name] ?? [0, 0.01], visible: name in domains, uirevision: revision + more });
  Plotly.react("candles", traces, { ...base, uirevision: revision, xaxis: { ...base.xaxis, anchor: panes[0], hoverformat: columns.open_time.some((ms) => ms % 60_000) ? "%Y-%m-%d %H:%M:%S UTC" : "%Y-%m-%d %H:%M UTC" }, yaxis: pane("y", base.yaxis, ""),
    yaxis2: pane("y2", base.yaxis2, lower), yaxis3: pane("y3", base.yaxis3, $("agent").value) }, { responsive: true, displayModeBar: false });
  watchZoom();
  $("note").textContent = `${columns.open_time.length} candles, ${mine.length} decisions, last ${clock(columns.open_time.at(-1))}`;
}

function watchZoom() {
  const plot = $("candles");
  const mark = () => { $("reset").disabled = ["xaxis", "yaxis", "yaxis2", "yaxis3"].every((name) => plot.layout[name].autorange !== false); };
  if (!plot.watched) { plot.watched = true; plot.on("plotly_relayout", mark); }
  mark();
}

// A node's label: without the usual quote currency, and not longer than the drawing can take; the box has the whole name.
const short = (node) => { const name = node.replace(/USDT$/, "") || node; return name.length > 14 ? `${name.slice(0, 13)}…` : name; };

async function drawGraph() {
  $("relations").hidden = !$("graph").value;
  if (!$("graph").value) { $("when").replaceChildren("none yet: ", element("code", "streamforge worker graph-builder --help"), " says how one is made of stored candles"); return; }
  const [collection, name] = JSON.parse($("graph").value);
  const asked = (latest.graph = $("graph").value);
  const graph = await get(`/api/graph?${new URLSearchParams({ collection, graph: name })}`);
  if (latest.graph !== asked) return;
  const angle = (i) => (2 * Math.PI * i) / graph.nodes.length;
  const at = new Map(graph.nodes.map((node, i) => [node, [Math.cos(angle(i)), Math.sin(angle(i))]]));
  const lines = graph.edges.map((edge) => ({ type: "scatter", mode: "lines", hoverinfo: "skip", x: [at.get(edge.source)[0], at.get(edge.target)[0]], y: [at.get(edge.source)[1], at.get(edge.target)[1]],
    line: { width: 0.5 + 4 * Math.abs(edge.weight), color: edge.weight >= 0 ? css("--accent") : css("--bad") }, opacity: 0.35 }));
  const about = (node) => graph.edges.filter((e) => e.source === node || e.target === node).map((e) => `<br>${escaped(e.source === node ? e.target : e.source)} ${e.weight.toFixed(2)}`);
  const side = (node) => { const [a, b] = at.get(node); return Math.abs(a) < 0.3 ? (b > 0 ? "top center" : "bottom center") : a > 0 ? "middle right" : "middle left"; };
  const dots = { type: "scatter", mode: "markers+text", cliponaxis: false, x: graph.nodes.map((n) => at.get(n)[0]), y: graph.nodes.map((n) => at.get(n)[1]), text: graph.nodes.map((n) => escaped(short(n))),
    textposition: graph.nodes.map(side), hovertext: graph.nodes.map((n) => `<b>${escaped(n)}</b>${about(n).slice(0, 20).join("")}`), hoverinfo: "text", marker: { size: 12, color: css("--ink") } };
  // The labels stand outside of the circle: their width in pixels is taken off what the circle gets.
  const label = 10 + 7.5 * Math.max(...graph.nodes.map((n) => short(n).length));
  const wide = $("relations").clientWidth, high = $("relations").clientHeight;
  const bare = (length, taken) => ({ visible: false, fixedrange: true, type: "linear", range: [-1, 1].map((end) => (end * length) / Math.max(length - 2 * taken, length / 4)) });
  Plotly.react("relations", [...lines, dots], layout({ showlegend: false, hovermode: "closest", dragmode: false, xaxis: bare(wide, label), yaxis: bare(high, 28), margin: { l: 0, r: 0, t: 0, b: 0 } }), { responsive: true, displayModeBar: false });
  $("when").textContent = `correlations known at ${clock(graph.open_time)}, ${graph.edges.length} edges, ${graph.times.length} snapshots`;
}

const workflows = new Map();
const none = $("workflows").firstElementChild;
function drawWorkflows() {
  const cards = [...workflows.values()].sort((a, b) => b.created - a.created).map((flow) => {
    const card = element("div", "", `workflow ${flow.status}`);
    card.append(element("h3", flow.queue_id), element("p", flow.message ? `${flow.status}: ${flow.message}` : flow.status, "quiet"));
    flow.targets.forEach((target) => {
      const row = element("div", "", "target");
      row.append(element("b", flow.targets.length > 3 && target.symbol && !target.symbol.includes(",") ? `${target.target} ${market(target)}` : target.target), element("span", target.records_written ? target.records_written.toLocaleString() : ""), element("span", target.status, target.status));
      row.title = target.message || target.telemetry_id;
      card.append(row);
    });
    return card;
  });
  $("workflows").replaceChildren(...(cards.length ? cards : [none.cloneNode(true)]));
}

let scheduled = false, lastWrite = 0;
function soon() {
  if (scheduled) return;
  scheduled = true;
  setTimeout(async () => { scheduled = false; drawWorkflows(); if (Date.now() - lastWrite > 2000) { lastWrite = Date.now(); await refresh(); } }, 250);
}

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/events`);
  socket.onopen = () => { $("link").className = "on"; $("link").textContent = "live"; if (!$("lost").hidden) refresh(); };
  socket.onmessage = (message) => { const event = JSON.parse(message.data); if (event.kind === "workflow") workflows.set(event.workflow.queue_id, event.workflow); soon(); };
  socket.onclose = () => { $("link").className = "off"; $("link").textContent = "reconnecting"; refresh(); setTimeout(connect, 1000 + Math.random() * 1000); };
}

async function refresh() {
  try { await refreshMarkets(); await drawCandles(); await drawGraph(); $("lost").hidden = true; } catch (error) { show(error); }
}
const show = (error) => { if (error.lost) $("lost").hidden = false; else $("note").textContent = error.message; };
for (const id of ["symbol", "last", "lower", "agent"]) $(id).addEventListener("change", () => drawCandles().catch(show));
$("graph").addEventListener("change", () => drawGraph().catch(show));
$("reset").addEventListener("click", () => { resets += 1; drawCandles().catch(show); });
for (const query of ["(prefers-color-scheme: dark)", "(pointer: coarse)"]) matchMedia(query).addEventListener("change", refresh);
document.addEventListener("visibilitychange", () => { if (!document.hidden) refresh(); });
connect();
refresh();
setInterval(() => { if (!document.hidden) refresh(); }, 10000); // a hidden page asks for nothing
