"use strict";
// Reads /api and the WebSocket; draws with plotly. Text from outside goes in by textContent only.
const $ = (id) => document.getElementById(id);
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const get = async (path) => {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({})))?.error?.message || answer.statusText);
  return answer.json();
};
const element = (tag, text, name) => Object.assign(document.createElement(tag), { textContent: text ?? "", className: name ?? "" });
const utc = (ms) => new Date(ms).toISOString(); // plotly shows numbers and Date objects in the reader's own zone, texts as they are
const market = ({ exchange, symbol }) => (exchange && exchange !== "binance" ? `${exchange}:${symbol}` : symbol); // as core.names.market_key
const latest = { candles: "", graph: "" }; // what was asked for last

function layout(more) {
  const axis = { gridcolor: css("--line"), zerolinecolor: css("--line"), linecolor: css("--line") };
  return { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: css("--ink"), size: 12 }, margin: { l: 60, r: 12, t: 12, b: 34 }, autosize: true,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom" }, hovermode: "x unified", uirevision: "keep", xaxis: { ...axis, type: "date", rangeslider: { visible: false } }, yaxis: axis, yaxis2: axis, yaxis3: axis, ...more };
}

function options(select, values, keep) {
  const before = keep ?? select.value;
  if ([...select.options].map((o) => o.value).join() === values.map(([v]) => v).join()) return;
  select.replaceChildren(...values.map(([value, label]) => Object.assign(element("option", label), { value })));
  if (values.some(([v]) => v === before)) select.value = before;
}

async function refreshMarkets() {
  const [markets, graphs] = await Promise.all([get("/api/markets"), get("/api/graphs")]);
  options($("symbol"), markets.map((m) => [JSON.stringify([m.collection, m.exchange, m.symbol, m.interval]), `${market(m)} ${m.interval}`]));
  options($("graph"), graphs.map((g) => [JSON.stringify([g.collection, g.graph]), g.graph]));
}

async function drawCandles() {
  if (!$("symbol").value) { $("note").textContent = "no candles stored yet"; return; }
  const [collection, exchange, symbol, interval] = JSON.parse($("symbol").value);
  const query = new URLSearchParams({ collection, exchange, symbol, interval, last: $("last").value });
  const asked = (latest.candles = query.toString());
  const { columns, decisions, overlays, panels } = await get(`/api/candles?${query}`);
  if (latest.candles !== asked) return; // another choice was made while this answer was on its way
  options($("lower"), panels.map((name) => [name, name]), $("lower").value);
  const agents = [...new Set(decisions.map((d) => d.agent))].sort();
  options($("agent"), agents.map((name) => [name, name]));
  const x = columns.open_time.map(utc);
  const traces = [{ type: "candlestick", name: symbol, x, open: columns.open, high: columns.high, low: columns.low, close: columns.close,
    increasing: { line: { color: css("--good"), width: 1 } }, decreasing: { line: { color: css("--bad"), width: 1 } } }];
  overlays.forEach((name) => traces.push({ type: "scatter", mode: "lines", name, x, y: columns[name], line: { width: 1 }, opacity: 0.8 }));
  if ($("lower").value) traces.push({ type: "scatter", mode: "lines", name: $("lower").value, x, y: columns[$("lower").value], yaxis: "y2", line: { width: 1.2, color: css("--accent") } });
  const price = new Map(columns.open_time.map((ms, i) => [ms, columns.close[i]]));
  const mine = decisions.filter((d) => d.agent === $("agent").value).sort((a, b) => a.open_time - b.open_time);
  const turns = mine.filter((d) => (d.action === "buy" && d.position < 0.5) || (d.action === "sell" && d.position > 0.5));
  for (const [action, shape, color] of [["buy", "triangle-up", "--good"], ["sell", "triangle-down", "--bad"]]) {
    const these = turns.filter((d) => d.action === action && price.has(d.open_time));
    traces.push({ type: "scatter", mode: "markers", name: action, x: these.map((d) => utc(d.open_time)), y: these.map((d) => price.get(d.open_time)),
      marker: { symbol: shape, size: 11, color: css(color), line: { width: 1, color: css("--panel") } } });
  }
  if (mine.length) traces.push({ type: "scatter", mode: "lines", name: "equity", x: mine.map((d) => utc(d.open_time)), y: mine.map((d) => d.equity), yaxis: "y3", line: { width: 1.2 } });
  const domains = mine.length ? [[0.4, 1], [0.2, 0.37], [0, 0.17]] : [[0.28, 1], [0, 0.24], [0, 0.01]];
  const base = layout({ margin: { l: 60, r: 12, t: 40, b: 34 } });
  base.xaxis = { ...base.xaxis, anchor: mine.length ? "y3" : "y2" };
  Plotly.react("candles", traces, { ...base, yaxis: { ...base.yaxis, domain: domains[0] }, yaxis2: { ...base.yaxis2, domain: domains[1] }, yaxis3: { ...base.yaxis3, domain: domains[2], visible: mine.length > 0 } },
    { responsive: true, displayModeBar: false });
  $("note").textContent = `${columns.open_time.length} candles, ${mine.length} decisions, last ${x.at(-1).slice(0, 16)} UTC`;
}

async function drawGraph() {
  if (!$("graph").value) { $("when").textContent = "no relation graph yet"; return; }
  const [collection, name] = JSON.parse($("graph").value);
  const asked = (latest.graph = $("graph").value);
  const graph = await get(`/api/graph?${new URLSearchParams({ collection, graph: name })}`);
  if (latest.graph !== asked) return;
  const at = new Map(graph.nodes.map((node, i) => [node, [Math.cos((2 * Math.PI * i) / graph.nodes.length), Math.sin((2 * Math.PI * i) / graph.nodes.length)]]));
  const lines = graph.edges.map((edge) => ({ type: "scatter", mode: "lines", hoverinfo: "none", x: [at.get(edge.source)[0], at.get(edge.target)[0]], y: [at.get(edge.source)[1], at.get(edge.target)[1]],
    line: { width: 0.5 + 4 * Math.abs(edge.weight), color: edge.weight >= 0 ? css("--accent") : css("--bad") }, opacity: 0.35 }));
  const dots = { type: "scatter", mode: "markers+text", x: graph.nodes.map((n) => at.get(n)[0]), y: graph.nodes.map((n) => at.get(n)[1]), text: graph.nodes.map((n) => n.replace(/USDT$/, "")),
    textposition: "top center", hovertext: graph.nodes.map((n) => `${n}: ${graph.edges.filter((e) => e.source === n).map((e) => `${e.target} ${e.weight.toFixed(2)}`).join(", ")}`), hoverinfo: "text",
    marker: { size: 14, color: css("--ink") } };
  const bare = { visible: false, type: "linear", range: [-1.35, 1.35] };
  Plotly.react("relations", [...lines, dots], layout({ showlegend: false, hovermode: "closest", xaxis: bare, yaxis: bare, margin: { l: 4, r: 4, t: 4, b: 4 } }), { responsive: true, displayModeBar: false });
  $("when").textContent = `correlations known at ${utc(graph.open_time).slice(0, 16)} UTC, ${graph.edges.length} edges, ${graph.times.length} snapshots`;
}

const workflows = new Map();
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
  $("workflows").replaceChildren(...(cards.length ? cards : [element("p", "none yet", "quiet")]));
}

let scheduled = false, lastWrite = 0;
function soon() {
  if (scheduled) return;
  scheduled = true;
  setTimeout(async () => { scheduled = false; drawWorkflows(); if (Date.now() - lastWrite > 2000) { lastWrite = Date.now(); await refresh(); } }, 250);
}

function connect() {
  const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/events`);
  socket.onopen = () => { $("link").className = "on"; $("link").textContent = "live"; };
  socket.onmessage = (message) => { const told = JSON.parse(message.data); if (told.kind === "workflow") workflows.set(told.workflow.queue_id, told.workflow); soon(); };
  socket.onclose = () => { $("link").className = "off"; $("link").textContent = "reconnecting"; setTimeout(connect, 1000 + Math.random() * 1000); };
}

async function refresh() {
  try { await refreshMarkets(); await drawCandles(); await drawGraph(); } catch (error) { say(error); }
}
const say = (error) => { $("note").textContent = error.message; };
for (const id of ["symbol", "last", "lower", "agent"]) $(id).addEventListener("change", () => drawCandles().catch(say));
$("graph").addEventListener("change", () => drawGraph().catch(say));
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", refresh);
connect();
refresh();
setInterval(refresh, 10000);
